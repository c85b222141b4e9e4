"""Pictures drawn from captions, against real ones: distances of distributions, agreement with the caption, copies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unimedvl.errors import DataError
from unimedvl.eval.distributions import KERNEL, Distribution, distribution
from unimedvl.eval.families.context import Context
from unimedvl.eval.families.images import drawn, in_batches, picture_of
from unimedvl.eval.neighbors import neighbors, vector
from unimedvl.eval.predict import Prediction
from unimedvl.eval.rows import Row, read_rows, target_of
from unimedvl.eval.scores import ALL, METRICS, Item, Score, Scored, means
from unimedvl.eval.settings import EvalSettings
from unimedvl.eval.tables import shown_group

AVERAGE = "average"
_SHOWN = 0.5  # probability from which a classifier sees a class
_FEW = 20  # real pictures under which their 5 % quantile of distances says little


def check(settings: EvalSettings) -> None:
    """What features, captions and copies are judged with can be opened.

    Raises:
        ConfigError, DataError: it cannot.
    """
    if settings.extractor is not None:
        from unimedvl.eval.features import extractor

        extractor(settings.extractor)
    if settings.clip is not None:
        from unimedvl.eval.text_image import load_clip

        load_clip(settings.clip)
    if settings.classifier is not None:
        from unimedvl.eval.features import read_classifier

        read_classifier(str(settings.classifier))
    if settings.train is not None and not read_rows(settings.train, 1):
        raise DataError(
            "no rows", where=f"train={settings.train}", remedy="give the records of training, or leave it out"
        )


def score(predictions: Sequence[Prediction], context: Context) -> Scored:
    """GFID, KID, precision and recall by modality; agreement with the caption; nearest training pictures."""
    apart = distances(predictions, context)
    made = drawn(predictions)
    items = [Item(prediction, {}) for prediction in made]
    notes = [*apart.notes]
    if made:
        for add in (_with_clip, _with_classifier, _with_copies):
            items, told = add(items, context)
            notes += told
    if missing := len(predictions) - len(made):
        notes.append(f"{missing} rows without a picture are left out")
    return Scored(items, [*apart.scores, *means(items)], apart.protocol, notes)


def distances(predictions: Sequence[Prediction], context: Context, metric: str = "gfid") -> Scored:
    """The distances of all pictures, of each modality, and their average over modalities; no items.

    Args:
        metric: name of the Fréchet distance.
    """
    extractor, made = context.extractor, drawn(predictions)
    if extractor is None or not made:
        note = f"no {METRICS[metric].label}: " + (
            "no picture" if extractor else "give extractor= (unimedvl.eval.features)"
        )
        return Scored([], [], {}, [note])

    def features(images: Iterable[Image.Image]) -> NDArray[np.float32]:
        return np.concatenate([extractor(batch) for batch in in_batches(images)])

    rows = list({prediction.row.name: prediction.row for prediction in made}.values())
    made_MD, real_ND = features(map(picture_of, made)), features(map(target_of, rows))
    kinds = [prediction.row.modality for prediction in made], [row.modality for row in rows]
    names = sorted(set(kinds[1]) - {""})
    scores, notes, averaged = [], [], []
    for group in [ALL, *([f"modality={name}" for name in names] if len(names) > 1 else [])]:
        mine, real = (_of(group, values, own) for values, own in zip((made_MD, real_ND), kinds, strict=True))
        if min(len(mine), len(real)) < 2:
            notes.append(f"{shown_group(group)}: too few pictures for distances ({len(mine)} and {len(real)})")
            continue
        found = distribution(real, mine, seed=context.settings.seed)
        scores += _scores(found, metric, group)
        notes += [f"{group}: {note}" for note in found.notes if group == ALL]
        averaged += [(shown_group(group), found)] if group != ALL else []
    if averaged:
        count = sum(found.n_made for _, found in averaged)
        scores.append(Score(metric, fmean(found.fid for _, found in averaged), count, AVERAGE))
        notes += _about_average(metric, averaged, len(names))
    protocol = {
        "extractor": {"name": extractor.name, **extractor.about},
        "kid": f"kernel {KERNEL}, mean over up to 100 subsets of at most 1000",
        "manifold": "3 nearest neighbors",
        "real": len(real_ND),
        "drawn": len(made_MD),
        "seed": context.settings.seed,
    }
    return Scored([], scores, protocol, notes)


def _about_average(metric: str, averaged: Sequence[tuple[str, Distribution]], all_of_them: int) -> Iterator[str]:
    names = ", ".join(name for name, _ in averaged)
    if len(averaged) < all_of_them:
        yield f"the average {METRICS[metric].label} is over {names} alone"
    if small := [name for name, found in averaged if min(found.n_made, found.n_real) < found.dims]:
        yield f"fewer pictures than features, so that {METRICS[metric].label} is biased upwards: {', '.join(small)}"


def _of(group: str, values_ND: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float32]:
    kept = [group in (ALL, f"modality={name}") for name in names]
    return values_ND[np.array(kept)]


def _scores(found: Distribution, metric: str, group: str) -> Iterator[Score]:
    yield Score(metric, found.fid, found.n_made, group)
    if metric != "gfid":
        return
    yield Score("kid", found.kid.mean, found.n_made, group)
    if found.manifold is not None:
        yield Score("precision", found.manifold.precision, found.n_made, group)
        yield Score("recall", found.manifold.recall, found.n_made, group)


# --- of single pictures --------------------------------------------------------------------------------------

Added = tuple[list[Item], list[str]]


def _plus(item: Item, scores: Mapping[str, float], more: Mapping[str, Any] | None = None) -> Item:
    return Item(item.prediction, {**item.scores, **scores}, {**item.more, **(more or {})})


def _with_clip(items: Sequence[Item], context: Context) -> Added:
    """The similarity of picture and caption."""
    if context.settings.clip is None:
        return list(items), []
    from unimedvl.eval.text_image import load_clip

    clip, added = load_clip(context.settings.clip), []
    for first in range(0, len(items), clip.batch):
        part = items[first : first + clip.batch]
        images = [picture_of(item.prediction) for item in part]
        values = clip.similarities(images, [item.prediction.row.prompt for item in part])
        added += [_plus(item, {"clip": value}) for item, value in zip(part, values, strict=True)]
    return added, []


def _with_classifier(items: Sequence[Item], context: Context) -> Added:
    """Whether a classifier sees the modality that was asked for, where it knows it."""
    if context.settings.classifier is None:
        return list(items), []
    from unimedvl.eval.features import read_classifier

    classifier = read_classifier(str(context.settings.classifier))
    batches = in_batches(picture_of(item.prediction) for item in items)
    seen = [name for batch in batches for name in classifier.name(batch)]
    added = [
        _plus(item, {"recognized": float(name == item.prediction.row.modality)}, {"recognized_as": name})
        if item.prediction.row.modality in classifier.names
        else item
        for item, name in zip(items, seen, strict=True)
    ]
    unknown = sorted({item.prediction.row.modality or "none" for item in added if "recognized" not in item.scores})
    return added, [f"the classifier does not know {', '.join(unknown)}"] if unknown else []


def _with_copies(items: Sequence[Item], context: Context) -> Added:
    """Whether a picture is nearer to a training picture than 95 % of the real ones are; by pixels at 32 x 32."""
    if context.settings.train is None:
        return list(items), []
    rows = list({item.prediction.row.name: item.prediction.row for item in items}.values())
    training, held_out = ([_pixels(row) for row in own] for own in (read_rows(context.settings.train), rows))
    made = [(item.prediction.row.modality, vector(picture_of(item.prediction))) for item in items]
    near = neighbors(made, training, held_out)
    copies = set(near.copies)
    added = [
        _plus(
            item,
            {"copies": float(n in copies)},
            {"nearest_training_row": near.nearest[n], "distance": near.distance[n]},
        )
        for n, item in enumerate(items)
    ]
    few = sorted({name for name, _ in held_out if sum(other == name for other, _ in held_out) < _FEW})
    notes = ["of real pictures 0.05 are that near to a training picture; a drawn one that is may still be none"]
    return added, notes + ([f"fewer than {_FEW} real pictures to measure that by: {', '.join(few)}"] if few else [])


def _pixels(row: Row) -> tuple[str, NDArray[np.float32]]:
    return row.modality, vector(target_of(row))


def findings(predictions: Sequence[Prediction], context: Context) -> Iterator[Score]:
    """AUROC and F1 of what a classifier sees in the pictures, against what it sees in their targets."""
    made = drawn(predictions)
    if context.settings.findings is None or not made:
        return
    from unimedvl.eval.classes import class_scores, image_judge

    judge = image_judge(context.settings.findings)
    seen_NC, true_NC = (
        np.concatenate([np.asarray(judge.probabilities(batch)) for batch in in_batches(images)])
        for images in (map(picture_of, made), (target_of(each.row) for each in made))
    )
    found = class_scores(judge.names, true_NC >= _SHOWN, seen_NC, threshold=_SHOWN)
    for group, own in {ALL: found, **{f"class={name}": each for name, each in found.classes.items()}}.items():
        for metric, value in (("auroc", own.auroc), ("f1", own.f1)):
            if value is not None:
                yield Score(metric, value, len(made), group)
