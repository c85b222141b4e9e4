"""Shards, loaders and their states: what comes is the same whoever reads it and however often it is interrupted."""

from __future__ import annotations

import json
import logging
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unimedvl.config import ModelConfig
from unimedvl.data.loader import PackedLoader
from unimedvl.data.mixture import FamilyWeights
from unimedvl.data.moments import MomentCache
from unimedvl.data.settings import DataSettings, SourceSettings
from unimedvl.data.stream import ShardState, Stream, spread
from unimedvl.data.tasks import Drafter, Dropout, TrainTransforms
from unimedvl.errors import CheckpointError, ConfigError, DataError
from unimedvl.processor import ImageTransform

TINY = ModelConfig.preset("tiny")
TRANSFORMS = TrainTransforms(ImageTransform(84, 28, 14, 140 * 140), ImageTransform(96, 32, 16))
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three sources: questions, pictures to make (one row only), texts of many lengths."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = rng.integers(0, 255, (rng.integers(20, 90), rng.integers(20, 90), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
    rows = {
        "vqa": [
            {
                "main_task_type": "vqa",
                "input_img": [{"path": f"{number}.png"}],
                "message": [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "A. " * (number + 1)}],
            }
            for number in range(12)
        ],
        "make": [
            {
                "main_task_type": "t2i",
                "output_img": [{"path": "3.png"}],
                "message": [{"from": "human", "value": "Make."}],
            }
        ],
        "text": [
            {
                "main_task_type": "text",
                "message": [{"from": "human", "value": "x " * number}, {"from": "gpt", "value": "y"}],
            }
            for number in range(1, 30)
        ],
    }
    for name, own in rows.items():
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, own)))
    return root


def settings_for(folder, **changes):
    families = {"vqa": "i2t", "make": "t2i", "text": "text"}
    values = {
        "sources": tuple(SourceSettings(n, f, (str(folder / f"{n}.jsonl"),)) for n, f in families.items()),
        "weights": FamilyWeights(text=1, t2i=1, i2t=2),
        "transforms": TRANSFORMS,
        "max_tokens": 256,
        "lookahead": 6,
        "workers": 0,
        "cache": folder / "cache",
    }
    return DataSettings(**{**values, **changes})


@pytest.fixture
def stream(folder, codec):
    def make(moments=None, **changes):
        own = settings_for(folder, **changes)
        return Stream(own, Drafter(codec, TINY, own.transforms, own.dropout), moments)

    return make


def take(loader, count):
    batches = []
    for loaded in loader:
        batches.append(loaded)
        if len(batches) == count:
            break
    return batches


def same(one, two):
    """Batches equal to the last bit, rows and all."""
    assert one.rows == two.rows
    assert one.batch.splits == two.batch.splits
    for name, value in vars(one.batch).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(two.batch, name)), name
    for mine, its in zip(one.batch.pending, two.batch.pending, strict=True):
        assert torch.equal(mine.pixels, its.pixels)
        assert torch.equal(mine.eps, its.eps)
    return True


@pytest.mark.parametrize("world", [1, 4])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_resumed_equals_uninterrupted(stream, workers, world):
    """Stopped after any of the first batches, at every rank, with the state through JSON."""
    rank = world - 1
    whole = take(PackedLoader(stream(workers=workers), rank=rank, world=world), 8)
    for stop in (1, 2, 5) if workers == 0 else (2,):
        loaders = [PackedLoader(stream(workers=workers), rank=r, world=world) for r in range(world)]
        first = take(loaders[rank], stop)
        for other in loaders:
            if other.rank != rank:
                take(other, stop)
        states = json.loads(json.dumps([loader.state_dict() for loader in loaders]))
        again = PackedLoader(stream(workers=workers), rank=rank, world=world)
        again.load_state_dict(states)
        rest = take(again, 8 - stop)
        assert all(same(one, two) for one, two in zip(whole, first + rest, strict=True))
        assert again.tally.used >= sum(len(loaded.rows) for loaded in whole) or rank


def test_a_state_is_small(stream):
    loader = PackedLoader(stream())
    take(loader, 20)
    assert len(json.dumps(loader.state_dict())) < 1000


def test_workers_and_ranks_see_every_position_once(stream):
    """Whoever takes them, the positions are those of the stream, none twice."""
    for workers, world in ((0, 1), (2, 1), (0, 3), (2, 2)):
        loaders = [PackedLoader(stream(workers=workers), rank=rank, world=world) for rank in range(world)]
        positions = [row.position for loader in loaders for loaded in take(loader, 12) for row in loaded.rows]
        assert len(set(positions)) == len(positions)
        left = [p for loader in loaders for state in loader.state_dict()["states"].values() for p in state["queue"]]
        cursors = {s: state["cursor"] for loader in loaders for s, state in loader.state_dict()["states"].items()}
        shards = max(1, workers) * world
        assert sorted(positions + left) == sorted(p for s, end in cursors.items() for p in range(s, end, shards))


def walk(stream, world, batches, states=None, **changes):
    """Batches of the whole run in their order, taken by ``world`` ranks in turns, and the states after them."""
    loaders = [PackedLoader(stream(**changes), rank=rank, world=world) for rank in range(world)]
    for loader in loaders:
        if states is not None:
            loader.load_state_dict(states)
    taken = [take(loader, batches // world) for loader in loaders]
    return [loaded for turn in zip(*taken, strict=True) for loaded in turn], [one.state_dict() for one in loaders]


def test_batches_do_not_depend_on_ranks_and_workers(stream):
    whole, _ = walk(stream, 1, 24, shards=12)
    for world, workers in ((1, 2), (2, 0), (3, 2), (4, 3), (6, 0)):
        again, _ = walk(stream, world, 24, shards=12, workers=workers)
        assert all(same(one, two) for one, two in zip(whole, again, strict=True)), (world, workers)


@pytest.mark.parametrize(("before", "after"), [((1, 0), (2, 1)), ((2, 3), (3, 0)), ((3, 0), (1, 2)), ((2, 0), (6, 0))])
def test_resumed_on_other_ranks_the_same_batches_come(stream, before, after, caplog):
    whole, _ = walk(stream, 1, 24, shards=6)
    first, states = walk(stream, before[0], 12, shards=6, workers=before[1])
    rest, _ = walk(stream, after[0], 12, states, workers=after[1])
    assert all(same(one, two) for one, two in zip(whole, first + rest, strict=True))
    assert not caplog.records


@pytest.mark.parametrize(("before", "after"), [((2, 2), (1, 3)), ((1, 1), (0, 2)), ((0, 3), (1, 2))])
def test_another_number_of_shards_loses_and_repeats_nothing(stream, caplog, before, after):
    (workers, world), (new_workers, new_world) = before, after
    taken, states = walk(stream, world, 5 * world, workers=workers)
    positions = [row.position for loaded in taken for row in loaded.rows]
    with caplog.at_level(logging.WARNING):
        taken, states = walk(stream, new_world, 6 * new_world, states, workers=new_workers)
    assert "the same rows in other batches" in caplog.text
    positions += [row.position for loaded in taken for row in loaded.rows]
    assert len(set(positions)) == len(positions)
    left = [position for state in states for shard in state["states"].values() for position in shard["queue"]]
    reach = min(shard["cursor"] for state in states for shard in state["states"].values())
    assert set(range(reach)) <= set(positions) | set(left)


def test_shards_divide_among_ranks(stream):
    with pytest.raises(ConfigError, match="5 shards for 2 ranks"):
        PackedLoader(stream(shards=5), world=2)
    assert PackedLoader(stream(shards=6, workers=4), world=2).workers == 3


@given(
    shards=st.integers(1, 7),
    count=st.integers(1, 7),
    walked=st.lists(st.integers(0, 30), min_size=7, max_size=7),
    data=st.data(),
)
def test_spreading_states_deals_out_what_is_left(shards, count, walked, data):
    states, done = {}, set()
    for shard in range(shards):
        visited = [shard + n * shards for n in range(walked[shard])]
        queue = data.draw(st.lists(st.sampled_from(visited), unique=True)) if visited else []
        states[shard] = ShardState(tuple(queue), shard + walked[shard] * shards)
        done |= set(visited) - set(queue)
    new = spread(states, count)
    horizon = 400
    to_come = [
        position for shard, state in new.items() for position in (*state.queue, *range(state.cursor, horizon, count))
    ]
    assert len(new) == count
    assert sorted(to_come) == sorted(set(range(horizon)) - done)


def test_one_row_feeds_eight_shards(stream):
    loaders = [PackedLoader(stream(weights=FamilyWeights(t2i=1)), rank=rank, world=8) for rank in range(8)]
    assert all(len(take(loader, 3)) == 3 for loader in loaders)


def test_batches_respect_the_budget_and_are_full(stream):
    batches = take(PackedLoader(stream(lookahead=24)), 40)
    assert all(loaded.batch.length <= 256 for loaded in batches)
    assert all(loaded.batch.length == sum(row.tokens for row in loaded.rows) for loaded in batches)
    assert np.mean([loaded.fill for loaded in batches]) >= 0.98
    for loaded in batches:
        loaded.batch.validate(TINY)


def test_short_samples_fill_a_batch_too(stream):
    """A window of few short samples would leave most of the budget empty."""
    batches = take(PackedLoader(stream(weights=FamilyWeights(text=1), max_tokens=2000, lookahead=2)), 5)
    assert min(loaded.fill for loaded in batches) > 0.95


def test_no_sample_waits_forever(stream):
    loader = PackedLoader(stream(lookahead=12))
    newest = 0
    for loaded in take(loader, 60):
        newest = max(newest, *(row.position for row in loaded.rows))
        queue = loaded.state.queue
        assert not queue or newest - queue[0] < 150


def test_the_observed_mix(stream):
    tally = PackedLoader(stream())
    take(tally, 300)
    counts = tally.tally.families
    total = sum(counts.values())
    # What waits in the window is drawn and not yet used: at most 12 of about 2,000.
    assert counts["i2t"] / total == pytest.approx(0.5, abs=0.01)
    assert counts["text"] / total == pytest.approx(0.25, abs=0.01)


def broken(folder, tmp_path, every=10):
    """The questions, every tenth broken in one of five ways."""
    rows = [json.loads(line) for line in (folder / "vqa.jsonl").read_text().splitlines()]
    Image.new("1", (20_000, 9_000)).save(tmp_path / "huge.png")
    (tmp_path / "cut.png").write_bytes((folder / "1.png").read_bytes()[:-40])
    lines = []
    for number in range(150):
        row = dict(rows[number % len(rows)], input_img=[{"path": str(folder / f"{number % 12}.png")}])
        line = json.dumps(row)
        if number % every == 0:
            line = [
                line[:-5],
                json.dumps({**row, "input_img": [{"path": "none.png"}]}),
                json.dumps({**row, "input_img": [{"path": "cut.png"}]}),
                json.dumps({**row, "input_img": [{"path": "cut.png"}] * 2}),
                json.dumps({**row, "input_img": [{"path": "huge.png"}]}),
            ][number // every % 5]
        lines.append(line)
    path = tmp_path / "broken.jsonl"
    path.write_text("\n".join(lines))
    return SourceSettings("broken", "i2t", (str(path),))


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_rows_are_counted_and_passed_over(stream, folder, tmp_path, workers, caplog):
    source = broken(folder, tmp_path)
    loader = PackedLoader(
        stream(sources=(source,), weights=FamilyWeights(i2t=1), workers=workers, max_bad_fraction=0.2)
    )
    with caplog.at_level(logging.WARNING):
        for _ in loader:
            states = loader.state_dict()["states"].values()
            if sum(state["cursor"] for state in states) > 450 * len(states):
                break
    tally = loader.tally
    assert set(tally.faults) == {"bad JSON", "missing image", "damaged image", "image count", "huge image"}
    waiting = sum(len(state["queue"]) for state in states)
    drawn = sum(len(range(shard, state["cursor"], len(states))) for shard, state in zip(range(9), states, strict=False))
    assert tally.used + tally.bad + waiting == drawn  # every row accounted for
    assert tally.bad / tally.seen == pytest.approx(0.1, abs=0.02)
    assert len([record for record in caplog.records if "passed over" in record.message]) == 5
    assert "broken.jsonl:" in caplog.text


def test_waiting_rows_count_as_good(stream, tmp_path):
    """Thousands of short rows wait before the first batch; 2 % of broken ones must not look like all."""
    good = json.dumps(
        {"main_task_type": "text", "message": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    )
    (tmp_path / "t.jsonl").write_text("\n".join("{" if number % 50 == 0 else good for number in range(3000)))
    source = SourceSettings("t", "text", (str(tmp_path / "t.jsonl"),))
    loader = PackedLoader(stream(sources=(source,), weights=FamilyWeights(text=1), max_tokens=8192))
    assert take(loader, 2)[0].fill > 0.99


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_broken_rows_stop_the_run(stream, folder, tmp_path, workers):
    source = broken(folder, tmp_path, every=2)
    loader = PackedLoader(stream(sources=(source,), weights=FamilyWeights(i2t=1), workers=workers))
    with pytest.raises(DataError, match="rows cannot be used: .*max_bad_fraction") as caught:
        take(loader, 100)
    assert "\n" not in str(caught.value)  # from a worker too


def test_only_broken_rows_stop_the_run(stream, tmp_path):
    (tmp_path / "none.jsonl").write_text("{\n" * 3)
    source = SourceSettings("none", "text", (str(tmp_path / "none.jsonl"),))
    with pytest.raises(DataError, match="100 of 100 rows cannot be used: 100 bad JSON"):
        take(PackedLoader(stream(sources=(source,), weights=FamilyWeights(text=1))), 1)


def test_long_samples_are_counted(stream, caplog):
    loader = PackedLoader(stream(max_sample_tokens=45))
    with caplog.at_level(logging.WARNING):
        take(loader, 20)
    assert loader.tally.too_long > 10
    assert caplog.text.count("over the limit of 45") == 1
    with pytest.raises(DataError, match="none fits the token limit.*max_sample_tokens"):
        take(PackedLoader(stream(max_sample_tokens=3)), 1)


def test_counts_go_on_after_a_stop(stream):
    loader = PackedLoader(stream())
    take(loader, 4)
    again = PackedLoader(stream())
    again.load_state_dict([loader.state_dict()])
    assert again.tally.state_dict() == loader.tally.state_dict()
    take(again, 3)
    whole = PackedLoader(stream())
    take(whole, 7)
    assert again.tally.state_dict() == whole.tally.state_dict()


def test_states_that_do_not_fit(stream):
    loader = PackedLoader(stream(), world=2)
    with pytest.raises(CheckpointError, match="states of 1 shards of 2.*all ranks"):
        loader.load_state_dict([loader.state_dict()])
    with pytest.raises(CheckpointError, match="states of 0 shards"):
        loader.load_state_dict([])
    ahead = PackedLoader(stream(), rank=1, world=2)
    take(ahead, 1)
    with pytest.raises(CheckpointError, match="the ranks stood at different batches"):
        loader.load_state_dict([loader.state_dict(), ahead.state_dict()])
    other = PackedLoader(stream(seed=1))
    with pytest.raises(CheckpointError, match="other sources, rows, weights or another seed"):
        other.load_state_dict([PackedLoader(stream()).state_dict()])


def test_cached_moments_are_used(stream, tmp_path, tiny_autoencoder):
    from unimedvl.model.vae import encode_latents

    cache = MomentCache(tmp_path, "tiny")
    first = take(PackedLoader(stream(cache, dropout=Dropout(0, 0, 0))), 3)
    assert all(item.key for loaded in first for item in loaded.batch.pending)
    encoded = [encode_latents(loaded.batch, tiny_autoencoder, TINY, cache.put) for loaded in first]
    again = take(PackedLoader(stream(cache, dropout=Dropout(0, 0, 0))), 3)
    for loaded, whole in zip(again, encoded, strict=True):
        assert loaded.batch.pending == ()
        torch.testing.assert_close(
            loaded.batch.latents, whole.latents, atol=5e-6, rtol=0
        )  # another order of operations
    assert Counter(path.suffix for path in tmp_path.rglob("*.*")) == {".safetensors": 1}


def test_a_family_without_a_share_is_not_opened(stream, tmp_path):
    absent = SourceSettings("absent", "interleaved", (str(tmp_path / "none.jsonl"),))
    with pytest.raises(DataError, match="no such data file"):
        stream(sources=(absent,), weights=FamilyWeights(interleaved=1))
    own = stream().settings.sources
    assert len(stream(sources=(*own, absent)).sources) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": 0}, "max_tokens 0"),
        ({"lookahead": 0}, "lookahead 0"),
        ({"workers": -1}, "workers -1"),
        ({"shards": 0}, "shards 0"),
        ({"max_bad_fraction": 1.0}, "max_bad_fraction 1.0"),
        ({"max_sample_tokens": 300}, "a sample must fit in a batch"),
        ({"sources": (SourceSettings("a", "text", ()),) * 2}, "two sources are called a"),
    ],
)
def test_settings_that_cannot_work(folder, changes, message):
    with pytest.raises(ConfigError, match=message):
        settings_for(folder, **changes)


@given(stop=st.integers(1, 12), workers=st.just(0))
@settings(max_examples=5, deadline=None)
def test_resume_after_any_batch(folder, codec, stop, workers):
    def make():
        own = settings_for(folder, workers=workers)
        return PackedLoader(Stream(own, Drafter(codec, TINY, own.transforms, own.dropout)))

    whole, loader, again = take(make(), 13), make(), make()
    take(loader, stop)
    again.load_state_dict([loader.state_dict()])
    assert all(same(one, two) for one, two in zip(whole[stop:], take(again, 13 - stop), strict=True))
