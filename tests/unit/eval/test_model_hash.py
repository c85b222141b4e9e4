"""Which weights a result is of."""

from __future__ import annotations

import pytest

from unimedvl.eval.model_hash import weights_hash


@pytest.mark.parametrize("whole", [1 << 30, 0], ids=["read whole", "sampled"])
def test_other_weights_sizes_names_and_uses_are_other_models(tmp_path, whole):
    def made(name, content, use=b"{}"):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / name).write_bytes(content)
        (folder / "unimedvl_inference.json").write_bytes(use)
        (folder / "README.md").write_bytes(folder.name.encode())  # words change nothing
        return weights_hash(folder, whole)

    content = bytes(range(256)) * 1024
    first = made("ema.safetensors", content)
    assert first == made("ema.safetensors", content)
    assert len(first) == 16
    others = [
        made("ema.safetensors", content[:-1] + b"\0"),
        made("ema.safetensors", b"\1" + content[1:]),
        made("ema.safetensors", content + content),
        made("model.safetensors", content),
        made("ema.safetensors", content, b'{"dtype": null}'),
    ]
    assert len({first, *others}) == 6
