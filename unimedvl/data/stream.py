"""One shard of the endless stream: positions to rows, rows to drafts, drafts to packed batches."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from unimedvl.data.bins import fullest
from unimedvl.data.faults import Tally
from unimedvl.data.mixture import Mixture, Part
from unimedvl.data.moments import MomentCache, file_key
from unimedvl.data.packing import pack
from unimedvl.data.records import ImageRef, RecordError
from unimedvl.data.settings import DataSettings
from unimedvl.data.sources import Source
from unimedvl.data.tasks import Draft, Drafter
from unimedvl.types import PackedBatch

log = logging.getLogger(__name__)

# The window holds this many budgets of tokens, so that short samples too fill a batch.
_BUDGETS_AHEAD = 1.5


@dataclass(frozen=True)
class RowRef:
    """A row in a batch: where it stands in the stream, and where it was read."""

    position: int
    source: str
    family: str
    location: str
    epoch: int
    tokens: int


@dataclass(frozen=True)
class ShardState:
    """Where a shard goes on: first the positions of ``queue`` in their order, then from ``cursor`` in its stride."""

    queue: tuple[int, ...]
    cursor: int


@dataclass(frozen=True)
class LoadedBatch:
    """A packed batch with its rows, what was counted on the way, and the state after it."""

    batch: PackedBatch
    rows: tuple[RowRef, ...]
    tally: Tally
    shard: int
    state: ShardState
    budget: int

    @property
    def fill(self) -> float:
        """Part of the token budget that is used."""
        return self.batch.length / self.budget

    def pin_memory(self) -> LoadedBatch:
        """With the tensors in page-locked memory; data loaders call this."""
        return replace(self, batch=self.batch.pin_memory())


class Stream:
    """Everything that says what stands at a position: sources, mixture, drafter.

    Raises:
        ConfigError, DataError: the sources or the mix cannot work.
    """

    def __init__(self, settings: DataSettings, drafter: Drafter, moments: MomentCache | None = None) -> None:
        self.settings, self.drafter, self.moments = settings, drafter, moments
        weights = settings.weights
        # A family without a share is not even opened.
        used = [each for each in settings.sources if getattr(weights, each.family, 1) and each.weight != 0]
        self.sources = [Source(each.name, each.files, root=each.root, cache=settings.cache) for each in used]
        parts = [
            Part(each.name, each.family, len(source), each.weight)
            for each, source in zip(used, self.sources, strict=True)
        ]
        self.mixture = Mixture(parts, weights, settings.seed)

    def seeds(self, position: int) -> np.random.SeedSequence:
        """Of everything random at a position."""
        return np.random.SeedSequence([self.settings.seed, position])

    def location(self, position: int) -> str:
        """The row at a position."""
        draw = self.mixture.at(position)
        return self.sources[draw.part].location(draw.row)

    def draft(self, position: int) -> Draft:
        """The draft of the row at a position.

        Raises:
            RecordError: the row cannot be used.
        """
        draw = self.mixture.at(position)
        source = self.sources[draw.part]
        record, root = source.record(draw.row), source.root(draw.row)

        def read(ref: ImageRef) -> tuple[Image.Image, str]:
            return ref.read(root), "" if self.moments is None else file_key(ref, root)

        return self.drafter.draft(record, read, self.seeds(position))

    def row(self, position: int, draft: Draft) -> RowRef:
        """The row at a position, described."""
        draw = self.mixture.at(position)
        part = self.mixture.parts[draw.part]
        return RowRef(position, part.name, part.family, self.location(position), draw.epoch, draft.tokens)

    def batch(self, drafts: Mapping[int, Draft]) -> PackedBatch:
        """The drafts at some positions as one packed batch."""
        cached = None if self.moments is None else self.moments.get
        samples = [self.drafter.realize(draft, self.seeds(position), cached) for position, draft in drafts.items()]
        config, special = self.drafter.config, self.drafter.codec.special
        return pack(samples, config, special, reweight_ce=self.settings.reweight_ce)


@dataclass
class Shard:
    """Every ``count``-th position from ``index``, packed; iterating goes on forever.

    Args:
        state: where to go on; the start by default.
    """

    stream: Stream
    index: int
    count: int
    state: ShardState | None = None
    _window: dict[int, Draft] = field(default_factory=dict)
    _tokens: int = 0  # in the window
    _seen: Tally = field(default_factory=Tally)

    def __iter__(self) -> Iterator[LoadedBatch]:
        settings = self.stream.settings
        state = self.state or ShardState((), self.index)
        queue, cursor = list(state.queue), state.cursor
        tally = Tally()
        while True:
            while self._wants_more():
                if queue:
                    position = queue.pop(0)
                else:
                    position, cursor = cursor, cursor + self.count
                self._visit(position, tally)
            positions = list(self._window)
            chosen = fullest([draft.tokens for draft in self._window.values()], settings.max_tokens)
            drafts = {positions[number]: self._window.pop(positions[number]) for number in chosen}
            self._tokens -= sum(draft.tokens for draft in drafts.values())
            rows = tuple(self.stream.row(position, draft) for position, draft in drafts.items())
            for row in rows:
                tally.use(row.family, row.source)
                self._seen.use(row.family, row.source)
            after = ShardState((*self._window, *queue), cursor)
            yield LoadedBatch(self.stream.batch(drafts), rows, tally, self.index, after, settings.max_tokens)
            tally = Tally()

    def _wants_more(self) -> bool:
        settings = self.stream.settings
        return len(self._window) < settings.lookahead or self._tokens < _BUDGETS_AHEAD * settings.max_tokens

    def _visit(self, position: int, tally: Tally) -> None:
        """Let the row at a position wait to be packed, or count why it cannot be."""
        settings = self.stream.settings
        try:
            draft = self.stream.draft(position)
        except RecordError as error:
            for each in (tally, self._seen):
                each.fault(error.reason, f"{self.stream.location(position)}: {error}")
            self._seen.check(settings.max_bad_fraction, len(self._window))
            return
        if draft.tokens > settings.sample_limit:
            text = f"{self.stream.location(position)}: {draft.tokens} tokens, over the limit of {settings.sample_limit}"
            for each in (tally, self._seen):
                each.overlong(text)
            self._seen.check(settings.max_bad_fraction, len(self._window))
            return
        self._window[position] = draft
        self._tokens += draft.tokens


def spread(states: Mapping[int, ShardState], count: int) -> dict[int, ShardState]:
    """States of all shards as those of another number of shards; no position is lost or repeated.

    What the shards had left behind the furthest of them is dealt out first.
    """
    old = len(states)
    end = max(state.cursor for state in states.values())
    left = sorted(position for state in states.values() for position in (*state.queue, *range(state.cursor, end, old)))
    return {shard: ShardState(tuple(left[shard::count]), end + (shard - end) % count) for shard in range(count)}


def state_from(values: Mapping[str, Any]) -> ShardState:
    """A shard's state from plain values."""
    return ShardState(tuple(values["queue"]), values["cursor"])
