"""Pictures through the autoencoder and back: the ceiling of everything that is drawn."""

from __future__ import annotations

from collections.abc import Sequence

from unimedvl.eval.families import generation
from unimedvl.eval.families.context import Context
from unimedvl.eval.families.interleaved import PROTOCOL, failed, picture_items
from unimedvl.eval.predict import Prediction
from unimedvl.eval.scores import Scored, means
from unimedvl.eval.settings import EvalSettings


def check(settings: EvalSettings) -> None:
    """The extractor of features can be opened, if there is one.

    Raises:
        ConfigError: it cannot.
    """
    generation.check(settings)


def score(predictions: Sequence[Prediction], context: Context) -> Scored:
    """PSNR and SSIM, and rFID if an extractor was given, of all and of each modality."""
    items = picture_items(predictions)
    apart = generation.distances(predictions, context, "rfid")
    return Scored(
        items,
        [*means(items), *apart.scores],
        {**PROTOCOL, **apart.protocol},
        [*apart.notes, *failed(predictions, items)],
    )
