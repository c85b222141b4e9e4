"""Plots of a corpus: its funnel, what it is made of, how long its texts are, and how its scores lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unimedvl.data.curation.counts import SCORE_STEP, DecisionCounts, PairCounts, Splits, ranked, summary_of, task_name
from unimedvl.data.curation.pairs import SPLITS
from unimedvl.data.figures import even_edges, histogram, name_bars, need_matplotlib, new_figure, scale_counts
from unimedvl.errors import DataError
from unimedvl.files import aside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = "plots"
_BARS = 20
_GONE = "#c9c9c9"


def write_plots(folder: Path, stages: Mapping[str, int], pairs: PairCounts, decisions: DecisionCounts) -> list[str]:
    """Draw what there is; the names of the plots, none if matplotlib is absent. Those of an earlier run are replaced.

    Args:
        folder: of the corpus.
        stages: pairs after each.
    """
    figures = _figures(stages, pairs, decisions) if _can_plot() else {}
    for name in ("funnel", "modalities", "tasks", "texts", "scores"):
        if name not in figures:
            (folder / FOLDER / f"{name}.png").unlink(missing_ok=True)
    for name, figure in figures.items():
        with aside(folder / FOLDER / f"{name}.png") as part:
            figure.savefig(part, dpi=120, metadata={"Software": None})  # the version of matplotlib is no content
    return list(figures)


def _figures(stages: Mapping[str, int], pairs: PairCounts, decisions: DecisionCounts) -> dict[str, Figure]:
    figures = {"funnel": _funnel(stages)}
    if pairs.pairs:
        tasks = {task_name(*task): splits for task, splits in pairs.tasks.items()}
        figures["modalities"] = _stacked("pairs by modality", pairs.modalities)
        figures["tasks"] = _stacked("pairs by task", tasks)
    if lengths := {name: counts for name, counts in pairs.lengths.items() if counts}:
        figures["texts"] = _lengths(lengths)
    if any(decisions.scores.values()):
        figures["scores"] = _scores(decisions.scores)
    return figures


def _can_plot() -> bool:
    """A corpus of hours does not fail for its plots; the card says how to get them."""
    try:
        need_matplotlib()
    except DataError:
        return False
    return True


def in_order(splits: Iterable[str]) -> list[str]:
    """Names of splits: the usual ones first."""
    return sorted(splits, key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name))


def _funnel(stages: Mapping[str, int]) -> Figure:
    """The pairs after each stage, from the first at the top, and in gray those that went there."""
    names, counts = list(stages)[::-1], np.array(list(stages.values())[::-1])
    gone = np.maximum(np.append(counts[1:], counts[-1]) - counts, 0)
    figure = new_figure(0.3 * len(names) + 1)
    axes = figure.subplots()
    axes.barh(range(len(names)), counts, height=0.7, label="stay")
    drawn = axes.barh(range(len(names)), gone, left=counts, height=0.7, color=_GONE, label="dropped")
    told = [f"{count:,}" + (f"  ({out:,} dropped)" if out else "") for count, out in zip(counts, gone, strict=True)]
    axes.bar_label(drawn, told, padding=3, fontsize=8)
    name_bars(axes, "pairs after each stage", [name.partition("-")[2] or name for name in names])
    axes.set_xlim(0, 1.25 * max(*counts, 1))
    return figure


def _stacked(title: str, table: Splits) -> Figure:
    """A bar for each name, the most frequent at the top, of a color for each split."""
    few = _few(ranked(table))[::-1]
    figure = new_figure(0.26 * len(few) + 1.1)
    axes = figure.subplots()
    left = np.zeros(len(few), np.int64)
    splits = in_order({split for _, counts in few for split in counts})
    for split in splits:
        width = np.array([counts[split] for _, counts in few])
        drawn = axes.barh(range(len(few)), width, left=left, height=0.7, label=split)
        left += width
    axes.bar_label(drawn, [f"{total:,}" for total in left], padding=3, fontsize=8)
    name_bars(axes, title, [name or "not told" for name, _ in few])
    _legend(axes)
    return figure


def _legend(axes: Axes) -> None:
    """Beside the title, where no bar is."""
    axes.legend(loc="lower right", bbox_to_anchor=(1.01, 0.99), ncols=8, fontsize=8, frameon=False)


def _few(rows: Sequence[tuple[str, Counter[str]]]) -> list[tuple[str, Counter[str]]]:
    """The first, and all others as one."""
    if len(rows) <= _BARS:
        return list(rows)
    rest = rows[_BARS - 1 :]
    others = sum((counts for _, counts in rest), Counter[str]())
    return [*rows[: _BARS - 1], (f"({len(rest):,} others)", others)]


def _lengths(lengths: Mapping[str, Counter[int]]) -> Figure:
    figure = new_figure(2.6 * len(lengths))
    panels = figure.subplots(len(lengths), 1, squeeze=False)[:, 0]
    for axes, (name, counts) in zip(panels, lengths.items(), strict=True):
        values = sorted(counts)
        histogram(axes, f"{name}, characters", values, summary_of(counts), [counts[value] for value in values])
    return figure


def _scores(scores: Mapping[bool, Counter[int]]) -> Figure:
    """How many of each score stay and go."""
    groups = [(np.array(sorted(scores[kept])), scores[kept]) for kept in (True, False)]
    least = min(int(values.min()) for values, _ in groups if len(values))
    most = max(int(values.max()) for values, _ in groups if len(values))
    figure = new_figure(2.8)
    axes = figure.subplots()
    axes.hist(
        [values * SCORE_STEP for values, _ in groups],
        bins=(np.array(even_edges(least, most)) * SCORE_STEP).tolist(),
        weights=[[counts[int(value)] for value in values] for values, counts in groups],
        stacked=True,
        color=["C0", _GONE],
        label=[f"{scores[kept].total():,} {word}" for kept, word in ((True, "kept"), (False, "dropped"))],
    )
    axes.set_title("alignment score", loc="left", fontsize=11)
    _legend(axes)
    scale_counts(axes)
    return figure
