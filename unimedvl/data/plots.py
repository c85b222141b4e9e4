"""What a data set holds, as files: ``stats.json`` and plots."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unimedvl.data.stats import COUNTED, ESTIMATED, KINDS, Stats, few, short, summary
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


def need_matplotlib() -> None:
    """See whether plots can be drawn.

    Raises:
        DataError: they cannot.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise DataError("plots need matplotlib", where="stats", remedy="pip install 'unimedvl[ui]'") from error
    del matplotlib


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


def new_figure(height: float) -> Figure:
    """A figure of its own, 8 inches wide, which needs no display."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(8, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


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


def name_bars(axes: Axes, title: str, names: Sequence[str]) -> None:
    """The title, names and scale of horizontal bars at 0, 1, 2 and so on, upwards."""
    axes.set_yticks(range(len(names)), [short(name) for name in names], parse_math=False)
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.margins(x=0.12)
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)


def _histograms(measures: Mapping[str, Sequence[int]]) -> Figure:
    """A histogram below the other for each measure, with its median and 95th percentile."""
    figure = new_figure(2.6 * len(measures))
    panels = figure.subplots(len(measures), 1, squeeze=False)[:, 0]
    for axes, (name, values) in zip(panels, measures.items(), strict=True):
        histogram(axes, name, values, summary(values))
    return figure


def histogram(
    axes: Axes, name: str, values: Sequence[int], told: Mapping[str, float], counts: Sequence[int] | None = None
) -> None:
    """A panel with the distribution of whole numbers, its median and 95th percentile.

    Args:
        told: as :func:`unimedvl.data.stats.summary`.
        counts: how often each value is there; once by default.
    """
    from matplotlib.ticker import LogLocator

    least, most = told["min"], told["max"]
    # A long tail would press everything else into the first bin.
    if least > 0 and most > 20 * told["median"]:
        axes.hist(np.asarray(values), bins=np.geomspace(least, most, 41).tolist(), weights=counts)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if most < 1000 * least else (1,)))
    else:
        axes.hist(np.asarray(values), bins=even_edges(int(least), int(most)), weights=counts)
        room = max(5 - (most - least) / 2, (most - least) / 20)
        axes.set_xlim(max(least - room, 0) - 0.5, most + room + 0.5)
        axes.locator_params(axis="x", integer=True)
    for key, style in (("median", "-"), ("p95", "--")):
        axes.axvline(told[key], color="black", linestyle=style, linewidth=1)
    axes.set_title(name, loc="left", fontsize=11)
    axes.set_title(f"median {told['median']:,.0f} (solid), p95 {told['p95']:,.0f} (dashed)", loc="right", fontsize=8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    scale_counts(axes)


def scale_counts(axes: Axes) -> None:
    """The vertical scale of a histogram."""
    axes.set_ylabel("count")
    axes.locator_params(axis="y", nbins=5, integer=True)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)


def even_edges(least: int, most: int) -> list[float]:
    """At most 41 edges of bins of equal width, each around as many whole numbers as the others."""
    width = max(1, math.ceil((most - least + 1) / 40))
    return [edge - 0.5 for edge in range(least, most + width + 1, width)]
