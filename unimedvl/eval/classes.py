"""Does an image, such as a counterfactual, show what it should? AUROC and F1 of a classifier that is plugged in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from unimedvl.errors import ConfigError, DataError
from unimedvl.eval.classifier import as_tensor
from unimedvl.eval.features import read_classifier
from unimedvl.eval.texts import named_function

_BATCH = 64


@dataclass(frozen=True)
class ImageJudge:
    """A classifier of images.

    Attributes:
        names: of the classes, of which an image may show none, one or several.
        probabilities: images to float (N, classes) in [0, 1].
    """

    names: tuple[str, ...]
    probabilities: Callable[[Sequence[Image.Image]], NDArray[Any]]


@dataclass(frozen=True)
class ClassScore:
    """How well a classifier tells the images that should show a class from the others.

    Attributes:
        auroc: None where all images, or none, should show it.
        f1: of the images whose probability reaches the threshold; None where no image should show it.
        positives: of ``count`` images, those that should show it.
        note: why a value is absent; empty if none is.
    """

    auroc: float | None
    f1: float | None
    positives: int
    count: int
    note: str = ""


@dataclass(frozen=True)
class ClassScores:
    """Of all classes.

    Attributes:
        classes: name -> scores.
        auroc, f1: plain means over the classes that have them; None if none has.
        threshold: from which probability on a class counts as shown.
    """

    classes: dict[str, ClassScore]
    auroc: float | None
    f1: float | None
    threshold: float


def image_judge(spec: str) -> ImageJudge:
    """The classifier of a spec: ``classifier:FILE`` for the modality classifier, else ``module:function``.

    The function is called without arguments and gives a :class:`ImageJudge`.

    Raises:
        ConfigError: there is no such file or function, or it gives something else.
    """
    kind, _, path = spec.partition(":")
    if kind != "classifier":
        made = named_function(spec, "judge")()
        if not isinstance(made, ImageJudge):
            raise ConfigError(
                f"{spec} gave a {type(made).__name__}",
                where="judge",
                remedy="let it give a unimedvl.eval.classes.ImageJudge",
            )
        return made
    network = read_classifier(path)

    @torch.inference_mode()
    def probabilities(images: Sequence[Image.Image]) -> NDArray[np.float32]:
        return torch.cat([network(part).softmax(dim=1) for part in as_tensor(images).split(_BATCH)]).numpy()

    return ImageJudge(network.names, probabilities)


def class_scores(
    names: Sequence[str], wanted: NDArray[np.bool_], probabilities: NDArray[Any], *, threshold: float = 0.5
) -> ClassScores:
    """AUROC and F1 of each class and their means, by scikit-learn.

    Args:
        wanted: bool (N, C); ``probabilities``: (N, C) in [0, 1].

    Raises:
        DataError: the shapes do not match, or a probability is none.
        ConfigError: scikit-learn is absent.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if wanted.shape != probabilities.shape or wanted.ndim != 2 or wanted.shape[1] != len(names) or not wanted.size:
        raise DataError(
            f"probabilities {probabilities.shape} for wanted {wanted.shape} and {len(names)} classes",
            where="judge",
            remedy="give one row for each image, one column for each class",
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():  # NaN is not
        raise DataError(
            f"probabilities from {probabilities.min()} to {probabilities.max()}",
            where="judge",
            remedy="let the judge give numbers from 0 to 1, after its sigmoid or softmax",
        )
    columns = zip(wanted.T, probabilities.T, strict=True)
    classes = {name: _score(*column, threshold) for name, column in zip(names, columns, strict=True)}
    return ClassScores(
        classes,
        _mean([score.auroc for score in classes.values()]),
        _mean([score.f1 for score in classes.values()]),
        threshold,
    )


def _score(wanted_N: NDArray[np.bool_], probabilities_N: NDArray[np.float64], threshold: float) -> ClassScore:
    try:
        from sklearn.metrics import f1_score, roc_auc_score
    except ImportError as error:
        raise ConfigError("AUROC needs scikit-learn", where="judge", remedy="pip install 'unimedvl[eval]'") from error
    positives, count = int(wanted_N.sum()), len(wanted_N)
    if not positives:
        return ClassScore(None, None, 0, count, f"none of {count} images should show it: no AUROC, no F1")
    f1 = float(f1_score(wanted_N, probabilities_N >= threshold))
    if positives == count:
        return ClassScore(None, f1, positives, count, f"all {count} images should show it: no AUROC")
    return ClassScore(float(roc_auc_score(wanted_N, probabilities_N)), f1, positives, count)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
