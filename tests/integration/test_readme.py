"""Every command of the README runs, in its order: on the bundled nano model in place of the 14 B one, in a few steps,
and with stand-ins for the cluster that hand what the launchers start to a dry run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
LIMIT = 400  # seconds for one command on a busy machine
SLOW = (
    "scripts/demo.sh",
    "scripts/train_bundled.sh",
    "scripts/train_curriculum.sh",
    "python -m unimedvl.eval benchmark=mini",  # which the demo runs too
    "torchrun",
    "python -m unimedvl.eval benchmark=generation",
    "python -m unimedvl.eval benchmark=efficiency",
)
STANDINS = {
    "accelerate": """while [ "$1" != unimedvl.train ]; do [ "$1" = --num_processes ] && gpus=$2; shift; done
        shift; exec python -m unimedvl.train "$@" dry_run=true "gpus=$gpus\"""",
    "nvidia-smi": "seq 8",
    "ssh": 'exec bash -c "${@: -1}"',
    "sbatch": 'while [[ "$1" != *.sh ]]; do shift; done; exec bash "$@"',
    "srun": 'exec "$@"',
    "scontrol": "echo one",
    # No test reaches the network: the extras that are named must exist, and the file must be one.
    "pip": 'exec python -c "import sys; from tests.integration.test_readme import extras; extras(sys.argv[-1])" "$@"',
}


def commands() -> list[str]:
    """Of every bash block, continued lines joined, comments left out."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = []
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+#.*", "", line).strip()
            if command:
                lines.append(command)
    return list(dict.fromkeys(lines))


def extras(words: str) -> None:
    """Refuse an extra that pyproject.toml does not have."""
    known = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name in re.search(r"\[(.+)\]", words).group(1).split(","):  # pyright: ignore[reportOptionalMemberAccess]
        assert re.search(rf"^{name} = \[", known, re.MULTILINE), name


# What shortens a command: a pattern in it, and further words.
SHORTER = (
    (r"^scripts/test.sh", "--collect-only -q tests/unit/test_errors.py"),
    (r"unimedvl.infer", "--max-new-tokens 4"),
    (r"infer\s+(t2i|edit|batch)", "--steps 3"),
    (r"stage=autoencoder", "autoencoder.steps=2 autoencoder.batch_size=2 autoencoder.validation_images=2"),
    (r"unimedvl.eval benchmark=mini", "limit=2 drawings=1 seeds=1 batches=1"),
    (r"unimedvl.eval benchmark=(?!mini|eff)", "limit=4 infer.t2i.steps=3 infer.edit.steps=3"),
    (r"unimedvl.eval benchmark=efficiency", "repeats=2 tokens=4 steps=3"),
    (r"unimedvl.data curate",
     "'sources=[{reader: records, path: data/mini/test, settings: {source: mini, split: train}}]'"),
    (r"plant_faults", "--count 4 --pairs 800 --no-captions"),
    (r"^(python -m unimedvl.train stage(?!=auto)|scripts/train_)(?!.*dry_run)",
     "steps=2 validation.every=0 data.max_tokens=1100"),
)  # fmt: skip


def shortened(command: str) -> str:
    """The command on the nano model, in a few steps; the environment is that of the tests."""
    command = command.replace("path/to/UniMedVL", "bundled").replace("512x512", "128x128")
    if command.startswith("source "):
        return "true"
    return " ".join([command, *(words for pattern, words in SHORTER if re.search(pattern, command))])


@pytest.fixture(scope="module")
def desk(tmp_path_factory, unimed_mini):
    """A copy of the repository with the files that the README speaks of."""
    desk = tmp_path_factory.mktemp("readme") / "repository"
    desk.mkdir()
    for name in ("unimedvl", "configs", "scripts", "tests", "pyproject.toml", "README.md", "environment.yaml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, desk / name)
    generator = np.random.default_rng(0)
    for name in ("chest.png", "slide.png", "a.png"):
        Image.fromarray(generator.integers(0, 256, (160, 128, 3), np.uint8)).save(desk / name)
    from pydicom.data import get_testdata_file

    shutil.copy(str(get_testdata_file("CT_small.dcm")), desk / "chest.dcm")
    (desk / "requests.jsonl").write_text('{"task": "vqa", "images": ["a.png"], "prompt": "What is shown?"}\n')
    (desk / "hosts").write_text("one slots=8\ntwo slots=8\n")
    (desk / "my").mkdir()
    say = [{"from": "human", "value": "<image>\nWhat is shown?"}, {"from": "gpt", "value": "Noise."}]
    seen = {"main_task_type": "understanding", "input_img": [{"path": "../a.png"}], "message": say}
    drawn = {
        "main_task_type": "t2i",
        "output_img": [{"path": "../a.png"}],
        "message": [{"from": "human", "value": "Draw."}],
    }
    for name, row in (("i2t", seen), ("t2i", drawn)):
        (desk / "my" / f"{name}.jsonl").write_text(f"{json.dumps(row)}\n" * 4)
    slake = {"img_name": "x1/source.jpg", "question": "What?", "answer": "Lung", "q_lang": "en", "answer_type": "OPEN"}
    slake |= {"img_id": 1, "qid": 1, "modality": "CT", "content_type": "Organ", "location": "Chest"}
    (desk / "Slake1.0" / "imgs" / "x1").mkdir(parents=True)
    Image.open(desk / "a.png").save(desk / "Slake1.0" / "imgs" / "x1" / "source.jpg")
    (desk / "Slake1.0" / "test.json").write_text(json.dumps([slake]))
    shutil.copytree(unimed_mini.folder, desk / "data" / "mini")
    bin_ = desk / "standins"
    bin_.mkdir()
    for name, script in STANDINS.items():
        (bin_ / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (bin_ / name).chmod(0o755)
    return desk


def environment(desk: Path) -> dict[str, str]:
    path = f"{desk / 'standins'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    model = re.search(r'^M="(.+)"', (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert model is not None
    return {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(desk),
        "HF_HUB_OFFLINE": "1",
        "VENV": str(Path(sys.executable).parent.parent),
        "READY": "1",
        "STEPS": "2",
        "AUTOENCODER_STEPS": "2",
        "ROWS": "2",
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NODELIST": "one",
        "SLURM_NNODES": "8",
        "SLURM_NODEID": "0",
        "M": model[1].replace("path/to/UniMedVL", "bundled"),
    }


@pytest.mark.parametrize(
    "command",
    [pytest.param(each, marks=[pytest.mark.slow] if each.startswith(SLOW) else []) for each in commands()],
)
def test_command(desk, command):
    if command.startswith("M="):
        return
    result = subprocess.run(
        ["bash", "-c", shortened(command)],
        cwd=desk,
        env=environment(desk),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        input="/quit\n",
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    assert "Traceback" not in result.stderr


def test_two_screens_before_the_reference():
    """Ninety lines of a terminal."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text[: text.index("\n## ")].count("\n") <= 100
    assert (ROOT / ".github" / "overview.png").is_file()


def test_python_blocks_run(desk, monkeypatch):
    """On the bundled model, in float32 on the CPU."""
    monkeypatch.chdir(desk)
    for name in ("b", "c", "before", "after"):
        shutil.copy(desk / "a.png", desk / f"{name}.png")
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL):
        code = block.replace("path/to/UniMedVL", "unimedvl/nano").replace("(512, 512)", "(128, 128)")
        code = re.sub(r'dtype="bfloat16"|dtype=torch.bfloat16, device="cuda"', 'device="cpu"', code)
        exec(compile(re.sub(r"steps=\d+", "steps=3", code), "README.md", "exec"), {})
