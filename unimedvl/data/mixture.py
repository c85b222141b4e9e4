"""Which row comes when: a function of (seed, position) and of nothing else.

The stream of positions is endless and the same for everyone; each of n shards takes every n-th position. Thus neither
the number of ranks nor that of workers changes what is drawn, and a state is one integer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from unimedvl.errors import ConfigError

BLOCK = 1024  # positions over which the wanted shares are met to one draw
_BLOCKS_KEPT, _COUNTED_AT_ONCE = 8, 65_536
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class FamilyWeights:
    """Shares of the task families in samples (paper, Table 12); they need not add to anything."""

    text: float = 0.0
    t2i: float = 0.0
    i2t: float = 0.0
    interleaved: float = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            if not 0 <= getattr(self, item.name) < float("inf"):
                raise ConfigError(
                    f"weight {getattr(self, item.name)}", where=f"weights.{item.name}", remedy="give 0 or more"
                )


@dataclass(frozen=True)
class Part:
    """A source in the mixture: its ``rows``, and its weight within its family (by default, its rows)."""

    name: str
    family: str
    rows: int
    weight: float | None = None


@dataclass(frozen=True)
class Draw:
    """What stands at a position: row ``row`` of part ``part``, in its ``epoch``-th pass."""

    position: int
    part: int
    row: int
    epoch: int


class Mixture:
    """Draws of rows in wanted shares, each source in reshuffled epochs.

    Within every block of 1,024 positions each source has its share of the draws to within one, in random order.

    Raises:
        ConfigError: a family has a weight and no source, or the other way round; or a part has no row.
    """

    def __init__(self, parts: Sequence[Part], weights: FamilyWeights, seed: int) -> None:
        self.parts = tuple(parts)
        self.seed = seed
        self.shares = _shares(self.parts, weights)
        self._edges = np.minimum(np.cumsum(self.shares), 1.0)
        self._edges[-1] = 1.0
        self._offset = float(np.random.default_rng([seed, 0]).random())
        self._blocks: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._counted = 0, np.zeros(len(self.parts), np.int64)
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    @property
    def fingerprint(self) -> str:
        """Changes with what decides a draw: names, families and numbers of rows, shares, seed; not with contents."""
        described = [[part.name, part.family, part.rows] for part in self.parts]
        text = json.dumps([described, [round(share, 12) for share in self.shares], self.seed])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def at(self, position: int) -> Draw:
        """The draw at a position, 0 or more."""
        block, inside = divmod(position, BLOCK)
        parts, ranks, before = self._block(block)
        part = int(parts[inside])
        epoch, index = divmod(int(before[part] + ranks[inside]), self.parts[part].rows)
        return Draw(position, part, int(self._order(part, epoch)[index]), epoch)

    def draws_before(self, position: int) -> np.ndarray:
        """int64 (parts,), how often each part was drawn before a position."""
        block, inside = divmod(position, BLOCK)
        parts, _, before = self._block(block)
        return before + np.bincount(parts[:inside], minlength=len(self.parts))

    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Part of every position of a block, how often it came before in the block, and before the block."""
        if block not in self._blocks:
            if len(self._blocks) == _BLOCKS_KEPT:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[block] = self._computed(block)
        return self._blocks[block]

    def _before(self, block: int) -> np.ndarray:
        """int64 (parts,), draws of each part before a block; counted on from the last one asked for."""
        start, counts = self._counted if self._counted[0] <= block else (0, np.zeros(len(self.parts), np.int64))
        for first in range(start, block, _COUNTED_AT_ONCE):
            counts = counts + self._counts(np.arange(first, min(first + _COUNTED_AT_ONCE, block))).sum(axis=0)
        self._counted = block, counts
        return counts

    def _computed(self, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        before = self._before(block)
        parts = np.repeat(np.arange(len(self.parts)), self._counts(np.array([block]))[0])
        parts = np.random.default_rng([self.seed, 1, block]).permutation(parts)
        ranks = np.empty(BLOCK, dtype=np.int64)
        for part in range(len(self.parts)):
            places = np.flatnonzero(parts == part)
            ranks[places] = np.arange(len(places))
        return parts, ranks, before

    def _counts(self, blocks: np.ndarray) -> np.ndarray:
        """int64 (blocks, parts): systematic sampling, its offset stepping by the golden ratio from block to block."""
        offsets = (self._offset + blocks * _GOLDEN) % 1.0
        edges = np.ceil(self._edges[None, :] * BLOCK - offsets[:, None]).astype(np.int64)
        edges[:, -1] = BLOCK
        return np.diff(np.clip(edges, 0, BLOCK), axis=1, prepend=0)

    def _order(self, part: int, epoch: int) -> np.ndarray:
        """The rows of a part as its epoch visits them; the last epoch asked for is kept."""
        known, order = self._orders.get(part, (-1, None))
        if known != epoch or order is None:
            order = np.random.default_rng([self.seed, 2, part, epoch]).permutation(
                np.arange(self.parts[part].rows, dtype=np.int32)
            )
            self._orders[part] = epoch, order
        return order


def _shares(parts: Sequence[Part], weights: FamilyWeights) -> np.ndarray:
    """float64 (parts,), adding to one."""
    families = {item.name: getattr(weights, item.name) for item in fields(weights)}
    if not parts or not any(families.values()):
        raise ConfigError("the mixture is empty", where="data", remedy="name sources, and weights of their families")
    shares = np.zeros(len(parts))
    for number, part in enumerate(parts):
        if part.family not in families:
            raise ConfigError(
                f"family {part.family!r}", where=f"source {part.name}", remedy=f"use one of {', '.join(families)}"
            )
        if part.rows < 1:
            raise ConfigError("the source has no row", where=f"source {part.name}", remedy="fill it, or leave it out")
        weight = part.rows if part.weight is None else part.weight
        if not 0 <= weight < float("inf"):
            raise ConfigError(f"weight {weight}", where=f"source {part.name}", remedy="give 0 or more")
        shares[number] = weight
    for family, wanted in families.items():
        members = [number for number, part in enumerate(parts) if part.family == family]
        total = shares[members].sum()
        if wanted and not total:
            raise ConfigError(
                f"the mix wants {wanted:g} of {family}, and no source has any",
                where=f"weights.{family}",
                remedy=f"add a source of family {family}, or set the weight to 0",
            )
        shares[members] *= wanted / total if total else 0.0
    return shares / shares.sum()
