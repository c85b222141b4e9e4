"""What a data set holds, as files: ``stats.json`` and plots."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unimedvl.data.figures import histogram, name_bars, need_matplotlib, new_figure
from unimedvl.data.stats import COUNTED, ESTIMATED, KINDS, Stats, few, summary
from unimedvl.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BARS_SHOWN = 20


def write(stats: Stats, out: Path, *, plots: bool = True) -> list[Path]:
    """Write ``stats.json`` and the plots; the paths of what was written.

    Raises:
        DataError: the folder cannot be written, or matplotlib is absent.
    """
    if plots:
        need_matplotlib()
    try:
        out.mkdir(parents=True, exist_ok=True)
        written = [out / "stats.json"]
        written[0].write_text(json.dumps(stats.values(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        return written + (_plots(stats, out) if plots and stats.report.good else [])
    except OSError as error:
        raise DataError(f"cannot be written: {error}", where=str(out), remedy="give another folder") from error


def _plots(stats: Stats, out: Path) -> list[Path]:
    texts = {name: values for name, values in stats.measures.items() if " text, " in name}
    images = {name: values for name, values in stats.measures.items() if name.startswith("image ")}
    tokens = {name: values for name, values in stats.measures.items() if name in (ESTIMATED, COUNTED)}
    figures = {"counts.png": _bars(stats.counts)}
    for name, measures in (("texts.png", texts), ("images.png", images), ("tokens.png", tokens)):
        if measures:
            figures[name] = _histograms(measures)
    for name, figure in figures.items():
        figure.savefig(out / name, dpi=120)
    return [out / name for name in figures]


def _bars(counts: Mapping[str, Counter[str]]) -> Figure:
    """One panel of bars for each kind, as high as it has bars."""
    bars = {kind: few(counts[kind], _BARS_SHOWN)[::-1] for kind in KINDS}
    heights = [len(each) + 2.5 for each in bars.values()]  # bars, and room for the title and the numbers below
    figure = new_figure(0.26 * sum(heights))
    panels = figure.subplots(len(KINDS), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (kind, each) in zip(panels, bars.items(), strict=True):
        _bar_panel(axes, kind, each)
    return figure


def _bar_panel(axes: Axes, kind: str, bars: Sequence[tuple[str, int]]) -> None:
    drawn = axes.barh(range(len(bars)), [count for _, count in bars], height=0.7)
    axes.bar_label(drawn, [f"{count:,}" for _, count in bars], padding=3, fontsize=8)
    name_bars(axes, f"rows by {kind}", [name for name, _ in bars])


def _histograms(measures: Mapping[str, Sequence[int]]) -> Figure:
    """A histogram below the other for each measure, with its median and 95th percentile."""
    figure = new_figure(2.6 * len(measures))
    panels = figure.subplots(len(measures), 1, squeeze=False)[:, 0]
    for axes, (name, values) in zip(panels, measures.items(), strict=True):
        histogram(axes, name, values, summary(values))
    return figure
