"""Preallocated key/value cache with rows that grow in place and forks that share their prefix.

One flat pool of slots per layer holds the keys and values of all rows. A row owns a run of slots; a fork owns
a run of its own and reads its prefix from the slots of the row it came from, so forking copies nothing and
truncating is a change of length. All bookkeeping is on the host: a forward never reads the device to find out
where to write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from unimedvl.config import LlmConfig
from unimedvl.errors import DataError

Extent = tuple[int, int]
"""A run of slots in the pool: (first slot, number of slots)."""


class KVCache:
    """The pool.

    Args:
        config: sizes of the decoder.
        slots: tokens that all rows together may hold.
        devices: that of each layer, or one for all.

    Attributes:
        keys, values: one (slots, K, d) tensor per layer.
    """

    def __init__(
        self,
        config: LlmConfig,
        slots: int,
        *,
        dtype: torch.dtype = torch.float32,
        devices: Sequence[torch.device] | torch.device | str = "cpu",
    ) -> None:
        if slots < 1:
            raise DataError(f"a cache of {slots} slots", remedy="give the number of tokens it must hold")
        shape = (slots, config.num_key_value_heads, config.head_dim)
        self.slots = slots
        if isinstance(devices, str | torch.device):
            devices = [torch.device(devices)] * config.num_hidden_layers
        # Zeros, not garbage: a masked slot's value still meets its weight of zero in attention over a whole row.
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for device in devices]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for device in devices]
        self._runs: list[_Run] = []

    def open(self, capacity: int) -> CacheRow:
        """An empty row with room for ``capacity`` tokens.

        Raises:
            DataError: no gap of that size is left.
        """
        return CacheRow(self, self._allocate(capacity))

    @property
    def free_slots(self) -> int:
        """Slots that no row holds."""
        return self.slots - sum(run.capacity for run in self._runs)

    def _allocate(self, capacity: int) -> _Run:
        if capacity < 1:
            raise DataError(f"a cache row of {capacity} tokens", remedy="give a positive capacity")
        start = 0
        for place, run in enumerate([*self._runs, None]):
            if (self.slots if run is None else run.start) - start >= capacity:
                new = _Run(start, capacity)
                self._runs.insert(place, new)
                return new
            if run is not None:
                start = run.start + run.capacity
        raise DataError(
            f"the cache has no run of {capacity} free slots ({self.free_slots} of {self.slots} are free)",
            remedy="close rows that are no longer used, or make the cache larger",
        )

    def _free_if_unused(self, run: _Run) -> None:
        if not run.owned and not run.readers:
            self._runs.remove(run)


class _Run:
    """Slots that one row owns, and whose leading ones forks may read.

    ``readers`` holds how many of them each fork reads: those must not be written again.
    """

    def __init__(self, start: int, capacity: int) -> None:
        self.start = start
        self.capacity = capacity
        self.owned = True
        self.readers: list[int] = []


class CacheRow:
    """One context in the cache: a shared prefix, then tokens of its own.

    Made by :meth:`KVCache.open` and :meth:`fork`. The model appends to it; :meth:`close` gives its slots back
    once no fork reads them.
    """

    def __init__(self, cache: KVCache, run: _Run, prefix: tuple[tuple[_Run, int], ...] = ()) -> None:
        self.cache = cache
        self._run = run
        self._prefix = prefix
        self._own = 0
        self._open = True

    def __len__(self) -> int:
        """Tokens of context in this row."""
        return sum(count for _, count in self._prefix) + self._own

    @property
    def room(self) -> int:
        """Tokens that can still be appended."""
        return self._run.capacity - self._own

    @property
    def region(self) -> Extent | None:
        """All slots of the row, free ones included; None for a fork, whose prefix lies elsewhere."""
        return None if self._prefix else (self._run.start, self._run.capacity)

    def fork(self, capacity: int, length: int | None = None) -> CacheRow:
        """A row that starts with the first ``length`` tokens of this one (all by default), without copying them.

        ``capacity`` is the room for tokens that only the fork has; a noised image needs room for its tokens while it
        is sampled, though it leaves none behind. Both rows may grow and be cut independently.

        Raises:
            DataError: ``length`` exceeds this row, or no room is left.
        """
        parts = self._parts(len(self) if length is None else length)
        run = self.cache._allocate(capacity)
        for part, count in parts:
            part.readers.append(count)
        return CacheRow(self.cache, run, parts)

    def truncate(self, length: int) -> None:
        """Keep the first ``length`` tokens.

        Tokens that a fork still reads stay where they are: what this row appends next then goes to fresh slots.

        Raises:
            DataError: ``length`` exceeds the row, or the fresh slots are not to be had.
        """
        parts = self._parts(length)
        own = max(0, length - (len(self) - self._own))
        if own >= max(self._run.readers, default=0):
            kept = parts[: len(parts) - bool(own)]
            for run, count in kept:
                run.readers.append(count)
            self._stop_reading()
            self._prefix, self._own = kept, own
            return
        moved = self.fork(self._run.capacity, length)
        self.close()
        self._run, self._prefix, self._own, self._open = moved._run, parts, 0, True

    def close(self) -> None:
        """Give the slots back; the row cannot be used again."""
        self._check_open()
        self._open = False
        self._run.owned = False
        self.cache._free_if_unused(self._run)
        self._stop_reading()

    def _stop_reading(self) -> None:
        for run, count in self._prefix:
            run.readers.remove(count)
            self.cache._free_if_unused(run)

    def extents(self, new: int = 0) -> tuple[Extent, ...]:
        """Slots of the context followed by ``new`` slots behind it, in order."""
        own = [(self._run.start, self._own + new)] if self._own + new else []
        return (*((run.start, count) for run, count in self._prefix), *own)

    def next_slots(self, count: int) -> range:
        """Slots of the next ``count`` tokens.

        Raises:
            DataError: the row is closed or has not that much room.
        """
        self._check_open()
        if count > self.room:
            raise DataError(
                f"{count} tokens do not fit a cache row with room for {self.room}",
                where=f"row of {len(self)} tokens",
                remedy="open or fork the row with a larger capacity",
            )
        first = self._run.start + self._own
        return range(first, first + count)

    def advance(self, count: int) -> None:
        """Keep the ``count`` tokens just written behind the context."""
        self._own += len(self.next_slots(count))

    def _parts(self, length: int) -> tuple[tuple[_Run, int], ...]:
        """The runs, with counts, that hold the first ``length`` tokens."""
        self._check_open()
        if not 0 <= length <= len(self):
            raise DataError(f"{length} tokens of a row of {len(self)}", remedy="give a length within the row")
        return tuple(self._take(length))

    def _take(self, length: int) -> Iterator[tuple[_Run, int]]:
        for run, count in (*self._prefix, (self._run, self._own)):
            if taken := min(count, length):
                yield run, taken
            length -= taken

    def _check_open(self) -> None:
        if not self._open:
            raise DataError("the cache row was closed", remedy="open or fork a new one")
