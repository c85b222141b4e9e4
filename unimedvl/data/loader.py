"""Packed batches for one rank, read by worker processes, with a state from which they go on exactly."""

from __future__ import annotations

import logging
import resource
import signal
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from unimedvl.data.faults import Tally
from unimedvl.data.stream import LoadedBatch, Shard, ShardState, Stream, spread, state_from
from unimedvl.errors import CheckpointError, ConfigError, UniMedVLError

log = logging.getLogger(__name__)


class PackedLoader:
    """Endless packed batches of one rank.

    The n-th batch of the whole run, over all ranks, comes from shard n modulo the number of shards; ranks take batches
    in turns. So for one number of shards the batches of a step do not depend on ranks, accumulation or workers. Every
    batch comes with the state of its shard after it: what workers had prepared ahead when a run stopped is prepared
    again, and nothing is lost or repeated.

    Args:
        rank, world: of the data-parallel ranks.

    Raises:
        ConfigError: the shards do not divide among the ranks.
    """

    def __init__(self, stream: Stream, *, rank: int = 0, world: int = 1) -> None:
        self.stream, self.rank, self.world = stream, rank, world
        self.tally = Tally()
        self.shards = stream.settings.shards or world * max(1, stream.settings.workers)
        if self.shards % world:
            raise ConfigError(
                f"{self.shards} shards for {world} ranks", where="data.shards", remedy="give a multiple of the ranks"
            )
        self._yielded = 0
        self._states: dict[int, ShardState] = {}

    @property
    def workers(self) -> int:
        """Processes that read: the most that were asked for among which this rank's shards divide."""
        lanes = self.shards // self.world
        return next((count for count in range(self.stream.settings.workers, 0, -1) if lanes % count == 0), 0)

    def __iter__(self) -> Iterator[LoadedBatch]:
        for loaded in self._loader():
            if isinstance(loaded, UniMedVLError):
                raise loaded
            self._yielded += 1
            self._states[loaded.shard] = loaded.state
            self.tally.add(loaded.tally)
            waiting = sum(len(state.queue) for state in self._states.values())
            self.tally.check(self.stream.settings.max_bad_fraction, waiting)
            yield loaded

    def _loader(self) -> DataLoader[LoadedBatch | UniMedVLError]:
        lanes, takers = self.shards // self.world, max(1, self.workers)
        # The data loader asks its workers in turns, the first one first.
        numbers = [(self._yielded + turn) * self.world + self.rank for turn in range(lanes)]
        shards = [Shard(self.stream, n % self.shards, self.shards, self._states.get(n % self.shards)) for n in numbers]
        if self.workers:
            _allow_open_files()
        return DataLoader(
            _Lanes([shards[taker::takers] for taker in range(takers)]),
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=self.stream.settings.prefetch if self.workers else None,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # seeds workers; the global one is left alone
            worker_init_fn=_outlive_signals if self.workers else None,
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain values, small: the mixture's fingerprint and, for each shard of this rank, a few positions."""
        mine = range(self.rank, self.shards, self.world)
        states = {shard: self._states.get(shard, ShardState((), shard)) for shard in mine}
        return {
            "mixture": self.stream.mixture.fingerprint,
            "shards": self.shards,
            "ranks": self.world,
            "yielded": self._yielded,
            "states": {shard: asdict(state) for shard, state in states.items()},
            "tally": self.tally.state_dict(),
        }

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on where the ranks stood.

        Args:
            states: the ``state_dict`` of every rank, of however many. The number of shards is kept if it divides among
                the ranks, and then the very same batches come; if not, the positions that were left are dealt out
                anew: none is lost or repeated, but batches differ.

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
        if len({state["yielded"] for state in states}) > 1:
            raise CheckpointError("the ranks stood at different batches", where="data", remedy="save them together")
        done = states[0]["yielded"] * states[0]["ranks"]
        if count % self.world == 0 and done % self.world == 0:
            self.shards, self._yielded = count, done // self.world
        else:
            log.warning(
                "%d shards after %d batches do not divide among %d ranks: the data go on with %d shards, the same rows "
                "in other batches",
                *(count, done, self.world, self.shards),
            )
            merged, self._yielded = spread(merged, self.shards), 0
        self._states = merged
        # What was counted is of the whole run: the first rank goes on with it.
        self.tally = Tally()
        if self.rank == 0:
            for state in states:
                self.tally.add(Tally.from_state(state["tally"]))


class _Lanes(IterableDataset[LoadedBatch | UniMedVLError]):
    """The shards of each worker, which take turns; an error is the last thing that comes.

    Raised in a worker, it would arrive wrapped in that process's traceback.
    """

    def __init__(self, shards: list[list[Shard]]) -> None:
        self.shards = shards

    def __iter__(self) -> Iterator[LoadedBatch | UniMedVLError]:
        worker = get_worker_info()
        lanes = [iter(shard) for shard in self.shards[worker.id if worker else 0]]
        try:
            while True:
                yield from (next(lane) for lane in lanes)
        except Exception as error:
            if not isinstance(error, UniMedVLError):
                raise
            yield error


def _outlive_signals(worker: int) -> None:
    """A signal to the whole group must not take the batches from a run that wants to be saved first."""
    del worker
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _allow_open_files() -> None:
    """Every tensor that a worker hands over is an open file; the usual soft limit of 1,024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
