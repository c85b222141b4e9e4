"""Pictures drawn from captions, against real ones: distances of distributions, agreement with the caption, copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unimedvl.errors import ConfigError
from unimedvl.eval.distributions import Distribution, distribution
from unimedvl.eval.families.context import Context
from unimedvl.eval.families.images import made_of
from unimedvl.eval.neighbors import neighbors
from unimedvl.eval.predict import Prediction
from unimedvl.eval.rows import read_rows, target_of
from unimedvl.eval.scores import ALL, Item, Score, Scored, means
from unimedvl.eval.settings import EvalSettings
from unimedvl.eval.tables import shown_group

AVERAGE = "average"
_SHOWN = 0.5  # probability from which a classifier sees a class
_NO_EXTRACTOR = "no gFID, KID, precision and recall: give extractor= (see unimedvl.eval.features)"


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
    for name, path in (("classifier", settings.classifier), ("train", settings.train)):
        if path is not None and not path.is_file():
            raise ConfigError("no such file", where=f"{name}={path}", remedy="check the path, or leave it out")


def score(predictions: Sequence[Prediction], context: Context) -> Scored:
    """GFID, KID, precision and recall by modality; agreement with the caption; nearest training pictures."""
    drawn = distances(predictions, context)
    items = _items(predictions, context)
    notes = [*drawn.notes]
    if missing := sum(prediction.image is None for prediction in predictions):
        notes.append(f"{missing} rows without a picture are left out")
    return Scored(items, [*drawn.scores, *means(items)], drawn.protocol, notes)


def distances(predictions: Sequence[Prediction], context: Context, metric: str = "gfid") -> Scored:
    """The distances of all pictures, of each modality, and their average over modalities; nothing to do per item.

    Args:
        metric: name of the Fréchet distance.
    """
    extractor = context.extractor
    if extractor is None:
        return Scored([], [], {}, [_NO_EXTRACTOR])
    pairs = made_of(predictions)
    made_MD = extractor([picture for _, picture in pairs])
    rows = list({prediction.row.name: prediction.row for prediction, _ in pairs}.values())
    real_ND = extractor([target_of(row) for row in rows])
    kinds = [prediction.row.modality for prediction, _ in pairs], [row.modality for row in rows]
    scores, notes, fids, small = [], [], [], []
    names = sorted(set(kinds[1]) - {""})
    for group in [ALL, *([f"modality={name}" for name in names] if len(names) > 1 else [])]:
        made, real = (_of(group, values, own) for values, own in zip((made_MD, real_ND), kinds, strict=True))
        if min(len(made), len(real)) < 2:
            notes.append(f"{group}: {len(made)} drawn and {len(real)} real pictures are too few for distances")
            continue
        found = distribution(real, made, seed=context.settings.seed)
        scores += _scores(found, metric, group)
        notes += [f"{group}: {note}" for note in found.notes if group == ALL]
        small += [shown_group(group)] if group != ALL and min(len(made), len(real)) < found.dims else []
        fids += [found.fid] if group != ALL else []
    if small:
        notes.append(f"fewer pictures than features, so that {metric} is biased upwards, of {', '.join(small)}")
    if fids:
        scores.append(Score(metric, float(np.mean(fids)), len(pairs), AVERAGE))
    protocol = {
        "extractor": extractor.about,
        "real": len(real_ND),
        "drawn": len(made_MD),
        "seed": context.settings.seed,
        "average": "mean over modalities",
    }
    return Scored([], scores, protocol, notes)


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


def _items(predictions: Sequence[Prediction], context: Context) -> list[Item]:
    """Every picture with what can be said of it alone."""
    pairs = made_of(predictions)
    scores: list[dict[str, float]] = [{} for _ in pairs]
    more: list[dict[str, object]] = [{} for _ in pairs]
    for metric, values in _agreement(pairs, context):
        for own, value in zip(scores, values, strict=True):
            own[metric] = value
    if context.settings.train is not None:
        training = [(row.modality, target_of(row)) for row in read_rows(context.settings.train)]
        rows = {prediction.row.name: prediction.row for prediction, _ in pairs}.values()
        held_out = [(row.modality, target_of(row)) for row in rows]
        near = neighbors([(p.row.modality, picture) for p, picture in pairs], training, held_out)
        copies = set(near.copies)
        for number, (own, told) in enumerate(zip(scores, more, strict=True)):
            own["copies"] = float(number in copies)
            told |= {"nearest_training_row": near.nearest[number], "distance": near.distance[number]}
    return [Item(p, own, told) for (p, _), own, told in zip(pairs, scores, more, strict=True)]


def _agreement(
    pairs: Sequence[tuple[Prediction, Image.Image]], context: Context
) -> Iterator[tuple[str, Sequence[float]]]:
    """Metrics of each picture against what was asked for."""
    images = [picture for _, picture in pairs]
    if context.settings.clip is not None:
        from unimedvl.eval.text_image import load_clip

        yield "clip", load_clip(context.settings.clip).similarities(images, [p.row.prompt for p, _ in pairs])
    if context.settings.classifier is not None:
        from unimedvl.eval.classifier import load_classifier

        names = load_classifier(context.settings.classifier).name(images)
        yield "recognized", [float(n == p.row.modality) for n, (p, _) in zip(names, pairs, strict=True)]


def findings(predictions: Sequence[Prediction], context: Context) -> Iterator[Score]:
    """AUROC and F1 of what a classifier sees in the pictures, against what it sees in their targets."""
    if context.settings.findings is None:
        return
    from unimedvl.eval.classes import image_judge, judged

    classifier = image_judge(context.settings.findings)
    pairs = made_of(predictions)
    targets_NC = classifier.probabilities([target_of(prediction.row) for prediction, _ in pairs])
    wanted = [{name for name, p in zip(classifier.names, row, strict=True) if p >= _SHOWN} for row in targets_NC]
    found = judged(classifier, [picture for _, picture in pairs], wanted, threshold=_SHOWN)
    for group, own in {ALL: found, **{f"class={name}": each for name, each in found.classes.items()}}.items():
        for metric, value in (("auroc", own.auroc), ("f1", own.f1)):
            if value is not None:
                yield Score(metric, value, len(pairs), group)
