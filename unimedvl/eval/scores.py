"""Scores: a value with its interval, of all rows and of each kind and modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

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
        share: whether single values are 0 or 1, and their mean a share.
        extractor: whether it is a distance between features of an extractor.
    """

    label: str
    digits: int = 3
    lower: bool = False
    short: str = ""
    share: bool = False
    extractor: bool = False


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("accuracy", share=True),
    "closed_accuracy": Metric("accuracy, closed", short="closed", share=True),
    "open_accuracy": Metric("exact match, open", short="open", share=True),
    "open_recall": Metric("token recall, open", short="recall"),
    "open_f1": Metric("token F1, open", short="F1"),
    "unmatched": Metric("answers that match nothing", lower=True, share=True),
    "judged": Metric("right by the judge", share=True),
    **{f"bleu-{n}": Metric(f"BLEU-{n}") for n in range(1, 5)},
    "rouge-1": Metric("ROUGE-1"),
    "rouge-l": Metric("ROUGE-L"),
    "meteor": Metric("METEOR"),
    "rate": Metric("RaTE"),
    "gfid": Metric("gFID", 2, lower=True, extractor=True),
    "kid": Metric("KID", 4, lower=True, extractor=True),
    "precision": Metric("precision", extractor=True),
    "recall": Metric("recall", extractor=True),
    "copies": Metric("nearer to training than 95 % of real", lower=True, short="copies", share=True),
    "clip": Metric("BioMedCLIP score"),
    "recognized": Metric("modality recognized (no CLIP)", share=True),
    "psnr": Metric("PSNR, dB", 2),
    "ssim": Metric("SSIM"),
    "dice": Metric("Dice"),
    "iou": Metric("IoU"),
    "auroc": Metric("AUROC"),
    "f1": Metric("F1"),
    "rfid": Metric("rFID", 2, lower=True, extractor=True),
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
    """The mean of every metric that items have, by group.

    Several draws of a row are one value, their mean, as far as the interval is concerned.
    """
    scores = []
    for group, members in groups_of(items).items():
        for metric in dict.fromkeys(name for item in members for name in item.scores):
            rows: dict[str, list[float]] = {}
            for item in members:
                if metric in item.scores:
                    rows.setdefault(item.prediction.row.name, []).append(item.scores[metric])
            values = [value for own in rows.values() for value in own]
            low, high = interval_of(metric, [fmean(own) for own in rows.values()])
            scores.append(Score(metric, fmean(values), len(values), group, low, high))
    return scores


def interval_of(metric: str, values: Sequence[float]) -> tuple[float | None, float | None]:
    """95 %: Wilson's of shares, else by bootstrap."""
    if METRICS[metric].share and set(values) <= {0.0, 1.0}:
        return wilson(round(sum(values)), len(values))
    found = mean_interval(values)
    return found.low, found.high
