"""What plots of data share: figures without a display, panels of bars, histograms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from unimedvl.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAME_LENGTH = 32  # characters


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


def new_figure(height: float) -> Figure:
    """A figure of its own, 8 inches wide, which needs no display."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(8, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


def name_bars(axes: Axes, title: str, names: Sequence[str]) -> None:
    """The title, names and scale of horizontal bars at 0, 1, 2 and so on, upwards."""
    axes.set_yticks(range(len(names)), [short(name) for name in names], parse_math=False)
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.margins(x=0.12)
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)


def short(name: str) -> str:
    """A name on one line of at most 32 characters."""
    name = " ".join(name.split())
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"


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
