"""Images of UniMed-Mini that are made from its views: the other one of a pair, true or openly synthetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from unimedvl.data.mini.dialogues import place_words
from unimedvl.data.mini.views import SIDE, VOLUME, View

_DARK = 160.0  # gray level of lung under which an opacity adds at least 50
_DENSEST = 0.08  # hematoxylin of the densest nuclei of the slide (its 99.9th percentile): one scale for all crops


@dataclass(frozen=True)
class Edit:
    """Input and target, one of which is the view itself.

    Attributes:
        facts: what the wording of the pair needs.
    """

    task: str
    before: Image.Image
    after: Image.Image
    facts: dict[str, str] = field(default_factory=dict)


def edits(view: View, rng: np.random.Generator) -> Iterator[Edit]:
    """All that can be made of a view."""
    if view.source == VOLUME:  # tissue maps of the same template
        yield Edit("segmentation", view.image, view.layers["gray matter"])
        yield Edit("cross-modal", view.image, view.layers["white matter"])
    if view.source == "ihc":
        yield Edit("virtual staining", hematoxylin(view.image), view.image)
    if view.side:
        yield from _counterfactual(view, rng)


def hematoxylin(image: Image.Image) -> Image.Image:
    """The hematoxylin channel of a stained image by color deconvolution, dense nuclei black."""
    from skimage.color import rgb2hed

    density_HW = rgb2hed(np.asarray(image))[..., 0]
    gray_HW = np.rint((1 - np.clip(density_HW / _DENSEST, 0, 1)) * 255).astype(np.uint8)
    return Image.fromarray(gray_HW).convert("RGB")


def _counterfactual(view: View, rng: np.random.Generator) -> Iterator[Edit]:
    """A crop of a lung with a rendered opacity and without, one the answer to the other. Synthetic, and called so.

    None where no place is dark enough for it to be seen.
    """
    clear = np.asarray(view.image).astype(np.float64)
    x, y = min(rng.uniform(0.25, 0.75, (8, 2)) * SIDE, key=lambda place: _around(clear, *place))
    if _around(clear, x, y) > _DARK:
        return
    radius = rng.uniform(0.08, 0.16) * SIDE
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    blob = np.exp(-((((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius**2)) ** 2))[..., None]
    opaque = Image.fromarray(np.rint(clear + np.clip(235 - clear, 0, None) * 0.75 * blob).astype(np.uint8))
    added = bool(rng.integers(2))
    before, after = (view.image, opaque) if added else (opaque, view.image)
    yield Edit("counterfactual", before, after, {"place": place_words(x, y), "change": "add" if added else "remove"})


def _around(pixels: np.ndarray, x: float, y: float) -> float:
    """Mean gray level of the 17 x 17 pixels around a place."""
    return float(pixels[int(y) - 8 : int(y) + 9, int(x) - 8 : int(x) + 9].mean())
