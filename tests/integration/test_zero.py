"""Real ZeRO-3 processes on the CPU against one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import training
from tests.training import FAMILIES, TINY, metrics, run, weights, words, write_world
from unimedvl.model.unimedvl import UniMedVL

pytest.importorskip("deepspeed")
ROOT = Path(__file__).parent.parent.parent
# The scores of a query all move alike with a key bias, so its gradient is rounding noise, which AdamW with eps 1e-15
# turns into steps of full size in directions of chance. The decoder's keys are normed and have real gradients.
NOISE = "vit_model", "k_proj.bias"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def alone(world):
    """Ten steps of six batches each in one process."""
    output = world / "alone"
    run(words(world, output, "data.shards=6", "accumulation=6"))
    return output


@pytest.mark.parametrize(
    "processes", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_processes_agree(world, alone, processes):
    """The same global batch on any number of ranks: losses, gradient norms, weights, optimizer and EMA.

    float32 sums in another order: 1e-5 relative to the largest value of each tensor, as the losses.
    """
    output = world / f"zero{processes}"
    run(words(world, output, "data.shards=6", f"accumulation={6 // processes}"), processes, zero=True)
    one, many = metrics(alone), metrics(output)
    assert len(one) == len(many) == 10
    for mine, its in zip(one, many, strict=True):
        for name in ("ce", "mse", "loss", "learning_rate", "tokens", "rows", "fill"):
            assert its[name] == pytest.approx(mine[name], rel=1e-5), name
        for part, norm in mine["gradient_norm"].items():
            assert its["gradient_norm"][part] == pytest.approx(norm, rel=1e-5, abs=1e-8), part
    first, second = weights(alone), weights(output)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        if not all(word in name for word in NOISE):
            scale = float(tensor.abs().max())
            assert float((second[name] - tensor).abs().max()) <= 1e-5 * scale + 1e-12, name


@pytest.mark.slow
def test_two_ranks_validate_as_one(world):
    """Held-out losses are equal, and both ranks answer and draw without waiting for each other forever."""
    held_out = ", ".join(
        f"{{name: {name}, family: {family}, files: ['{world}/{name}.jsonl']}}" for name, family in FAMILIES.items()
    )
    watched = "validation={every: 1, batches: 2, prompts: 1, steps: 3, new_tokens: 4}"
    changes = ("data.shards=2", "steps=2", watched, f"held_out=[{held_out}]")
    run(words(world, world / "seen2", *changes), 2)
    run(words(world, world / "seen1", *changes, "accumulation=2"), 1)
    seen = []
    for output in (world / "seen1", world / "seen2"):
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        seen.append([line["validation"] for line in lines if "validation" in line])
    assert len(seen[0]) == len(seen[1]) == 3
    for one, two in zip(*seen, strict=True):
        assert two == pytest.approx(one, rel=1e-5)
    answers = [world / name / "validation" / "step-00000002" / "answers.jsonl" for name in ("seen1", "seen2")]
    assert answers[0].read_text() == answers[1].read_text()


@pytest.mark.slow
@pytest.mark.parametrize("offload", [("optimizer",), ("optimizer", "parameters")])
def test_offloaded_it_learns_the_same(world, alone, offload):
    output = world / f"offload-{len(offload)}"
    where = [f"runtime.offload_{what}=true" for what in offload]
    run(words(world, output, "data.shards=6", "accumulation=3", "steps=3", *where), 2)
    for mine, its in zip(metrics(alone)[:3], metrics(output), strict=True):
        assert its["ce"] == pytest.approx(mine["ce"], rel=1e-5)
        assert its["gradient_norm"]["all"] == pytest.approx(mine["gradient_norm"]["all"], rel=1e-4)


HALF = ("data.shards=6", "accumulation=3", "runtime.precision=bf16", "frozen=[vit]")


def test_bfloat16_with_float32_masters(world, alone):
    """Two ranks: masters and frozen weights exact float32, losses near those of float32."""
    output = world / "half"
    run(words(world, output, *HALF, "steps=2"), 2)
    first = weights(output)
    fresh = dict(UniMedVL.initialized(TINY).named_parameters())
    frozen = [name for name in first if name.startswith("frozen.")]
    assert frozen
    for name in frozen:
        assert torch.equal(first[name], fresh[name.removeprefix("frozen.")]), name
    master = first["master.language_model.lm_head.weight"]
    assert not torch.equal(master, master.bfloat16().float())
    for mine, its in zip(metrics(alone)[:2], metrics(output), strict=True):
        assert its["ce"] == pytest.approx(mine["ce"], rel=0.02)
        assert its["mse"] == pytest.approx(mine["mse"], rel=0.02)


@pytest.mark.slow
def test_bfloat16_resumes_to_the_last_bit(world):
    whole, cut = world / "half-whole", world / "half-cut"
    run(words(world, whole, *HALF, "steps=4"), 2)
    run(words(world, cut, *HALF, "steps=2"), 2)
    run(words(world, cut, *HALF, "steps=4"), 2)
    first, second = weights(whole), weights(cut)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize(
    ("processes", "checkpointing"),
    [(2, "full"), pytest.param(2, "none", marks=pytest.mark.slow), pytest.param(3, "full", marks=pytest.mark.slow)],
)
def test_ranks_with_different_kinds_of_data(world, processes, checkpointing):
    """Only text, only ViT images, only targets, in every combination: no hang, and the gradients of one process."""
    output = world / f"kinds-{processes}-{checkpointing}"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "-m", "tests.integration.zero_ranks"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [*command, str(world), str(output), checkpointing],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    said = training.finish(process)
    assert process.returncode == 0, said[-4000:]
    everyone = json.loads((world / f"kinds-{processes}-{checkpointing}.json").read_text())
    assert len(everyone) == processes
    for told in everyone:
        assert len(told["worst"]) == 4**processes
        # float32 through three layers, relative to the largest gradient of all.
        assert max(told["worst"].values()) < 1e-5, told["worst"]
        assert told["applied"] == [False, True]
        assert told["unchanged"]
        assert told["changed"]
