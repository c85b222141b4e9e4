"""The stage that trains an autoencoder: it learns, is exact when it goes on, and refuses what cannot work."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from unimedvl.config import VaeConfig
from unimedvl.errors import CheckpointError, ConfigError, DataError
from unimedvl.model.weights import open_autoencoder
from unimedvl.processor import normalized
from unimedvl.settings import build
from unimedvl.train.autoencoder import AutoencoderSettings, _Run, train_autoencoder
from unimedvl.train.autoencoder_data import Crops, read_pixels
from unimedvl.train.autoencoder_validation import psnr, validate

CONFIG = VaeConfig(8, (1, 2), num_res_blocks=1, latent_channels=4, norm_groups=4)
LIMITS: dict[str, Any] = {"what": "files", "max_side": 64, "min_side": 16, "max_gib": 1.0, "max_bad": 0.05}


def picture(number: int, size: tuple[int, int]) -> Image.Image:
    """A smooth colored pattern."""
    rows, columns = np.mgrid[: size[1], : size[0]] / 8
    waves = [np.sin(rows * (1 + number % 3) + channel) * np.cos(columns + number) for channel in range(3)]
    return Image.fromarray(((np.stack(waves, 2) + 1) * 127).astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "held": []}
    for number in range(8):
        name = f"{number}.png"
        picture(number, (24, 16) if number % 2 else (32, 32)).save(tmp_path / name)
        edit = {"main_task_type": "edit", "input_img": [{"path": "0.png"}], "output_img": [{"path": name}]}
        message = [{"from": "human", "value": "Change it."}]
        rows["held" if number > 5 else "train"].append(
            {**edit, "message": message, "modality": ("CT", "MRI")[number % 2]}
        )
    for name, lines in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.fixture
def settings(folder: Path) -> AutoencoderSettings:
    return AutoencoderSettings(
        files=(str(folder / "train.jsonl"),), validation_files=(str(folder / "held.jsonl"),), steps=8, batch_size=2,
        crop=16, warmup=2, log_every=2, save_every=3, validate_every=4, learning_rate=3e-3, precision="fp32",
    )  # fmt: skip


def rows_of(out: Path) -> list[dict[str, Any]]:
    """Rows of the metrics, without what depends on the clock."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "images_per_s"} for row in rows]


def cut_off(after: int) -> Callable[[_Run], None]:
    """A step that raises instead of the one after ``after``."""
    whole = _Run._one_step

    def step(run: _Run) -> None:
        if run.step == after:
            raise KeyboardInterrupt
        whole(run)

    return step


def test_it_learns_and_writes_what_the_model_reads(settings, folder, tmp_path):
    final = train_autoencoder(replace(settings, steps=60, validate_every=20), CONFIG, tmp_path / "out")
    found = [row["psnr"] for row in rows_of(tmp_path / "out") if "psnr" in row]
    losses = [row["loss"] for row in rows_of(tmp_path / "out") if "loss" in row]
    assert losses[-1] < 0.75 * losses[0]
    assert found[-1] > found[0] + 0.5
    config = build(VaeConfig, json.loads((final / "vae_config.json").read_text()), "vae")
    assert replace(config, scale_factor=CONFIG.scale_factor, shift_factor=CONFIG.shift_factor) == CONFIG
    autoencoder = open_autoencoder(final, config)
    names = [folder / f"{number}.png" for number in range(6)]
    latents = torch.cat([autoencoder.encode(normalized(Image.open(name))[None]).flatten() for name in names])
    assert latents.mean().abs() < 1e-3  # all images are measured, in float32
    assert abs(latents.std().item() - 1) < 1e-3
    (last,) = [row for row in rows_of(tmp_path / "out") if row["step"] == 60 and "psnr" in row]
    held = read_pixels(settings.validation_files, CONFIG, **{**LIMITS, "min_side": 2})
    assert validate(autoencoder, held).psnr == pytest.approx(last["psnr"], abs=1e-3)
    assert last["psnr_by_modality"].keys() == {"CT", "MRI"}
    # Two pairs of 32 x 32 or less and their captions, and the image that both rows mention first.
    assert Image.open(tmp_path / "out" / "grids" / "step-0000060.png").width > 3 * 64


def test_a_run_depends_on_its_settings_alone(settings, tmp_path):
    states = [torch.random.get_rng_state()]
    finals = [load_file(train_autoencoder(settings, CONFIG, tmp_path / name) / "ae.safetensors") for name in "ab"]
    assert torch.equal(states[0], torch.random.get_rng_state())
    torch.testing.assert_close(finals[0], finals[1], rtol=0, atol=0)
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    other = load_file(train_autoencoder(replace(settings, seed=1), CONFIG, tmp_path / "c") / "ae.safetensors")
    assert any(not torch.equal(other[name], tensor) for name, tensor in finals[0].items())


@pytest.mark.parametrize("after", [1, 3, 5, 7])
def test_a_run_that_is_cut_off_goes_on_exactly(settings, tmp_path, monkeypatch, after):
    whole = train_autoencoder(settings, CONFIG, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(_Run, "_one_step", cut_off(after))
        with pytest.raises(KeyboardInterrupt):
            train_autoencoder(settings, CONFIG, tmp_path / "cut")
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": ')  # a row that was being written
    again = train_autoencoder(settings, CONFIG, tmp_path / "cut")
    for name in ("ae.safetensors", "vae_config.json"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")
    assert train_autoencoder(settings, CONFIG, tmp_path / "cut") == again


def test_sigterm_saves_and_leaves(settings, tmp_path, monkeypatch):
    whole = train_autoencoder(settings, CONFIG, tmp_path / "whole")
    before, step = signal.getsignal(signal.SIGTERM), _Run._one_step

    def told(run: _Run) -> None:
        step(run)
        if run.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(_Run, "_one_step", told)
        with pytest.raises(SystemExit) as left:
            train_autoencoder(settings, CONFIG, tmp_path / "out")
    assert left.value.code == 0
    assert signal.getsignal(signal.SIGTERM) is before
    assert torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["step"] == 4
    again = train_autoencoder(settings, CONFIG, tmp_path / "out")
    assert (again / "ae.safetensors").read_bytes() == (whole / "ae.safetensors").read_bytes()


def test_bf16_and_other_losses_learn(settings, tmp_path):
    changed = replace(settings, precision="bf16", l1_weight=0.5, l2_weight=1.0, edge_weight=0.5, schedule="constant")
    train_autoencoder(replace(changed, steps=30, validation_files=()), CONFIG, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["lr"] == settings.learning_rate
    assert not (tmp_path / "out" / "grids").exists()
    first = rows[0]
    parts = 0.5 * first["l1"] + first["l2"] + 0.5 * first["edge"] + 1e-6 * first["kl"]
    assert first["loss"] == pytest.approx(parts, rel=1e-5)


def test_steps_that_are_not_finite_change_nothing_until_there_are_too_many(settings, tmp_path, monkeypatch):
    crops = Crops.batch

    def broken(self: Crops, step: int) -> torch.Tensor:
        return crops(self, step) * (math.nan if step in (2, 3) else 1)

    monkeypatch.setattr(Crops, "batch", broken)
    final = train_autoencoder(replace(settings, max_skips=2), CONFIG, tmp_path / "borne")
    assert all(tensor.isfinite().all() for tensor in load_file(final / "ae.safetensors").values())
    logged = [row for row in rows_of(tmp_path / "borne") if "lr" in row]
    assert [row["skipped"] for row in logged] == [0, 2, 2, 2]
    assert "loss" not in logged[1]
    with pytest.raises(ConfigError, match="2 steps had a loss or gradient that is not finite, the last step 4"):
        train_autoencoder(replace(settings, max_skips=1), CONFIG, tmp_path / "stopped")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"kl_weight": -1.0}, "kl_weight"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": (0.9,)}, "betas"),
        ({"schedule": "linear"}, "use one of constant, cosine"),
        ({"precision": "fp16"}, "use one of bf16, fp32"),
        ({"l1_weight": 0.0}, "nothing is reconstructed"),
        ({"crop": 2048}, "give at most max_side"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_that_cannot_work(changes, words):
    with pytest.raises(ConfigError, match=words):
        AutoencoderSettings(**changes)


def test_the_learning_rate_rises_and_falls():
    settings = AutoencoderSettings(steps=110, warmup=10, learning_rate=1.0)
    assert [settings.rate(step) for step in (0, 9, 10, 60)] == pytest.approx([0.1, 1, 1, 0.5])
    assert 0 < settings.rate(109) < 1e-3


def test_folders_of_other_runs_are_refused(settings, folder, tmp_path):
    out = tmp_path / "out"
    train_autoencoder(settings, CONFIG, out)
    with pytest.raises(CheckpointError, match="holds a run"):
        train_autoencoder(settings, CONFIG, out, resume=False)
    with pytest.raises(CheckpointError, match="differs in learning_rate, steps|differs in steps, learning_rate"):
        train_autoencoder(replace(settings, steps=9, learning_rate=1e-4, log_every=1), CONFIG, out)
    with pytest.raises(CheckpointError, match="differs in config"):
        train_autoencoder(settings, replace(CONFIG, latent_channels=3), out)
    picture(5, (32, 32)).save(folder / "3.png")
    with pytest.raises(CheckpointError, match="differs in images"):
        train_autoencoder(settings, CONFIG, out)
    (out / "checkpoint.pt").write_bytes((out / "checkpoint.pt").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        train_autoencoder(settings, CONFIG, out)
    (out / "checkpoint.pt").unlink()
    with pytest.raises(CheckpointError, match="without a checkpoint"):
        train_autoencoder(settings, CONFIG, out)


def test_data_that_cannot_work(settings, folder, tmp_path):
    with pytest.raises(ConfigError, match="no data files"):
        train_autoencoder(AutoencoderSettings(crop=16), CONFIG, tmp_path / "out")
    with pytest.raises(ConfigError, match="give a multiple"):
        train_autoencoder(replace(settings, crop=17), CONFIG, tmp_path / "out")
    with pytest.raises(DataError, match="no such data file"):
        train_autoencoder(replace(settings, files=("absent.jsonl",)), CONFIG, tmp_path / "out")
    with pytest.raises(ConfigError, match="GiB"):
        train_autoencoder(replace(settings, max_gib=1e-6), CONFIG, tmp_path / "out")
    for number in range(6):
        (folder / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="6 of 6 rows and images cannot be used: 6 damaged image; the first"):
        train_autoencoder(settings, CONFIG, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="no usable image"):
        read_pixels([str(folder / "train.jsonl")], CONFIG, **{**LIMITS, "max_bad": 1.0})


def test_every_image_is_read_once_and_made_to_fit(folder, caplog):
    found = read_pixels([str(folder / "train.jsonl")], CONFIG, **LIMITS)
    assert found.modalities == ("CT", "MRI", "CT", "MRI", "CT", "MRI")
    assert {tuple(image.shape) for image in found.images} == {(3, 32, 32), (3, 16, 24)}
    picture(0, (100, 40)).save(folder / "0.png")
    picture(1, (8, 10)).save(folder / "1.png")
    picture(2, (200, 6)).save(folder / "2.png")  # too narrow for a crop of 16 under a longest side of 64
    with caplog.at_level("WARNING"):
        found = read_pixels([str(folder / "train.jsonl")], CONFIG, **{**LIMITS, "max_bad": 0.2})
    assert "1 of 6 rows and images cannot be used: 1 narrow image" in caplog.text
    assert [tuple(image.shape[1:]) for image in found.images] == [(26, 64), (20, 16), (16, 24), (32, 32), (16, 24)]
    assert len(found.some(3)) == 3
    assert found.some(9) == found


def test_crops_are_of_seed_and_step_and_each_image_comes_once_an_epoch(folder):
    found = read_pixels([str(folder / "train.jsonl")], CONFIG, **LIMITS)
    # Mark each image by its own gray.
    marked = replace(found, images=tuple(torch.full_like(image, n) for n, image in enumerate(found.images)))
    crops = Crops(marked, 16, 2, seed=3)
    epochs = [torch.cat([crops.batch(3 * epoch + step) for step in range(3)])[:, 0, 0, 0] for epoch in range(4)]
    grays = [((epoch + 1) * 127.5).round().int().tolist() for epoch in epochs]
    assert all(sorted(epoch) == list(range(6)) for epoch in grays)
    assert len({tuple(epoch) for epoch in grays}) > 1
    ours, again = Crops(found, 16, 2, seed=3), Crops(found, 16, 2, seed=3)
    assert torch.equal(ours.batch(7), again.batch(7))
    assert torch.equal(ours.eps(7, (2, 3)), again.eps(7, (2, 3)))
    assert not torch.equal(ours.eps(7, (2, 3)), ours.eps(8, (2, 3)))
    assert not torch.equal(ours.batch(7), Crops(found, 16, 2, seed=4).batch(7))


def test_psnr_by_hand():
    first = torch.zeros(3, 2, 2, dtype=torch.uint8)
    assert psnr(first, first) == 100
    assert psnr(first, first + 255) == 0
    assert psnr(first, first + 10) == pytest.approx(20 * math.log10(25.5))


def test_settings_survive_json():
    settings = AutoencoderSettings(files=("a.jsonl",), betas=(0.5, 0.9))
    assert build(AutoencoderSettings, json.loads(json.dumps(asdict(settings))), "settings") == settings
