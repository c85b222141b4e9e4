"""Small runs of real training processes, for the integration tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image
from safetensors.torch import save_file

from unimedvl.config import ModelConfig
from unimedvl.model.vae import Autoencoder
from unimedvl.model.weights import published_tensors
from unimedvl.train.checkpoint import Checkpoint, newest

TINY = ModelConfig.preset("tiny")
TOKENIZER = Path(__file__).parent / "golden" / "tiny" / "checkpoint"
LIMIT = 240  # seconds after which a run hangs
FAMILIES = {"text": "text", "make": "t2i", "ask": "i2t", "edit": "interleaved"}


def write_world(folder: Path) -> Path:
    """Rows of every family with small pictures, and a random autoencoder."""
    rng = np.random.default_rng(0)
    for number in range(8):
        pixels = rng.integers(0, 255, (rng.integers(20, 60), rng.integers(20, 60), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")

    def turns(human: str, gpt: str) -> list[dict[str, str]]:
        return [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]

    rows = {
        "text": [{"main_task_type": "text", "message": turns("x " * n, "y " * n)} for n in range(1, 9)],
        "make": [
            {"main_task_type": "t2i", "output_img": [f"{n}.png"], "message": turns("Make.", "So.")[:1]}
            for n in range(8)
        ],
        "ask": [
            {"main_task_type": "vqa", "input_img": [f"{n}.png"], "message": turns("<image>What?", "A " * (n + 1))}
            for n in range(8)
        ],
        "edit": [
            {
                "main_task_type": "edit",
                "input_img": [f"{n}.png"],
                "output_img": [f"{7 - n}.png"],
                "message": turns("Turn.", "Done."),
            }
            for n in range(8)
        ],
    }
    for name, own in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, own)))
    torch.manual_seed(0)
    autoencoder = Autoencoder(TINY.vae)
    (folder / "vae").mkdir()
    tensors = {name: tensor.contiguous() for name, tensor in published_tensors(autoencoder).items()}
    save_file(tensors, folder / "vae" / "ae.safetensors")
    (folder / "vae" / "vae_config.json").write_text(json.dumps(asdict(TINY.vae)))
    return folder


def words(
    world: Path, output: Path, *changes: str, mix: str = "{text: 1, t2i: 1, i2t: 2, interleaved: 1}"
) -> list[str]:
    """Of a short run of the tiny model, in float32 on the CPU."""
    sources = ", ".join(
        f"{{name: {name}, family: {family}, files: ['{world}/{name}.jsonl']}}" for name, family in FAMILIES.items()
    )
    return [
        "runtime=cpu",
        "model.preset=tiny",
        f"model.autoencoder={world}/vae",
        f"model.tokenizer={TOKENIZER}",
        f"output={output}",
        f"data.sources=[{sources}]",
        "held_out=[]",
        "data.weights={text: 1, t2i: 1, i2t: 2, interleaved: 1}",
        "data.transforms.vit={max_side: 56, min_side: 28, stride: 14}",
        "data.transforms.vae={max_side: 64, min_side: 32, stride: 16}",
        "data.max_tokens=160",
        "data.max_sample_tokens=160",
        "data.lookahead=6",
        "data.moments=null",
        f"data.cache={world}/cache",
        "optimizer.learning_rate=1e-3",
        "optimizer.warmup=3",
        "optimizer.schedule=constant",  # a cosine would depend on the number of steps
        "validation.every=0",
        "log.every=1",
        "checkpoint.every=1000",
        "steps=10",
        *changes,
    ]


def start(arguments: list[str], processes: int = 1, *, zero: bool | None = None) -> subprocess.Popen[str]:
    """A training run as processes of its own group; with ZeRO-3 if there are several."""
    zero = processes > 1 if zero is None else zero
    command = [sys.executable, "-m"]
    if zero:
        command += ["torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "0"]
        command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "-m"]
        arguments = [*arguments, "runtime.zero=true"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [*command, "unimedvl.train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], limit: float = LIMIT) -> str:
    """What it said, once it has ended; killed with its children if it takes too long."""
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        kill(process)
        said, _ = process.communicate()
        raise AssertionError(f"hangs after {limit} s:\n{said[-3000:]}") from None
    return said


def run(arguments: list[str], processes: int = 1, *, code: int = 0, zero: bool | None = None) -> str:
    """Run to the end; what it said."""
    process = start(arguments, processes, zero=zero)
    said = finish(process)
    assert process.returncode == code or (code and process.returncode), said[-4000:]
    return said


def kill(process: subprocess.Popen[str], with_signal: int = signal.SIGKILL) -> None:
    """Send a signal to a run and all that it started; ranks are in sessions of their own."""
    whole = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in whole:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(with_signal)


def wait_for(condition, process: subprocess.Popen[str], limit: float = LIMIT) -> None:
    """Until the condition holds."""
    end = time.monotonic() + limit
    while not condition():
        assert process.poll() is None, finish(process)[-3000:]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def metrics(output: Path) -> list[dict]:
    """The lines of training steps."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "ce" in line]


def weights(output: Path) -> dict[str, torch.Tensor]:
    """Whole tensors of the newest checkpoint, by kind and parameter."""
    from unimedvl.model.meta import on_meta
    from unimedvl.model.unimedvl import UniMedVL

    checkpoint = newest(output)
    assert isinstance(checkpoint, Checkpoint)
    with on_meta():
        shapes = {name: parameter.shape for name, parameter in UniMedVL(TINY).named_parameters()}
    return {
        f"{kind}.{name}": checkpoint.whole(kind, name, shapes[name])
        for kind, names in checkpoint.kinds.items()
        for name in sorted(names)
    }
