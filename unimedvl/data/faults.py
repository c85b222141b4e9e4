"""Rows that could not be used: counted by reason, told once, and too many of them stop the run."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from unimedvl.errors import DataError

log = logging.getLogger(__name__)

# Fractions of fewer rows say little; and so many rows in a row without one that fits is no accident.
_ENOUGH = 100
TOO_LONG = "too long"


@dataclass
class Tally:
    """What became of the rows that were drawn.

    Attributes:
        used: rows that stand in batches.
        faults: how many rows could not be used, by reason; rows over the token limit are counted in ``too_long``.
        first: location and description of the first row of each reason.
        families: rows used, by family of the mixture; ``sources`` the same by source.
    """

    used: int = 0
    too_long: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    families: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)

    @property
    def bad(self) -> int:
        """Rows that could not be read."""
        return sum(self.faults.values())

    @property
    def seen(self) -> int:
        """Rows of which it is known what became of them."""
        return self.used + self.too_long + self.bad

    def fault(self, reason: str, description: str) -> None:
        """Count a row that could not be read."""
        self.faults[reason] = self.faults.get(reason, 0) + 1
        self.first.setdefault(reason, description)

    def overlong(self, description: str) -> None:
        """Count a row over the token limit."""
        self.too_long += 1
        self.first.setdefault(TOO_LONG, description)

    def use(self, family: str, source: str) -> None:
        """Count a row that went into a batch."""
        self.used += 1
        self.families[family] = self.families.get(family, 0) + 1
        self.sources[source] = self.sources.get(source, 0) + 1

    def add(self, other: Tally) -> None:
        """Add what another shard counted; tell of reasons that are new here, once each."""
        for reason, description in other.first.items():
            if reason not in self.first:
                self.first[reason] = description
                log.warning("rows are passed over, the first because of: %s", description)
        self.used += other.used
        self.too_long += other.too_long
        for mine, its in ((self.faults, other.faults), (self.families, other.families), (self.sources, other.sources)):
            for name, count in its.items():
                mine[name] = mine.get(name, 0) + count

    def check(self, max_bad_fraction: float, waiting: int) -> None:
        """Stop when too many rows are bad.

        Args:
            waiting: rows that were read and are not in a batch yet.

        Raises:
            DataError: of at least 100 rows more are bad than chance makes of ``max_bad_fraction`` (four standard
                deviations), or none of 1,000 fits the limit.
        """
        read = self.seen + waiting
        expected = max_bad_fraction * read
        if read >= _ENOUGH and self.bad > expected + 4 * expected**0.5:
            counts = ", ".join(f"{count} {reason}" for reason, count in sorted(self.faults.items()))
            worst = max(self.faults, key=lambda reason: self.faults[reason])
            raise DataError(
                f"{self.bad} of {read} rows cannot be used: {counts}; the first: {self.first[worst]}",
                where="max_bad_fraction",
                remedy=f"see them with `python -m unimedvl.data validate`, or allow more than {max_bad_fraction:g}",
            )
        if not self.used + waiting and self.too_long >= 10 * _ENOUGH:
            raise DataError(
                f"{self.too_long} rows and none fits the token limit; the first: {self.first[TOO_LONG]}",
                where="max_sample_tokens",
                remedy="raise the limit, or make the images smaller",
            )

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {name: dict(value) if isinstance(value, dict) else value for name, value in vars(self).items()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Tally:
        """The tally whose ``state_dict`` this is."""
        tally = cls()
        for name, value in state.items():
            setattr(tally, name, dict(value) if isinstance(value, dict) else value)
        return tally
