"""Pictures as the image families compare them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from unimedvl.eval.predict import Prediction


def fitted(target: Image.Image, made: Image.Image) -> Image.Image:
    """The target at the size of what was made: the model works at multiples of its stride; bicubic, antialiased."""
    return target if target.size == made.size else target.resize(made.size, Image.Resampling.BICUBIC)


def made_of(predictions: Sequence[Prediction]) -> list[tuple[Prediction, Image.Image]]:
    """The predictions that have a picture, with it; the others failed and are counted as such."""
    pairs = [(prediction, prediction.picture()) for prediction in predictions]
    return [(prediction, picture) for prediction, picture in pairs if picture is not None]
