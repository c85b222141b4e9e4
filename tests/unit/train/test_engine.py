"""One step and its parts, in this process."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
import torch

from tests.layouts import SPECIAL, random_sample
from tests.training import TINY, weights, words, write_world
from unimedvl.data.faults import Tally
from unimedvl.data.packing import pack
from unimedvl.data.stream import LoadedBatch
from unimedvl.errors import CheckpointError, ConfigError, DataError
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.train import checkpoint as store
from unimedvl.train.backend import Plain, deepspeed_config
from unimedvl.train.build import units
from unimedvl.train.compose import compose
from unimedvl.train.engine import Trainer
from unimedvl.train.parts import PARTS, freeze, part_of
from unimedvl.train.settings import OptimizerSettings, RuntimeSettings


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def _restore_determinism():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def trainer(world, tmp_path):
    def make(*changes: str, output=None) -> Trainer:
        return Trainer(compose(words(world, output or tmp_path / "run", *changes)).settings())

    return make


def merged(trainer: Trainer, batches: list[LoadedBatch]) -> LoadedBatch:
    """All rows of some batches as one."""
    rows = tuple(row for loaded in batches for row in loaded.rows)
    batch = trainer.stream.batch({row.position: trainer.stream.draft(row.position) for row in rows})
    return replace(batches[0], batch=batch, rows=rows, tally=Tally())


def test_accumulated_batches_are_one_batch(trainer):
    """Four batches with different numbers of loss tokens against their samples in one; float32 rounding."""
    four, one = trainer("accumulation=4"), trainer()
    for _ in range(3):
        batches = list(itertools.islice(four.loader, 4))
        counts = {(len(loaded.batch.ce_labels), len(loaded.batch.velocity_index)) for loaded in batches}
        assert len(counts) > 1
        first = four.step(iter(batches))
        second = one.step(iter([merged(one, batches)]))
        assert first.tokens == second.tokens
        assert first.ce == pytest.approx(second.ce, rel=1e-6)
        assert first.mse == pytest.approx(second.mse, rel=1e-6)
        for part, norm in first.norms.items():
            assert second.norms[part] == pytest.approx(norm, rel=1e-4), part
    mine, its = four.backend.local_master(), one.backend.local_master()
    for name, piece in mine.items():
        if not ("vit_model" in name and "k_proj.bias" in name):  # no gradient but rounding
            torch.testing.assert_close(piece, its[name], atol=2e-5, rtol=0)


COMBINATIONS = [combo for size in range(len(PARTS)) for combo in itertools.combinations(PARTS, size)]


@pytest.mark.parametrize("frozen", COMBINATIONS, ids="+".join)
def test_exactly_the_named_parts_stay(frozen):
    model = UniMedVL.initialized(TINY)
    torch.nn.init.normal_(model.llm2vae.weight, std=0.02)  # its zeros would keep the gen expert from learning
    freeze(model, frozen)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    backend = Plain(model, RuntimeSettings(device="cpu", precision="fp32"), OptimizerSettings(1e-2, warmup=0))
    kinds = (["vit", "text_loss"], ["text", "noised"], ["clean", "vit", "text_loss", "noised"])
    batch = pack([random_sample(n, TINY, own) for n, own in enumerate(kinds)], TINY, SPECIAL)
    for _ in range(2):
        ce, mse = backend.losses(batch)
        backend.backward(ce + mse, last=True)
        norms = backend.gradient_norms()
        assert backend.step(1e-2)
    # Rows of the embedding that no token names stay: compared as whole tensors.
    changed = {
        part_of(name) for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])
    }
    assert changed == set(PARTS) - set(frozen)
    for name, parameter in model.named_parameters():
        same = parameter.detach().numpy().tobytes() == before[name].numpy().tobytes()
        assert same == (part_of(name) in frozen), name
    assert {part for part, norm in norms.items() if norm} == {"all", *changed}


def poisoned(trainer: Trainer, monkeypatch, at: int) -> None:
    """Let the loss of one step be NaN."""
    plain = trainer.backend.losses

    def losses(batch):
        ce, mse = plain(batch)
        return (ce * float("nan"), mse) if trainer.progress.step == at else (ce, mse)

    monkeypatch.setattr(trainer.backend, "losses", losses)


def test_a_step_that_is_not_finite_changes_nothing(trainer, monkeypatch, caplog):
    run = trainer("steps=4")
    poisoned(run, monkeypatch, at=1)
    batches = iter(run.loader)
    run.step(batches)
    before = {name: piece.clone() for name, piece in run.backend.local_master().items()}
    averages = {name: piece.clone() for name, piece in run.ema.pieces.items()}
    result = run.step(batches)
    assert not result.applied
    assert all(torch.equal(piece, before[name]) for name, piece in run.backend.local_master().items())
    assert all(torch.equal(piece, averages[name]) for name, piece in run.ema.pieces.items())
    assert (run.progress.step, run.progress.updates, run.progress.skipped) == (2, 1, 1)
    assert result.culprits
    assert result.culprits[0] in caplog.text
    assert ".jsonl:" in caplog.text
    assert run.step(batches).applied


def test_too_many_of_them_stop_the_run(trainer, monkeypatch):
    run = trainer("max_non_finite=0")
    poisoned(run, monkeypatch, at=0)
    with pytest.raises(DataError, match=r"1 steps had a loss.*rows .*jsonl:\d+.*max_non_finite"):
        run.run()


def test_a_save_that_is_cut_off_leaves_the_last_one(trainer, tmp_path, monkeypatch, world):
    """The rank's file is there, the manifest is not: the run goes on from the checkpoint before."""
    output = tmp_path / "cut"
    trainer("steps=2", output=output).run()
    before = weights(output)
    run = trainer("steps=4", output=output)
    assert run.progress.step == 2
    monkeypatch.setattr(store, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run.run()
    monkeypatch.undo()
    assert [folder.name for folder in store.checkpoints(output)] == ["step-00000002"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(output).items())
    assert list((output / "checkpoints").glob(".step-*"))
    again = trainer("steps=4", output=output)
    assert again.progress.step == 2
    again.run()
    assert not list((output / "checkpoints").glob(".step-*"))


def test_a_damaged_checkpoint_is_passed_over(trainer, tmp_path, caplog):
    output = tmp_path / "damaged"
    trainer("steps=4", "checkpoint={every: 2, keep: 3}", output=output).run()
    first, last = store.checkpoints(output)
    file = next(last.glob("rank-*"))
    file.write_bytes(file.read_bytes()[:-100])
    assert store.newest(output).folder == first
    assert "passed over" in caplog.text
    with pytest.raises(CheckpointError, match=r"bytes of \d+.*earlier checkpoint"):
        _ = store.Checkpoint(last).manifest
    next(first.glob("rank-*")).unlink()
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        store.newest(output)


def test_refusals_on_resuming(trainer, tmp_path, caplog):
    output = tmp_path / "run"
    trainer("steps=1", output=output).run()
    with pytest.raises(ConfigError, match="holds checkpoints"):
        trainer("checkpoint={resume: never}", output=output)
    with pytest.raises(CheckpointError, match="other weights were trained.*same parts frozen"):
        trainer("frozen=[vit]", output=output)
    with pytest.raises(ConfigError, match="a run of stage foundation.*model.init"):
        trainer("stage=instruction", "frozen=[]", output=output)
    trainer("loss.ce=1.0", output=output)
    assert "resumed with other settings than before: loss" in caplog.text
    with pytest.raises(ConfigError, match="of another model"):
        trainer("model.config.llm.rope_theta=5.0", output=output)
    with pytest.raises(CheckpointError, match="other sources, rows, weights or another seed"):
        trainer("seed=3", output=output)


def test_pruning_keeps_what_is_good(trainer, tmp_path):
    """The newest is damaged: the run goes on from before it, and what it saves stays."""
    output = tmp_path / "run"
    trainer("steps=6", "checkpoint={every: 2, keep: 2}", output=output).run()
    last = next(store.checkpoints(output)[-1].glob("rank-*"))
    last.write_bytes(last.read_bytes()[:-50])
    trainer("steps=5", "checkpoint={every: 2, keep: 1}", output=output).run()
    assert [folder.name for folder in store.checkpoints(output)] == ["step-00000005"]
    assert store.newest(output).step == 5
    assert (output / "checkpoints" / "left-step-00000006").is_dir()


def test_a_stop_file_ends_and_saves(trainer, tmp_path):
    (tmp_path / "stop").touch()
    run = trainer(f"checkpoint.stop_file={tmp_path}/stop", "steps=50", output=tmp_path / "run")
    run.run()
    assert run.progress.step == store.newest(tmp_path / "run").step == 1


def test_resumed_from_a_named_folder(trainer, tmp_path):
    trainer("steps=2", output=tmp_path / "a").run()
    assert trainer(f"checkpoint.resume={tmp_path}/a", output=tmp_path / "b").progress.step == 2
    with pytest.raises(ConfigError, match="no checkpoint"):
        trainer(f"checkpoint.resume={tmp_path}/c", output=tmp_path / "b")


def test_several_processes_need_zero(trainer, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes without ZeRO"):
        trainer()


def test_pieces_of_any_number_of_ranks():
    tensor = torch.arange(10.0).view(2, 5)
    for world in (1, 2, 3, 4, 7):
        pieces = [store.piece_of(tensor, rank, world) for rank in range(world)]
        assert len({piece.numel() for piece in pieces}) == 1
        assert torch.equal(torch.cat(pieces)[:10].view(2, 5), tensor)


def test_units_cut_the_model_without_rest():
    model = UniMedVL.initialized(TINY)
    names = [f"{prefix}.{name}" for prefix, unit in units(model) for name, _ in unit.named_parameters()]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert sum("layers" in prefix and "language" in prefix for prefix, _ in units(model)) == 3


def test_deepspeed_is_told_what_the_settings_say():
    plain = deepspeed_config(RuntimeSettings(zero=True), 1.0)
    assert plain["bf16"] == {"enabled": True}
    assert plain["communication_data_type"] == "fp32"
    assert "offload_optimizer" not in plain["zero_optimization"]
    offloaded = RuntimeSettings(zero=True, offload_optimizer=True, offload_parameters=True, precision="fp32")
    zero = deepspeed_config(offloaded, 2.0)["zero_optimization"]
    assert zero["offload_optimizer"]["device"] == zero["offload_param"]["device"] == "cpu"
    assert deepspeed_config(offloaded, 2.0)["gradient_clipping"] == 2.0


def test_bfloat16_keeps_float32_weights(trainer):
    run = trainer("runtime.precision=bf16", "runtime.deterministic=false")
    result = run.step(iter(run.loader))
    assert result.applied
    assert {piece.dtype for piece in run.backend.local_master().values()} == {torch.float32}
    assert {piece.dtype for piece in run.ema.pieces.values()} == {torch.float32}


def test_manifest_is_plain(trainer, tmp_path):
    folder = trainer("steps=1", output=tmp_path / "run").run()
    manifest = json.loads((folder / store.MANIFEST).read_text())
    assert manifest["step"] == manifest["updates"] == 1
    assert (folder / store.MANIFEST).stat().st_size < 20_000
