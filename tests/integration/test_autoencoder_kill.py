"""A real process that trains an autoencoder, killed at any moment and told to stop; what comes out is the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

LIMIT = 120  # seconds, for each process
CODE = """
import sys
from pathlib import Path
import torch
from unimedvl.config import VaeConfig
from unimedvl.train.autoencoder import AutoencoderSettings, train_autoencoder

torch.set_num_threads(1)
config = VaeConfig(8, (1, 2), num_res_blocks=1, latent_channels=4, norm_groups=4)
settings = AutoencoderSettings(
    files=("rows.jsonl",), validation_files=("rows.jsonl",), steps=60, batch_size=2, crop=16, warmup=2,
    log_every=2, save_every=5, validate_every=20, precision="fp32",
)
train_autoencoder(settings, config, Path(sys.argv[1]))
"""


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(4):
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)).save(tmp_path / f"{number}.png")
        message = [{"from": "human", "value": "Make it."}]
        rows.append({"main_task_type": "t2i", "output_img": [{"path": f"{number}.png"}], "message": message})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def started(desk: Path, out: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_DATASETS_CACHE": str(desk / "cache"), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", CODE, out], cwd=desk, env=environment, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> int:
    """The exit code; a process that takes too long is killed."""
    try:
        _, errors = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert "Traceback" not in errors, errors
    return process.returncode


def once_rows(desk: Path, process: subprocess.Popen[str], out: str, count: int) -> None:
    """Wait until the metrics have so many rows."""
    path, deadline = desk / out / "metrics.jsonl", time.monotonic() + LIMIT
    while not path.exists() or path.read_text().count("\n") < count:
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def rows_of(folder: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "images_per_s"} for row in rows]


@pytest.mark.timeout(5 * LIMIT)
@pytest.mark.slow
def test_killed_and_stopped_it_gives_the_same_weights(desk):
    assert ended(started(desk, "whole")) == 0
    # Rows: 30 of losses and 3 of validation. Killed before the first checkpoint and after several, then told to stop.
    for rows, number in ((1, signal.SIGKILL), (9, signal.SIGKILL), (18, signal.SIGTERM)):
        process = started(desk, "cut")
        once_rows(desk, process, "cut", rows)
        process.send_signal(number)
        assert ended(process) == (0 if number is signal.SIGTERM else -signal.SIGKILL)
        assert not (desk / "cut" / "final").exists()
    assert ended(started(desk, "cut")) == 0
    for name in ("ae.safetensors", "vae_config.json"):
        assert (desk / "cut" / "final" / name).read_bytes() == (desk / "whole" / "final" / name).read_bytes()
    assert rows_of(desk / "cut") == rows_of(desk / "whole")
    assert sorted(path.name for path in (desk / "cut").iterdir()) == [
        "checkpoint.pt",
        "final",
        "grids",
        "metrics.jsonl",
    ]
