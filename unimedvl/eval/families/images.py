"""Pictures as the image families compare them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from PIL import Image

from unimedvl.eval.predict import Prediction


def fitted(target: Image.Image, made: Image.Image) -> Image.Image:
    """The target at the size of what was made: the model works at multiples of its stride; bicubic, antialiased."""
    return target if target.size == made.size else target.resize(made.size, Image.Resampling.BICUBIC)


def drawn(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Those with a picture; the others failed, and are counted as such."""
    return [prediction for prediction in predictions if prediction.image is not None]


def picture_of(prediction: Prediction) -> Image.Image:
    """The RGB picture of one of :func:`drawn`, read from its file."""
    picture = prediction.picture()
    assert picture is not None, f"{prediction.ask.name} has no picture"
    return picture


def in_batches(images: Iterable[Image.Image], size: int = 64) -> Iterator[list[Image.Image]]:
    """Few at a time, for a benchmark may have a hundred thousand."""
    images = iter(images)
    while batch := list(islice(images, size)):
        yield batch
