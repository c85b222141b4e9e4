"""Pictures made from pictures: staining, super-resolution, translation, segmentation; and counterfactuals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from unimedvl.eval import pictures
from unimedvl.eval.classes import image_judge
from unimedvl.eval.edits import BASELINES, enlarged
from unimedvl.eval.families import generation
from unimedvl.eval.families.context import Context
from unimedvl.eval.families.images import drawn, fitted, picture_of
from unimedvl.eval.families.reports import check as check_texts
from unimedvl.eval.families.reports import of_texts, scored_texts
from unimedvl.eval.predict import Prediction
from unimedvl.eval.rows import target_of
from unimedvl.eval.scores import ALL, Item, Score, Scored, means
from unimedvl.eval.settings import EvalSettings

_MASKS = "segmentation"
PROTOCOL = {
    "pictures": "8-bit RGB, data range 255; the target is resized to what was made where they differ (bicubic)",
    "ssim": "7 x 7 windows, mean of the three channels",
    "masks": "foreground is gray 128 and above",
}


def check(settings: EvalSettings) -> None:
    """Nothing but the base of the evaluation is needed."""


def check_counterfactual(settings: EvalSettings) -> None:
    """Texts, features and the classifier can be scored.

    Raises:
        ConfigError, DataError: something for them is missing.
    """
    check_texts(settings)
    generation.check(settings)
    if settings.findings is not None:
        image_judge(settings.findings)


def score(predictions: Sequence[Prediction], context: Context) -> Scored:
    """PSNR and SSIM, Dice and IoU of masks, each beside what needs no model."""
    items = picture_items(predictions)
    return Scored(items, [*means(items), *_baselines(items)], PROTOCOL, failed(predictions, items))


def picture_items(predictions: Sequence[Prediction]) -> list[Item]:
    """Every prediction that has a picture, against its target."""
    items = []
    for prediction in drawn(predictions):
        made = picture_of(prediction)
        target = fitted(target_of(prediction.row), made)
        if prediction.row.kind == _MASKS:
            masks = pictures.mask(made), pictures.mask(target)
            scores = {"dice": pictures.dice(*masks), "iou": pictures.iou(*masks)}
        else:
            scores = {"psnr": pictures.psnr(made, target), "ssim": pictures.ssim(made, target)}
        items.append(Item(prediction, scores))
    return items


def _baselines(items: Sequence[Item]) -> Iterator[Score]:
    """What the input itself, or a plain method, gets on the same rows."""
    for kind in dict.fromkeys(item.prediction.row.kind for item in items):
        own = [item for item in items if item.prediction.row.kind == kind]
        for name, method in BASELINES.get(kind, {}).items():
            if name == "bicubic" and not all(enlarged(item.prediction.row.inputs[0]) for item in own):
                continue  # the small picture that it starts from is not in the input
            pairs = []
            for item in own:
                target = target_of(item.prediction.row)
                pairs.append((fitted(method(item.prediction.row.inputs[0]), target), target))
            for metric in (pictures.psnr, pictures.ssim):
                value = float(np.mean([metric(*pair) for pair in pairs]))
                yield Score(metric.__name__, value, len(own), f"without a model={kind}, {name}")


def failed(predictions: Sequence[Prediction], items: Sequence[Item]) -> list[str]:
    """A line about rows without a picture."""
    missing = len(predictions) - len(items)
    return [f"{missing} rows without a picture are left out of the pictures' scores"] if missing else []


def score_counterfactual(predictions: Sequence[Prediction], context: Context) -> Scored:
    """GFID and the classifier's view of the pictures, the texts, and PSNR and SSIM."""
    items = picture_items(predictions)
    text_items, text_groups = scored_texts(predictions, context.settings)
    apart = generation.distances(predictions, context)
    said = {item.prediction.ask.name: item.scores for item in text_items}
    merged = [Item(i.prediction, {**i.scores, **said[i.prediction.ask.name]}) for i in items]
    scores = [
        *apart.scores,
        *generation.findings(predictions, context),
        *of_texts(text_groups[ALL], ALL),
        *means(items),
    ]
    protocol = {**PROTOCOL, **apart.protocol, **text_groups[ALL].about}
    return Scored(merged, scores, protocol, [*apart.notes, *failed(predictions, items)])
