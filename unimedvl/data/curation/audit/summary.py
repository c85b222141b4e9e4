"""What the ratings of an audit say: means with intervals, agreement, and the rows that fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np

from unimedvl.data.curation.audit.dimensions import BY_KEY, DIMENSIONS, MOST
from unimedvl.data.curation.audit.page import Sheet
from unimedvl.data.curation.audit.ratings import Ratings
from unimedvl.errors import ConfigError

MEAN = "mean"  # of the seven, in place of a dimension's key
THRESHOLD = 3.0  # mean of the seven under which a row fails
_RESAMPLES = 2000


@dataclass(frozen=True)
class Score:
    """Mean over samples; of several raters of a sample their mean counts.

    Attributes:
        dimension: its key, or ``mean``: the mean of the seven, in which modality match counts 0 or 5.
        modality: whose samples; None of all.
        low, high: 95 % percentile bootstrap interval over samples; None with fewer than two.
        count: samples that someone rated and to which the dimension applies.
    """

    dimension: str
    modality: str | None
    value: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Agreement:
    """Of raters on one dimension, the mean over pairs of them.

    Attributes:
        kappa: quadratic weighted; None where it is undefined: no shared samples, or all with one and the same rating.
        exact: share of equal ratings; None without shared samples.
        count: shared ratings, summed over pairs of raters.
    """

    dimension: str
    kappa: float | None
    exact: float | None
    count: int


@dataclass(frozen=True)
class Failure:
    """A sample that should not stay.

    Attributes:
        mean: of the seven, over the raters; None if nothing applies.
        reason: ``modality`` or ``mean``.
        comments: what raters wrote, with their names.
    """

    id: str
    modality: str
    mean: float | None
    reason: str
    comments: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """All of it.

    Attributes:
        complete: for each rater, how many samples are fully rated.
        partial: how many are rated in part, if there are any; their ratings count for their dimensions alone.
    """

    audit: str
    samples: int
    threshold: float
    complete: dict[str, int]
    partial: dict[str, int]
    scores: list[Score]
    agreement: list[Agreement]
    failing: list[Failure]

    def values(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def summarize(sheet: Sheet, raters: Sequence[Ratings], *, threshold: float = THRESHOLD, seed: int = 0) -> Summary:
    """Everything that the ratings say.

    Args:
        threshold: mean of the seven, from 0 to 5, under which a sample fails.
        seed: of the resampling.

    Raises:
        ConfigError: the threshold is off the scale, or scipy or scikit-learn is absent.
    """
    complete = {one.rater: one.complete for one in raters}
    partial = {one.rater: len(one.scores) - one.complete for one in raters}
    return Summary(
        audit=sheet.audit,
        samples=len(sheet.modalities),
        threshold=threshold,
        complete=complete,
        partial={rater: count for rater, count in partial.items() if count},
        scores=_scores(sheet, raters, seed),
        agreement=[_agreement(dimension.key, raters) for dimension in DIMENSIONS] if len(raters) > 1 else [],
        failing=failing(sheet, raters, threshold=threshold),
    )


def failing(sheet: Sheet, raters: Sequence[Ratings], *, threshold: float = THRESHOLD) -> list[Failure]:
    """Samples whose modality at least half of their raters call wrong, or whose mean is under the threshold.

    Only who rated all seven dimensions of a sample is asked; samples that nobody rated so do not fail.

    Raises:
        ConfigError: the threshold is off the scale.
    """
    if not 0 <= threshold <= MOST:
        raise ConfigError(f"threshold {threshold:g}", where="threshold", remedy=f"give a mean from 0 to {MOST}")
    failures = []
    for pair, modality in sheet.modalities.items():
        judges = [one for one in raters if one.judged(pair)]
        match, mean = _of_sample(judges, pair, "modality"), _of_sample(judges, pair, MEAN)
        wrong = match is not None and match <= 0.5
        if wrong or (mean is not None and mean < threshold):
            comments = tuple(f"{one.rater}: {one.comments[pair]}" for one in raters if pair in one.comments)
            failures.append(Failure(pair, modality, mean, "modality" if wrong else "mean", comments))
    return failures


def _of_sample(raters: Sequence[Ratings], pair: str, key: str) -> float | None:
    """The mean over raters; None where nobody gave one."""
    given = (one.mean(pair) if key == MEAN else one.scores.get(pair, {}).get(key) for one in raters)
    known = [value for value in given if value is not None]
    return fmean(known) if known else None


def _scores(sheet: Sheet, raters: Sequence[Ratings], seed: int) -> list[Score]:
    scores = []
    for modality in (None, *sorted(set(sheet.modalities.values()))):
        pairs = [pair for pair, own in sheet.modalities.items() if modality in (None, own)]
        for key in (*BY_KEY, MEAN):
            values = [value for pair in pairs if (value := _of_sample(raters, pair, key)) is not None]
            if values:
                low, high = _interval(values, seed)
                scores.append(Score(key, modality, fmean(values), low, high, len(values)))
    return scores


def _interval(values: Sequence[float], seed: int) -> tuple[float, float] | tuple[None, None]:
    if len(values) < 2:
        return None, None
    found = _bootstrap()(
        (np.asarray(values, dtype=np.float64),),
        np.mean,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _agreement(key: str, raters: Sequence[Ratings]) -> Agreement:
    kappas, shares, count = [], [], 0
    for one, two in combinations(raters, 2):
        shared = _shared(one, two, key)
        count += len(shared)
        if not shared:
            continue
        shares.append(fmean(first == second for first, second in shared))
        if len({rating for pair in shared for rating in pair}) > 1:  # or else chance alone explains everything
            firsts, seconds = zip(*shared, strict=True)
            labels = list(range(BY_KEY[key].highest + 1))
            kappas.append(float(_kappa()(firsts, seconds, labels=labels, weights="quadratic")))
    return Agreement(key, fmean(kappas) if kappas else None, fmean(shares) if shares else None, count)


def _shared(one: Ratings, two: Ratings, key: str) -> list[tuple[int, int]]:
    """What both gave, in the order of the first."""
    pairs = ((scores.get(key), two.scores.get(pair, {}).get(key)) for pair, scores in one.scores.items())
    return [(first, second) for first, second in pairs if first is not None and second is not None]


def _bootstrap() -> Callable[..., Any]:
    try:
        from scipy.stats import bootstrap
    except ImportError as error:
        raise ConfigError("intervals need scipy", where="audit", remedy="pip install 'unimedvl[eval]'") from error
    return bootstrap


def _kappa() -> Callable[..., float]:
    try:
        from sklearn.metrics import cohen_kappa_score
    except ImportError as error:
        raise ConfigError("agreement needs sklearn", where="audit", remedy="pip install 'unimedvl[eval]'") from error
    return cohen_kappa_score
