"""The best part of scored pairs stays; every pair keeps its score and, if it goes, the reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unimedvl.data.curation.alignment import STAGE, Scored
from unimedvl.data.curation.decisions import Decision
from unimedvl.errors import ConfigError


@dataclass(frozen=True)
class SelectionSettings:
    """How many stay.

    Attributes:
        fraction: of the pairs, rounded up, so that something always stays.
        per_modality: so many of each modality, instead of all pairs together.
    """

    fraction: float = 0.5
    per_modality: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            remedy = "give above 0 and at most 1"
            raise ConfigError(f"fraction {self.fraction}", where="selection.fraction", remedy=remedy)


def select(scored: Sequence[Scored], settings: SelectionSettings | None = None) -> list[Decision]:
    """A ``keep`` or ``drop`` for each pair, in their order; of equal scores the pair with the smaller id stays."""
    settings = settings or SelectionSettings()
    groups: dict[str, list[Scored]] = {}
    for one in scored:
        groups.setdefault(one.measured.modality if settings.per_modality else "", []).append(one)
    ranks: dict[str, tuple[int, int]] = {}
    for group in groups.values():
        ordered = sorted(group, key=lambda one: (-one.score, one.measured.pair))
        ranks.update({one.measured.pair: (rank, len(group)) for rank, one in enumerate(ordered, 1)})
    return [_decision(one, *ranks[one.measured.pair], settings) for one in scored]


def _decision(one: Scored, rank: int, count: int, settings: SelectionSettings) -> Decision:
    stays = rank <= math.ceil(round(settings.fraction * count, 9))  # 0.1 of 30 is 3, whatever binary fractions say
    among = f"of {one.measured.modality}" if settings.per_modality else "of all"
    detail = f"rank {rank} of {count} {among}; {one.detail}"
    reason = "well aligned" if stays else "poorly aligned"
    return Decision(one.measured.pair, STAGE, "keep" if stays else "drop", reason, detail, one.score)
