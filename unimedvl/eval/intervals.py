"""How sure a score is: bootstrap intervals of means, of any statistic, and of differences on the same items."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from unimedvl.errors import ConfigError, DataError

T = TypeVar("T")
_RESAMPLES = 2000
_NUMBERS_AT_ONCE = 10_000_000  # of a batch of resamples: 80 MB


@dataclass(frozen=True)
class Interval:
    """A value and its two-sided interval.

    Attributes:
        low, high: None with fewer than two items, which say nothing about spread.
        count: items.
        level: share of repetitions of the experiment whose interval would hold the true value.
    """

    value: float
    low: float | None
    high: float | None
    count: int
    level: float = 0.95


def mean_interval(
    values: Sequence[float], *, seed: int = 0, resamples: int = _RESAMPLES, level: float = 0.95
) -> Interval:
    """Percentile bootstrap interval of the mean of per-item values.

    Args:
        resamples: draws of as many items, with replacement.

    Raises:
        DataError: there is no value, or one is not finite.
    """
    values_N = np.asarray(values, dtype=np.float64)
    if values_N.ndim != 1 or not len(values_N) or not np.isfinite(values_N).all():
        raise DataError(
            f"{values_N.size} values, {int(np.isfinite(values_N).sum())} of them finite",
            where="interval",
            remedy="give one finite value for each item, and at least one",
        )
    low, high = _bootstrap((values_N,), np.mean, seed, resamples, level, vectorized=True)
    return Interval(float(values_N.mean()), low, high, len(values_N), level)


def statistic_interval(
    items: Sequence[T],
    statistic: Callable[[Sequence[T]], float],
    *,
    seed: int = 0,
    resamples: int = _RESAMPLES,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of a statistic that is not a mean over items, such as corpus BLEU or AUROC.

    Args:
        statistic: is called with every resample of the items; it must be finite on each.

    Raises:
        DataError: there are no items, or the statistic is not finite on a resample.
    """
    if not items:
        raise DataError("no items", where="interval", remedy="give at least one")

    def of_numbers(numbers_N: NDArray[np.intp]) -> float:
        value = float(statistic([items[number] for number in numbers_N.tolist()]))
        if not math.isfinite(value):
            raise DataError(
                "the statistic is not finite on a resample", where="interval", remedy="give more items, or another one"
            )
        return value

    everything = np.arange(len(items))
    low, high = _bootstrap((everything,), of_numbers, seed, resamples, level, vectorized=False)
    return Interval(of_numbers(everything), low, high, len(items), level)


def difference_interval(
    first: Sequence[T],
    second: Sequence[T],
    statistic: Callable[[Sequence[T]], float] | None = None,
    *,
    seed: int = 0,
    resamples: int = _RESAMPLES,
    level: float = 0.95,
) -> Interval:
    """Paired bootstrap of ``first`` minus ``second``: two systems on the same items, drawn together.

    Args:
        first, second: what each system has on each item, in the same order.
        statistic: of one system; the mean of its values by default.

    Raises:
        DataError: the items do not match, or as in :func:`mean_interval` and :func:`statistic_interval`.
    """
    if len(first) != len(second):
        raise DataError(
            f"{len(first)} items against {len(second)}", where="interval", remedy="compare on the same items"
        )
    if statistic is None:
        differences = np.subtract(np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64))
        return mean_interval(differences.tolist(), seed=seed, resamples=resamples, level=level)

    def difference(pairs: Sequence[tuple[T, T]]) -> float:
        return statistic([one for one, _ in pairs]) - statistic([two for _, two in pairs])

    pairs = list(zip(first, second, strict=True))
    return statistic_interval(pairs, difference, seed=seed, resamples=resamples, level=level)


def _bootstrap(
    data: tuple[NDArray[Any]],
    statistic: Callable[..., Any],
    seed: int,
    resamples: int,
    level: float,
    *,
    vectorized: bool,
) -> tuple[float, float] | tuple[None, None]:
    try:
        from scipy.stats import bootstrap
    except ImportError as error:
        raise ConfigError("intervals need scipy", where="interval", remedy="pip install 'unimedvl[eval]'") from error
    if resamples < 1 or not 0 < level < 1:
        raise ConfigError(
            f"{resamples} resamples for a level of {level}", where="interval", remedy="1 or more, and between 0 and 1"
        )
    if len(data[0]) < 2:
        return None, None
    found = bootstrap(
        data,
        statistic,
        n_resamples=resamples,
        batch=max(1, _NUMBERS_AT_ONCE // len(data[0])),
        vectorized=vectorized,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
