"""Scores: a value with its interval, of all rows and of each kind and modality."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unimedvl.eval.answers import wilson
from unimedvl.eval.intervals import mean_interval
from unimedvl.eval.predict import Prediction

ALL = "all"


@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        digits: after the point.
        lower: whether less is better.
        short: head of a narrow column, if it is not the metric's key.
    """

    label: str
    digits: int = 3
    lower: bool = False
    short: str = ""


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("accuracy"),
    "closed_accuracy": Metric("accuracy, closed", short="closed"),
    "open_accuracy": Metric("exact match, open", short="open"),
    "open_recall": Metric("token recall, open", short="recall"),
    "open_f1": Metric("token F1, open", short="F1"),
    "unmatched": Metric("answers that match nothing", lower=True),
    "judged": Metric("right by the judge"),
    **{f"bleu-{n}": Metric(f"BLEU-{n}") for n in range(1, 5)},
    "rouge-1": Metric("ROUGE-1"),
    "rouge-l": Metric("ROUGE-L"),
    "meteor": Metric("METEOR"),
    "rate": Metric("RaTE"),
    "gfid": Metric("gFID", 2, lower=True),
    "kid": Metric("KID", 4, lower=True),
    "precision": Metric("precision"),
    "recall": Metric("recall"),
    "copies": Metric("copies of training images", lower=True, short="copies"),
    "clip": Metric("BioMedCLIP score"),
    "recognized": Metric("modality recognized (no CLIP)"),
    "psnr": Metric("PSNR, dB", 2),
    "ssim": Metric("SSIM"),
    "dice": Metric("Dice"),
    "iou": Metric("IoU"),
    "auroc": Metric("AUROC"),
    "f1": Metric("F1"),
    "rfid": Metric("rFID", 2, lower=True),
    "tokens_per_second": Metric("tokens/s", 2),
    "seconds_per_answer": Metric("s an answer", 2, lower=True),
    "seconds_per_image": Metric("s an image", 2, lower=True),
    "tflops_per_answer": Metric("TFLOP an answer", 4, lower=True, short="TFLOP/answer"),
    "tflops_per_image": Metric("TFLOP an image", 4, lower=True, short="TFLOP/image"),
    "memory_gb": Metric("peak memory, GB", 2, lower=True, short="GB"),
    "weights_gb": Metric("weights, GB", 2, lower=True),
}


@dataclass(frozen=True)
class Score:
    """A metric of a group of rows.

    Attributes:
        metric: a key of ``METRICS``.
        group: ``all``, ``kind=...`` or ``modality=...``.
        low, high: its 95 % interval: Wilson's of a share, else by bootstrap; None where there is none.
    """

    metric: str
    value: float
    count: int
    group: str = ALL
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Item:
    """One prediction with its own scores."""

    prediction: Prediction
    scores: Mapping[str, float]
    more: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """For ``items.jsonl``."""
        row = self.prediction.row
        return {
            "name": self.prediction.ask.name,
            "kind": row.kind,
            "modality": row.modality,
            "question": row.prompt,
            "truths": list(row.truths),
            "answer": self.prediction.text,
            "image": None if self.prediction.image is None else f"images/{self.prediction.image.name}",
            "error": self.prediction.error,
            "seconds": self.prediction.seconds,
            "scores": dict(self.scores),
            **self.more,
        }


@dataclass(frozen=True)
class Scored:
    """What a family makes of its predictions.

    Attributes:
        protocol: how it was measured, for the result file.
        notes: lines that stand below the table.
    """

    items: Sequence[Item]
    scores: Sequence[Score]
    protocol: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


def groups_of(items: Sequence[Item]) -> dict[str, list[Item]]:
    """All items, then those of each kind and of each modality where there are several."""
    groups = {ALL: list(items)}
    for label in ("kind", "modality"):
        values = [getattr(item.prediction.row, label) for item in items]
        names = sorted(set(values) - {""})
        if len(names) > 1:
            groups |= {
                f"{label}={name}": [item for item, value in zip(items, values, strict=True) if value == name]
                for name in names
            }
    return groups


def means(items: Sequence[Item]) -> list[Score]:
    """The mean of every metric that items have, by group."""
    scores = []
    for group, members in groups_of(items).items():
        for metric in dict.fromkeys(name for item in members for name in item.scores):
            values = [item.scores[metric] for item in members if metric in item.scores]
            low, high = interval_of(values)
            scores.append(Score(metric, float(np.mean(values)), len(values), group, low, high))
    return scores


def by_group(items: Sequence[Item], metric: str, value: Callable[[Sequence[Item]], float | None]) -> Iterable[Score]:
    """A metric of whole groups, such as a distance of distributions; none where ``value`` is None."""
    for group, members in groups_of(items).items():
        found = value(members)
        if found is not None:
            yield Score(metric, found, len(members), group)


def interval_of(values: Sequence[float]) -> tuple[float | None, float | None]:
    """95 %: Wilson's of shares, else by bootstrap."""
    if set(values) <= {0.0, 1.0}:
        return wilson(round(sum(values)), len(values))
    found = mean_interval(values)
    return found.low, found.high
