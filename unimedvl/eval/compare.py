"""Two results of the same rows: paired differences with bootstrap intervals, and bars by category."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from unimedvl.errors import DataError
from unimedvl.eval.intervals import difference_interval
from unimedvl.eval.run import ITEMS, open_result
from unimedvl.eval.scores import ALL, METRICS
from unimedvl.eval.tables import shown_group
from unimedvl.files import aside, write_json, write_text


@dataclass(frozen=True)
class Difference:
    """B minus A, of the rows that both have.

    Attributes:
        low, high: 95 % interval of the difference, by a paired bootstrap over rows; None of a single row.
    """

    metric: str
    group: str
    count: int
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None

    @property
    def clear(self) -> bool:
        """The interval leaves zero out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def compare(first: Path, second: Path) -> list[Difference]:
    """Differences of every metric that rows have, of all rows, each kind and each modality.

    A metric that is the same for every row of both, such as failures that never occur, is left out beside others.

    Raises:
        DataError: a result is absent, or they are of different rows.
    """
    results = [open_result(folder)["about"] for folder in (first, second)]
    if results[0]["rows_hash"] != results[1]["rows_hash"]:
        raise DataError(
            f"results of different rows ({results[0]['benchmark']}, {results[0]['rows']} rows; "
            f"{results[1]['benchmark']}, {results[1]['rows']} rows)",
            where=f"{first}, {second}",
            remedy="evaluate both models with the same data, split, limit and wording",
        )
    ours, theirs = _items(first), _items(second)
    names = [name for name in ours if name in theirs]
    every = [items[name] for items in (ours, theirs) for name in names]
    constant = _constant(every)
    if not any(item["scores"] for item in every):
        raise DataError("no row has a score of its own", where=f"{first}, {second}", remedy="see their result.json")
    if all(item["scores"].keys() <= constant for item in every):
        constant = set()
    found = []
    for group, members in _groups([ours[name] for name in names]).items():
        for metric in dict.fromkeys(m for item in members for m in item["scores"] if m not in constant):
            pairs = [
                (ours[item["name"]]["scores"][metric], theirs[item["name"]]["scores"][metric])
                for item in members
                if metric in item["scores"] and metric in theirs[item["name"]]["scores"]
            ]
            if pairs:
                found.append(_difference(metric, group, pairs))
    return found


def _constant(items: Sequence[Mapping[str, Any]]) -> set[str]:
    """Metrics with a single value."""
    values: dict[str, set[float]] = {}
    for item in items:
        for metric, value in item["scores"].items():
            values.setdefault(metric, set()).add(value)
    return {metric for metric, own in values.items() if len(own) == 1}


def _difference(metric: str, group: str, pairs: Sequence[tuple[float, float]]) -> Difference:
    first, second = (list(values) for values in zip(*pairs, strict=True))
    found = difference_interval(second, first)
    return Difference(metric, group, len(pairs), fmean(first), fmean(second), found.value, found.low, found.high)


def _items(folder: Path) -> dict[str, Mapping[str, Any]]:
    path = folder / ITEMS
    try:
        items = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError("no scored rows", where=str(path), remedy="run the evaluation again") from error
    return {item["name"]: item for item in items}


def _groups(items: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    groups = {ALL: list(items)}
    for label in ("kind", "modality"):
        names = sorted({item[label] for item in items} - {""})
        if len(names) > 1:
            groups |= {f"{label}={name}": [item for item in items if item[label] == name] for name in names}
    return groups


def table(found: Sequence[Difference], names: tuple[str, str]) -> str:
    """For a terminal: a star marks a difference whose interval leaves zero out."""
    width = max(len(shown_group(each.group)) for each in found)
    head = f"{'metric':32}{'group':{width + 2}}{names[0]:>12}{names[1]:>12}{'difference':>12}"
    lines = [f"{head}{'95 % interval':>21}{'rows':>6}"]
    for each in found:
        digits = METRICS[each.metric].digits
        interval = "" if each.low is None else f"{each.low:+.{digits}f} to {each.high:+.{digits}f}"
        lines.append(
            f"{METRICS[each.metric].label:32}{shown_group(each.group):{width + 2}}{each.first:12.{digits}f}"
            f"{each.second:12.{digits}f}{each.difference:+12.{digits}f}{interval:>21}{each.count:6d}"
            + (" *" if each.clear else "")
        )
    return "\n".join(lines)


def write_comparison(found: Sequence[Difference], names: tuple[str, str], out: Path) -> list[Path]:
    """``compare.json``, ``compare.txt`` and ``compare.png`` in a folder."""
    write_json(out / "compare.json", {"models": list(names), "differences": [asdict(each) for each in found]})
    write_text(out / "compare.txt", table(found, names) + "\n")
    with aside(out / "compare.png") as part:
        _bars(found, names, part)
    return [out / f"compare.{suffix}" for suffix in ("json", "txt", "png")]


def _bars(found: Sequence[Difference], names: tuple[str, str], path: Path) -> None:
    """One panel a metric: both models in each group, the difference's interval as a whisker on the second."""
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(each.metric for each in found))
    most = max(sum(each.metric == metric for each in found) for metric in metrics)
    figure = Figure(figsize=(5.2 * len(metrics), 1.2 + 0.42 * most), layout="constrained")
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axis, metric in zip(axes, metrics, strict=True):
        own = [each for each in found if each.metric == metric]
        places = np.arange(len(own))
        axis.barh(places - 0.2, [each.first for each in own], 0.38, label=names[0], color="#9db4c8")
        axis.barh(places + 0.2, [each.second for each in own], 0.38, label=names[1], color="#1f5f8b")
        whiskers = np.array([_whiskers(each) for each in own]).T
        axis.errorbar([each.second for each in own], places + 0.2, xerr=whiskers, fmt="none", ecolor="#1c2733", lw=1)
        labels = [f"{shown_group(each.group)} ({each.count}){' *' if each.clear else ''}" for each in own]
        axis.set_yticks(places, labels)
        axis.invert_yaxis()
        axis.set_title(METRICS[metric].label + (" (less is better)" if METRICS[metric].lower else ""), fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False)
    figure.supxlabel("whisker: 95 % interval of the difference; * it leaves zero out", fontsize=8)
    figure.savefig(path, dpi=150, format="png")


def _whiskers(each: Difference) -> tuple[float, float]:
    """How far the interval of the difference reaches below and above it."""
    if each.low is None or each.high is None:
        return 0.0, 0.0
    return max(0.0, each.difference - each.low), max(0.0, each.high - each.difference)
