"""Curves of training runs, as files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unimedvl.errors import DataError

_SMOOTH = 0.9
_COLORS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1")


LOSSES = ("ce", "mse")


@dataclass(frozen=True)
class Curve:
    """A loss of one run while training and on held-out rows, by step, each as (step, value) pairs."""

    training: tuple[tuple[int, float], ...]
    held_out: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Run:
    """What a run wrote about itself: its losses by name, its steps, and the seconds that they took."""

    curves: Mapping[str, Curve]
    steps: int
    seconds: float


def read_run(folder: Path) -> Run:
    """The metrics of a run; of a step that was done again after a resume, the later line counts.

    Raises:
        DataError: the folder has no metrics.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise DataError("no metrics.jsonl", where=str(folder), remedy="give the output folder of a training run")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    steps = {row["step"]: row for row in rows if "seconds" in row}
    held_out = {row["step"]: row["validation"] for row in rows if "validation" in row}
    curves = {
        name: Curve(
            tuple((step, row[name]) for step, row in sorted(steps.items()) if name in row),
            tuple((step, row[name]) for step, row in sorted(held_out.items()) if name in row),
        )
        for name in LOSSES
    }
    mean = sum(row["seconds"] for row in steps.values()) / max(1, len(steps))
    last = max(steps, default=0)
    return Run(curves, last, mean * last)


def plot(name: str, runs: Mapping[str, Curve], path: Path) -> None:
    """The runs one after the other, training smoothed as a line, held-out values as dots."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(5.2, 3.2), dpi=160, layout="constrained")
    axes = drawing.add_subplot()
    start = 0
    for color, (label, curve) in zip(_COLORS * len(runs), runs.items(), strict=False):
        steps = [start + step for step, _ in curve.training]
        axes.plot(steps, _smoothed([value for _, value in curve.training]), color=color, lw=1.4, label=label)
        dots = [(start + step, value) for step, value in curve.held_out]
        if dots:
            axes.plot(*zip(*dots, strict=True), "o", color=color, ms=4.5, mec="white", mew=0.6)
        start = max([*steps, *(step for step, _ in dots)], default=start)
        axes.axvline(start, color="#dde3e9", lw=0.8, zorder=0)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel(name)
    axes.set_title("line: training (smoothed); dots: held out", fontsize=8, color="#5b6875", loc="right")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    drawing.savefig(path)


def _smoothed(values: Sequence[float]) -> list[float]:
    """Exponential moving average."""
    result: list[float] = []
    for value in values:
        result.append(value if not result else _SMOOTH * result[-1] + (1 - _SMOOTH) * value)
    return result
