"""Runs as people start them: killed, resumed, saved, exported, watched."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from tests.training import FAMILIES, TINY, finish, kill, metrics, run, start, wait_for, weights, words, write_world
from unimedvl.infer.pipeline import UniMedVLPipeline
from unimedvl.train.checkpoint import checkpoints


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def steps_done(output) -> int:
    path = output / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def identical(one, two) -> None:
    """The same losses of the remaining steps and the same weights, to the last bit."""
    mine, its = ([(line["step"], line["ce"], line["mse"]) for line in metrics(output)] for output in (one, two))
    assert mine == its
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_and_resumed_is_uninterrupted(world, processes):
    """SIGKILL after the sixth step; the newest checkpoint is of the fourth."""
    changes = ("data.shards=2", "checkpoint.every=4", "data.workers=1")
    whole, killed = world / f"whole{processes}", world / f"killed{processes}"
    run(words(world, whole, *changes), processes)
    process = start(words(world, killed, *changes), processes)
    wait_for(lambda: steps_done(killed) >= 6, process)
    kill(process)
    finish(process)
    assert [folder.name for folder in checkpoints(killed)] == ["step-00000004"]
    run(words(world, killed, *changes), processes)
    identical(whole, killed)


@pytest.mark.slow
def test_on_other_ranks_it_goes_on(world):
    """Two ranks for six steps, then one: the same batches, losses within 1e-4."""
    changes = ("data.shards=2",)
    whole, moved = world / "two", world / "moved"
    run(words(world, whole, *changes), 2)
    run(words(world, moved, *changes, "steps=6"), 2)
    run(words(world, moved, *changes, "accumulation=2"), 1)
    for mine, its in zip(metrics(whole), metrics(moved), strict=True):
        assert its["ce"] == pytest.approx(mine["ce"], rel=1e-4)
        assert its["mse"] == pytest.approx(mine["mse"], rel=1e-4)


def test_a_term_signal_saves(world):
    """It reaches the reading processes too."""
    output, whole = world / "stopped", world / "whole-stopped"
    process = start(words(world, output, "data.shards=1", "steps=300", "data.workers=1"))
    wait_for(lambda: steps_done(output) >= 3, process)
    kill(process, signal.SIGTERM)
    finish(process)
    assert process.returncode == 143
    done = json.loads((checkpoints(output)[-1] / "manifest.json").read_text())["step"]
    assert done == len(metrics(output)) < 300
    run(words(world, output, "data.shards=1", f"steps={done + 2}"))
    run(words(world, whole, "data.shards=1", f"steps={done + 2}"))
    identical(whole, output)


@pytest.fixture(scope="module")
def trained(world):
    """A short run that was watched: validated and shown."""
    output = world / "trained"
    held_out = ", ".join(
        f"{{name: {name}, family: {family}, files: ['{world}/{name}.jsonl']}}" for name, family in FAMILIES.items()
    )
    watched = ("validation={every: 3, batches: 2, prompts: 2, steps: 3, new_tokens: 4}", f"held_out=[{held_out}]")
    run(
        words(
            world, output, "steps=6", "checkpoint={every: 2, keep: 2, resume: auto}", *watched, "log.tensorboard=true"
        )
    )
    return output


def test_what_a_run_leaves(trained):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    held_out = {line["step"]: line["validation"] for line in lines if "validation" in line}
    assert sorted(held_out) == [0, 3, 6]
    assert held_out[6]["ce"] < held_out[0]["ce"]
    last = metrics(trained)[-1]
    assert set(last["gradient_norm"]) == {"all", "und", "gen", "vit", "connector", "flow"}
    assert last["mix"]["wanted"] == {"text": 0.2, "t2i": 0.2, "i2t": 0.4, "interleaved": 0.2}
    assert sum(last["mix"]["observed"].values()) == pytest.approx(1)
    assert last["tokens_per_second"] > 0
    assert last["tflops_per_device"] > 0
    assert 0.9 < last["fill"] <= 1
    assert [folder.name for folder in checkpoints(trained)] == ["step-00000004", "step-00000006"]
    shown = trained / "validation" / "step-00000006"
    assert {path.name for path in shown.iterdir()} == {"answers.jsonl", "make.png", "ask.png", "edit.png"}
    assert len((shown / "answers.jsonl").read_text().splitlines()) == 8
    assert list((trained / "tensorboard").iterdir())


def test_exported_it_answers_and_draws(world, trained, tmp_path):
    """The exported directory holds the EMA, loads in inference, and answers like the averages in memory."""
    command = [sys.executable, "-m", "unimedvl.train", "export", str(trained), "--out", str(tmp_path / "model")]
    subprocess.run([*command, "--weights", "both"], check=True, timeout=120)
    pipe = UniMedVLPipeline.from_pretrained(tmp_path / "model")
    stored = weights(trained)
    for name, parameter in pipe.engine.model.named_parameters():
        assert torch.equal(parameter, stored[f"ema.{name}"]), name
    raw = UniMedVLPipeline.from_pretrained(tmp_path / "model", weights="model")
    for name, parameter in raw.engine.model.named_parameters():
        assert torch.equal(parameter, stored[f"master.{name}"]), name
    assert pipe.engine.model.config == TINY
    image = pipe.generate("Make.", size=(64, 64), steps=3)
    assert image.size == (64, 64)
    ask = [sys.executable, "-m", "unimedvl.infer", "vqa", "--model", str(tmp_path / "model"), "--prompt", "What?"]
    told = subprocess.run(
        [*ask, "--image", str(world / "0.png"), "--max-new-tokens", "3", "--json"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert json.loads(told.stdout)["text"] == pipe.understand([world / "0.png"], "What?", max_new_tokens=3)


def test_the_next_stage_starts_from_the_export(world, trained, tmp_path):
    export = tmp_path / "export"
    subprocess.run([sys.executable, "-m", "unimedvl.train", "export", str(trained), "--out", str(export)], check=True)
    changes = (f"model.init={export}", f"model.autoencoder={export}", f"model.tokenizer={export}", "frozen=[vit]")
    run(words(world, tmp_path / "next", *changes, "steps=2"))
    after, before = weights(tmp_path / "next"), weights(trained)
    for name, tensor in before.items():
        kind, _, parameter = name.partition(".")
        if kind == "ema" and parameter.startswith("vit_model"):
            assert torch.equal(after[f"frozen.{parameter}"], tensor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("model.tokenizer=null",), "no tokenizer"),
        (("model.autoencoder=null",), "no autoencoder, and the mix makes images"),
        (("data.transforms.vit.max_side=980",), "transforms.vit.*sides up to 140"),
        (("model.init=nowhere",), "nowhere is not a directory"),
    ],
)
def test_mistakes_end_a_run_at_once(world, tmp_path, changes, message):
    process = start(words(world, tmp_path / "run", *changes))
    said = finish(process, 120)
    assert process.returncode == 2
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert re.search(message, errors[0])
    assert not checkpoints(tmp_path / "run")


@pytest.mark.slow
def test_the_curriculum_script(world, tmp_path):
    """Three stages, each from the one before; started again after a kill in the second it goes on."""
    script = shutil.which("bash")
    environment = {**os.environ, "RUNS": str(tmp_path / "runs"), "PYTHON": sys.executable}
    changes = [word for word in words(world, tmp_path, "steps=3") if not word.startswith("output=")]
    command = [script, "scripts/train_curriculum.sh", *changes]
    process = subprocess.Popen(command, env=environment, start_new_session=True, text=True)
    second = tmp_path / "runs" / "instruction" / "metrics.jsonl"
    wait_for(second.exists, process)
    kill(process)
    process.wait()
    subprocess.run(command, env=environment, check=True, timeout=300)
    for stage in ("foundation", "instruction", "unified"):
        assert (tmp_path / "runs" / stage / "export" / "ema.safetensors").is_file()
