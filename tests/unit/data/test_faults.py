from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unimedvl.data.faults import Tally
from unimedvl.data.moments import MomentCache, file_key
from unimedvl.data.records import ImageRef
from unimedvl.errors import DataError

names = st.sampled_from("abc")


@given(events=st.lists(st.tuples(st.sampled_from(["use", "fault", "overlong"]), names), max_size=30), at=st.integers(0))
def test_tallies_add_up(events, at):
    def counted(some):
        tally = Tally()
        for kind, name in some:
            if kind == "use":
                tally.use(name, name * 2)
            elif kind == "fault":
                tally.fault(name, f"{name} here")
            else:
                tally.overlong("long")
        return tally

    cut = at % (len(events) + 1)
    whole, parts = counted(events), counted(events[:cut])
    parts.add(counted(events[cut:]))
    assert parts.state_dict() == whole.state_dict()
    assert whole.seen == len(events)
    assert Tally.from_state(whole.state_dict()).state_dict() == whole.state_dict()


def test_few_rows_do_not_stop_a_run():
    tally = Tally()
    for _ in range(99):
        tally.fault("bad JSON", "a.jsonl:1")
    tally.check(0.0, 0)
    tally.fault("bad JSON", "a.jsonl:1")
    with pytest.raises(DataError, match="100 of 100 rows cannot be used: 100 bad JSON; the first: a.jsonl:1"):
        tally.check(0.5, 0)
    tally.check(0.5, 200)  # two hundred good ones wait to be packed


def test_chance_does_not_stop_a_run():
    """3 % of bad rows under a limit of 5 %: never, over 200 runs that check after every row."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        tally = Tally()
        for bad in generator.random(600) < 0.03:
            tally.fault("missing image", "a") if bad else tally.use("text", "s")
            tally.check(0.05, 0)


def test_too_many_bad_rows_are_found():
    tally = Tally()
    for number in range(2000):
        tally.fault("missing image", "a") if number % 10 == 0 else tally.use("text", "s")
    tally.check(0.1, 0)
    with pytest.raises(DataError, match="200 of 2000"):
        tally.check(0.06, 0)


def test_moments_are_kept_to_the_last_bit(tmp_path, caplog):
    cache = MomentCache(tmp_path, "vae")
    mean, std = torch.randn(4, 2, 3), torch.rand(4, 2, 3)
    assert cache.get("ab-16x16") is None
    cache.put("ab-16x16", mean, std)
    again = cache.get("ab-16x16")
    assert torch.equal(again[0], mean)
    assert torch.equal(again[1], std)
    assert MomentCache(tmp_path, "other").get("ab-16x16") is None
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:20])
    with caplog.at_level(logging.WARNING):
        assert cache.get("ab-16x16") is None
    assert "computed again" in caplog.text


def test_a_key_follows_the_file(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    first = file_key(ImageRef("a.png"), tmp_path)
    assert first == file_key(ImageRef(str(path)), None)
    path.write_bytes(b"three")
    assert file_key(ImageRef("a.png"), tmp_path) != first
    assert file_key(ImageRef(data=b"one"), None) != file_key(ImageRef(data=b"two"), None)
