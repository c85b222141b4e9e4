"""The summary of an audit as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from unimedvl.data.curation.audit.dimensions import DIMENSIONS, MOST
from unimedvl.data.curation.audit.summary import MEAN, Score, Summary

_LABELS = {
    **{dimension.key: f"{dimension.label} (0-{dimension.highest})" for dimension in DIMENSIONS},
    MEAN: f"Mean of the seven (0-{MOST})",
}
_SHOWN = 20  # failing rows; the JSON has all


def text_table(summary: Summary) -> str:
    """Means of all samples, of each modality, agreement, and the failing rows."""
    return "\n".join(_lines(summary))


def _lines(summary: Summary) -> Iterator[str]:
    raters = ", ".join(f"{name} {count}" for name, count in summary.complete.items())
    yield f"{summary.samples} samples, fully rated by: {raters}"
    if summary.partial:
        partly = ", ".join(f"{name} {count}" for name, count in summary.partial.items())
        yield f"rated in part by: {partly}; these count for their dimensions, not for the mean and not as failing"
    yield ""
    yield from _overall(summary)
    yield from _modalities(summary)
    yield from _failures(summary)


def _overall(summary: Summary) -> Iterator[str]:
    agreed = {one.dimension: one for one in summary.agreement}
    yield f"{'':34}{'mean':>6}{'95 % interval':>16}{'samples':>9}" + (f"{'kappa':>8}{'equal':>7}" if agreed else "")
    for score in summary.scores:
        if score.modality is not None:
            continue
        interval = "" if score.low is None else f"{score.low:.2f} to {score.high:.2f}"
        line = f"{_LABELS[score.dimension]:34}{score.value:6.2f}{interval:>16}{score.count:9d}"
        if (found := agreed.get(score.dimension)) is not None:
            line += f"{_or_dash(found.kappa):>8}" + ("" if found.exact is None else f"{found.exact:7.0%}")
        yield line.rstrip()
    yield "Modality match counts 0 or 5 in the mean of the seven; what does not apply is left out."
    if agreed:
        yield "kappa: quadratic weighted, mean over pairs of raters; - where all ratings are the same."


def _modalities(summary: Summary) -> Iterator[str]:
    cells = {(score.modality, score.dimension): score for score in summary.scores if score.modality is not None}
    names = list(dict.fromkeys(modality for modality, _ in cells))
    if not names:
        return
    yield ""
    width = max(8, *(len(str(name)) for name in names))
    heads = [dimension.key[:12] for dimension in DIMENSIONS] + [MEAN]
    yield f"{'modality':{width}}{'samples':>9}" + "".join(f"{head:>14}" for head in heads)
    for name in names:
        own = [cells.get((name, key)) for key in (*(dimension.key for dimension in DIMENSIONS), MEAN)]
        count = max(score.count for score in own if score is not None)
        yield f"{name or 'none':{width}}{count:9d}" + "".join(f"{_short(score):>14}" for score in own)


def _failures(summary: Summary) -> Iterator[str]:
    yield ""
    count = len(summary.failing)
    yield f"{count} of {summary.samples} samples fail: wrong modality, or a mean under {summary.threshold:g}"
    for row in summary.failing[:_SHOWN]:
        why = "wrong modality" if row.reason == "modality" else "low mean"
        comments = f"  {'; '.join(row.comments)}" if row.comments else ""
        yield f"  {row.id}  {row.modality or 'none':12}  {_or_dash(row.mean):>5}  {why}{comments}"
    if count > _SHOWN:
        yield f"  and {count - _SHOWN} more, in the JSON"


def _short(score: Score | None) -> str:
    return "-" if score is None else f"{score.value:.2f}"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
