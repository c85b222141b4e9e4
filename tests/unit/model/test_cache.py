"""Bookkeeping of the KV cache: room, forks that share, truncation that never disturbs another row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from unimedvl.config import ModelConfig
from unimedvl.errors import DataError
from unimedvl.model.cache import KVCache

LLM = ModelConfig.preset("tiny").llm


def slots_of(row):
    return [slot for start, count in row.extents() for slot in range(start, start + count)]


def append(row, values):
    """Write marked keys behind the row, as a forward does."""
    for layer in row.cache.keys:
        layer[list(row.next_slots(len(values)))] = torch.tensor(values, dtype=torch.float32)[:, None, None]
    row.advance(len(values))


def content(row):
    return [int(row.cache.keys[0][slot, 0, 0]) for slot in slots_of(row)]


class CacheMachine(RuleBasedStateMachine):
    """Random appends, forks, cuts and closes; every row must always hold exactly what was put into it."""

    def __init__(self):
        super().__init__()
        self.cache = KVCache(LLM, 120)
        self.rows = []
        self.counter = 0

    def tokens(self, count):
        self.counter += count
        return list(range(self.counter - count, self.counter))

    @rule(capacity=st.integers(1, 40))
    def open(self, capacity):
        try:
            self.rows.append((self.cache.open(capacity), []))
        except DataError:
            assert self.cache.free_slots < 120

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def append(self, data):
        row, expected = data.draw(st.sampled_from(self.rows))
        values = self.tokens(data.draw(st.integers(0, row.room)))
        append(row, values)
        expected += values

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), capacity=st.integers(1, 20))
    def fork(self, data, capacity):
        row, expected = data.draw(st.sampled_from(self.rows))
        length = data.draw(st.integers(0, len(row)))
        try:
            self.rows.append((row.fork(capacity, length), expected[:length]))
        except DataError:
            assert self.cache.free_slots < 120

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def truncate(self, data):
        row, expected = data.draw(st.sampled_from(self.rows))
        length = data.draw(st.integers(0, len(row)))
        try:
            row.truncate(length)
        except DataError:
            return  # no room to move; the row must be as it was, which the invariant checks
        del expected[length:]

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def close(self, data):
        pair = data.draw(st.sampled_from(self.rows))
        self.rows = [other for other in self.rows if other is not pair]
        pair[0].close()

    @invariant()
    def rows_hold_what_was_appended(self):
        for row, expected in self.rows:
            assert len(row) == len(expected)
            assert content(row) == expected

    def teardown(self):
        for row, _ in self.rows:
            row.close()
        assert self.cache.free_slots == 120


CacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestCache = CacheMachine.TestCase


def test_a_fork_copies_nothing():
    cache = KVCache(LLM, 64)
    row = cache.open(32)
    append(row, [1, 2, 3])
    fork = row.fork(8)
    assert slots_of(fork) == slots_of(row)
    append(fork, [4])
    append(row, [5, 6])
    assert content(fork) == [1, 2, 3, 4]
    assert content(row) == [1, 2, 3, 5, 6]


def test_truncating_under_a_fork_moves_only_what_is_written_next():
    cache = KVCache(LLM, 64)
    row = cache.open(16)
    append(row, [1, 2, 3, 4])
    fork = row.fork(4)
    row.truncate(2)
    append(row, [7, 8])
    assert content(fork) == [1, 2, 3, 4]
    assert content(row) == [1, 2, 7, 8]


def test_closing_gives_slots_back_once_nobody_reads_them():
    cache = KVCache(LLM, 32)
    row = cache.open(20)
    append(row, [1])
    fork = row.fork(10)
    row.close()
    assert cache.free_slots == 2
    assert content(fork) == [1]
    fork.close()
    assert cache.free_slots == 32


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda cache, row: cache.open(100), "no run of 100 free slots.*close rows"),
        (lambda cache, row: cache.open(0), "0 tokens.*positive capacity"),
        (lambda cache, row: row.advance(99), "99 tokens do not fit.*larger capacity"),
        (lambda cache, row: row.truncate(5), "5 tokens of a row of 2.*within the row"),
        (lambda cache, row: row.fork(4, 3), "3 tokens of a row of 2.*within the row"),
        (lambda cache, row: (row.close(), row.fork(4)), "was closed.*open or fork"),
        (lambda cache, row: KVCache(LLM, 0), "0 slots.*number of tokens"),
    ],
)
def test_bad_requests(act, message):
    cache = KVCache(LLM, 64)
    row = cache.open(8)
    append(row, [1, 2])
    with pytest.raises(DataError, match=message):
        act(cache, row)
