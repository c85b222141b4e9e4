"""Packed batches for one rank, read by worker processes, with a state from which they go on exactly."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from unimedvl.data.faults import Tally
from unimedvl.data.stream import LoadedBatch, Shard, ShardState, Stream, spread, state_from
from unimedvl.errors import CheckpointError

log = logging.getLogger(__name__)


class PackedLoader:
    """Endless packed batches of one rank.

    Positions of the stream are dealt to ranks x workers shards. Every batch comes with the state of its shard after it,
    so what workers had prepared ahead when a run stopped is prepared again, and nothing is lost or repeated.

    Args:
        rank, world: of the data-parallel ranks.
    """

    def __init__(self, stream: Stream, *, rank: int = 0, world: int = 1) -> None:
        self.stream, self.rank, self.world = stream, rank, world
        self.workers = stream.settings.workers
        self.tally = Tally()
        self._lanes = max(1, self.workers)  # shards of this rank
        self._yielded = 0
        self._states: dict[int, ShardState] = {}

    def __iter__(self) -> Iterator[LoadedBatch]:
        for loaded in self._loader():
            self._yielded += 1
            self._states[loaded.shard] = loaded.state
            self.tally.add(loaded.tally)
            self.tally.check(self.stream.settings.max_bad_fraction)
            yield loaded

    def _loader(self) -> DataLoader[LoadedBatch]:
        # Lanes take turns; the one whose turn it is goes first.
        turn = self._yielded % self._lanes
        order = [(turn + lane) % self._lanes * self.world + self.rank for lane in range(self._lanes)]
        count = self._lanes * self.world
        shards = [Shard(self.stream, shard, count, self._states.get(shard)) for shard in order]
        if self.workers:
            _allow_open_files()
        return DataLoader(
            _Lanes(shards),
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=self.stream.settings.prefetch if self.workers else None,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # seeds workers; the global one is left alone
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain values, small: the mixture's fingerprint and, for each shard of this rank, a few positions."""
        mine = {self.rank + lane * self.world for lane in range(self._lanes)}
        states = {shard: self._states.get(shard, ShardState((), shard)) for shard in sorted(mine)}
        return {
            "mixture": self.stream.mixture.fingerprint,
            "shards": self._lanes * self.world,
            "rank": self.rank,
            "ranks": self.world,
            "yielded": self._yielded,
            "states": {shard: asdict(state) for shard, state in states.items()},
            "tally": self.tally.state_dict(),
        }

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on where the ranks stood.

        Args:
            states: the ``state_dict`` of every rank. Of another number of ranks or workers, the positions that were
                left are dealt out anew: the same rows come, in other batches.

        Raises:
            CheckpointError: a rank's state is missing, or the mixture is another.
        """
        merged: dict[int, ShardState] = {}
        for state in states:
            merged |= {int(shard): state_from(values) for shard, values in state["states"].items()}
        count = states[0]["shards"] if states else 0
        if not states or sorted(merged) != list(range(count)):
            raise CheckpointError(
                f"states of {len(merged)} shards of {count}", where="data", remedy="give those of all ranks"
            )
        if any(state["mixture"] != self.stream.mixture.fingerprint for state in states):
            raise CheckpointError(
                "the checkpoint was made with other sources, rows, weights or another seed",
                where="data",
                remedy="restore them, or start a new run from its weights",
            )
        mine = self._lanes * self.world
        if (count, states[0]["ranks"]) == (mine, self.world):
            self._yielded = next(state["yielded"] for state in states if state["rank"] == self.rank)
        else:
            then, now = (
                f"{ranks} ranks of {shards // ranks}"
                for shards, ranks in ((count, states[0]["ranks"]), (mine, self.world))
            )
            log.warning(
                "the data go on with %s workers instead of %s: no row is lost or repeated, batches differ", now, then
            )
            merged, self._yielded = spread(merged, mine), 0
        self._states = merged
        # What was counted is of the whole run: the first rank goes on with it.
        self.tally = Tally()
        if self.rank == 0:
            for state in states:
                self.tally.add(Tally.from_state(state["tally"]))


class _Lanes(IterableDataset[LoadedBatch]):
    """A shard for each worker."""

    def __init__(self, shards: list[Shard]) -> None:
        self.shards = shards

    def __iter__(self) -> Iterator[LoadedBatch]:
        worker = get_worker_info()
        return iter(self.shards[worker.id if worker else 0])


def _allow_open_files() -> None:
    """Every tensor that a worker hands over is an open file; the usual soft limit of 1,024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
