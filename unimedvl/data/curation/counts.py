"""What a corpus holds, counted in one pass over its pairs and one over its decisions, in memory that does not grow."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unimedvl.data.curation.alignment import STAGE as ALIGNMENT
from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.pairs import Pair
from unimedvl.data.curation.privacy import STAGE as PRIVACY
from unimedvl.data.curation.stages import Stage
from unimedvl.errors import DataError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

SCORE_STEP = 0.001  # scores are counted, not kept
_HELD = 72  # of each kind, three times what a sheet shows: some cannot be shown

Splits = dict[str, Counter[str]]
"""By name, pairs of each split."""


@dataclass
class PairCounts:
    """What pairs hold.

    Attributes:
        pairs: of each split; those of none are in ``train``, as their records are.
        modalities: of each, by split.
        tasks: of each (family, subtask), by split.
        sources: of each (source, license).
        lengths: texts of so many characters, of ``questions`` and ``texts``.
        pictured: pairs with a picture of each kind, which is ("modality", name) or ("task", "family: subtask").
        samples: random pairs with a picture of each kind, in an order that is random too.
    """

    pairs: Counter[str] = field(default_factory=Counter)
    modalities: Splits = field(default_factory=dict)
    tasks: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    sources: Counter[tuple[str, str]] = field(default_factory=Counter)
    lengths: dict[str, Counter[int]] = field(default_factory=lambda: {"questions": Counter(), "texts": Counter()})
    pictured: Counter[tuple[str, str]] = field(default_factory=Counter)
    samples: dict[tuple[str, str], list[Pair]] = field(default_factory=dict)

    @property
    def sampled(self) -> frozenset[str]:
        """Ids of all samples."""
        return frozenset(pair.id for held in self.samples.values() for pair in held)


@dataclass
class DecisionCounts:
    """What was decided.

    Attributes:
        watched: ids of pairs that may be shown.
        reasons: decisions by (stage, action, reason), in the order of their first.
        scores: of the alignment, in steps of :data:`SCORE_STEP`; by whether the pair was kept.
        private: the watched pairs that the guard of privacy flagged.
    """

    watched: frozenset[str] = frozenset()
    reasons: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    scores: dict[bool, Counter[int]] = field(default_factory=lambda: {True: Counter(), False: Counter()})
    private: set[str] = field(default_factory=set)

    def add(self, decision: Decision) -> None:
        """Count one."""
        self.reasons[decision.stage, decision.action, decision.reason] += 1
        if decision.stage == ALIGNMENT and decision.score is not None:
            self.scores[decision.action != "drop"][round(decision.score / SCORE_STEP)] += 1
        if decision.stage == PRIVACY and decision.action == "flag" and decision.pair in self.watched:
            self.private.add(decision.pair)


def count_pairs(pairs: Iterable[Pair], seed: int) -> PairCounts:
    """Count, and sample by seed and ids alone, so that the order of the pairs does not matter."""
    counts = PairCounts()
    heaps: dict[tuple[str, str], list[tuple[int, int, Pair]]] = {}  # those of the lowest ranks, the highest on top
    for number, pair in enumerate(pairs):
        split = pair.split or "train"
        counts.pairs[split] += 1
        counts.modalities.setdefault(pair.modality, Counter())[split] += 1
        counts.tasks.setdefault((pair.family, pair.subtask), Counter())[split] += 1
        counts.sources[pair.source, pair.license] += 1
        for name, length in _lengths(pair):
            counts.lengths[name][length] += 1
        if pair.images or pair.target:
            entry = (-_rank(seed, pair.id), number, pair)
            for kind in (("modality", pair.modality), ("task", task_name(pair.family, pair.subtask))):
                counts.pictured[kind] += 1
                _hold(heaps.setdefault(kind, []), entry)
    counts.samples = {kind: [pair for *_, pair in sorted(heap, reverse=True)] for kind, heap in heaps.items()}
    return counts


def task_name(family: str, subtask: str) -> str:
    """A task in one string."""
    return f"{family}: {subtask}" if subtask not in ("", family) else family


def funnel(stages: Sequence[Stage]) -> dict[str, int]:
    """Pairs after each stage, by the name of its folder; only the ends of the parts are read.

    Raises:
        DataError: a part is absent or damaged.
    """
    return {stage.folder.name: sum(map(_rows, stage.parts)) for stage in stages}


def sources_of(stage: Stage) -> set[str]:
    """Sources of the pairs of a stage; only their column is read.

    Raises:
        DataError: a part is absent or damaged.
    """
    return {source for part in stage.parts for source in _sources(part)}


def ranked(table: Mapping[str, Counter[str]]) -> list[tuple[str, Counter[str]]]:
    """The names of a table with their splits, the most frequent first."""
    return sorted(table.items(), key=lambda item: (-item[1].total(), item[0]))


def summary_of(counts: Counter[int]) -> dict[str, float]:
    """As :func:`unimedvl.data.stats.summary`, of numbers that are counted; at least one."""
    values_N = np.array(sorted(counts))
    count_N = np.array([counts[value] for value in values_N.tolist()])
    ranks_N, total = np.cumsum(count_N), int(count_N.sum())
    median, p95 = (float(values_N[np.searchsorted(ranks_N, share * total)]) for share in (0.5, 0.95))
    mean = float(values_N @ count_N) / total
    return {"n": total, "min": int(values_N[0]), "median": median, "mean": mean, "p95": p95, "max": int(values_N[-1])}


def _rows(part: Path) -> int:
    with _opened(part) as file:
        return file.metadata.num_rows


def _sources(part: Path) -> set[str]:
    with _opened(part) as file:
        return set(file.read(["source"]).column("source").unique().to_pylist())


@contextmanager
def _opened(part: Path) -> Iterator[pq.ParquetFile]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(part) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"no part of pairs: {reason}", where=str(part), remedy="remove it and start again") from error


def _lengths(pair: Pair) -> Iterator[tuple[str, int]]:
    said = pair.more.get("turns") or (("human", pair.question), ("gpt", pair.text))
    for speaker, text in said:
        if length := len(text.strip()):
            yield "questions" if speaker == "human" else "texts", length


def _hold(heap: list[tuple[int, int, Pair]], entry: tuple[int, int, Pair]) -> None:
    (heapq.heappush if len(heap) < _HELD else heapq.heappushpop)(heap, entry)


def _rank(seed: int, pair: str) -> int:
    return int.from_bytes(hashlib.sha256(f"card {seed} {pair}".encode()).digest()[:8], "big")
