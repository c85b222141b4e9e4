"""The table of all scores: one column a model, and what needs no model beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from unimedvl.eval.report.evaluated import Evaluated

_KINDS = (
    "modality",
    "body part",
    "plane",
    "position",
    "side",
    "modality yes/no",
    "body part yes/no",
    "caption",
    "fact",
)
_EDITS = {
    "super_resolution": "super-resolution",
    "staining": "virtual staining",
    "segmentation": "segmentation",
    "cross_modal": "T1 to white matter",
    "counterfactual": "counterfactual",
}
Result = Mapping[str, Any]
Value = Callable[[Result], float]


def score_table(models: Sequence[Evaluated]) -> tuple[list[str], list[list[str]]]:
    """Head and rows."""
    head = ["", *(model.name for model in models), "without a model"]
    return head, [list(row) for row in _rows([model.result for model in models])]


def _rows(results: Sequence[Result]) -> Iterator[Sequence[str]]:
    first = results[0]

    def row(label: str, without: str, value: Value, digits: int = 2, best: Callable[..., float] = max) -> list[str]:
        values = [value(result) for result in results]
        top = best(values)
        cells = [f"<b>{each:.{digits}f}</b>" if each == top else f"{each:.{digits}f}" for each in values]
        return [escape(label), *cells, without]

    yield ["Held-out losses (without a model: fresh weights)"]
    for name in ("ce", "mse"):
        untrained = f"{first['losses']['untrained'][name]:.2f}"
        yield row(name, untrained, lambda r, n=name: r["losses"]["model"][n], 3, min)
    yield ["Answers that are right (without a model: the most frequent answer of training)"]
    kinds = first["answers"]["kinds"]
    for kind in (kind for kind in _KINDS if kind in kinds):
        majority = f"{kinds[kind]['majority']:.2f}"
        yield row(f"{kind} ({kinds[kind]['count']})", majority, lambda r, k=kind: r["answers"]["kinds"][k]["accuracy"])
    drawn = first["drawings"]
    yield ["Drawn from a caption"]
    yield row(
        f"modality recognized ({drawn['count']})",
        f"real images {drawn['real_recognized']:.2f}",
        lambda r: r["drawings"]["recognized"],
    )
    yield row(
        "nearer to a training image than 95 % of real ones",
        "real images 0.05",
        lambda r: r["drawings"]["copies"],
        2,
        min,
    )
    yield ["Made from an image: PSNR in dB (SSIM in the pictures' section)"]
    for task, label in _EDITS.items():
        ways = {name: values for name, values in first[task]["ways"].items() if name != "model"}
        without = "; ".join(f"{_short(name)} {values['psnr']:.1f}" for name, values in ways.items())
        yield row(
            f"{label} ({first[task]['count']})", escape(without), lambda r, t=task: r[t]["ways"]["model"]["psnr"], 1
        )
    dice = {name: value for name, value in first["segmentation"]["dice"].items() if name != "model"}
    without = "; ".join(f"{_short(name)} {value:.2f}" for name, value in dice.items())
    yield row("segmentation, Dice", escape(without), lambda r: r["segmentation"]["dice"]["model"])


def _short(name: str) -> str:
    for long, short in (("autoencoder (ceiling)", "ceiling"), ("nearest neighbor", "nearest")):
        name = name.replace(long, short)
    return name.partition(" of these")[0]
