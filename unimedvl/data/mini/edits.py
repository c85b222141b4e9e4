"""Tasks of UniMed-Mini with an input and a target image, both true or openly synthetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from unimedvl.data.mini.dialogues import RESPONSES, ask_edit, place_words
from unimedvl.data.mini.views import SIDE, View

FACTOR = 4
_DARK = 160.0  # gray level of lung under which an opacity adds at least 50
_DENSEST = 0.08  # hematoxylin of the densest nuclei of the slide (its 99.9th percentile): one scale for all crops


@dataclass(frozen=True)
class Pair:
    """Input and target with what is said; ``name`` of a folder for images that are not views themselves."""

    task: str
    before: Image.Image
    after: Image.Image
    instruction: str
    response: str


def super_resolution(view: View, rng: np.random.Generator) -> Pair:
    """The view from a quarter of its sides: bicubic down, nearest neighbor up, so that every 4th pixel is the input."""
    small = view.image.resize((SIDE // FACTOR, SIDE // FACTOR), Image.Resampling.BICUBIC)
    low = small.resize((SIDE, SIDE), Image.Resampling.NEAREST)
    return _pair("super-resolution", low, view.image, rng)


def segmentation(view: View, rng: np.random.Generator) -> Pair:
    """Gray matter of a T1 weighted slice, from the tissue map of the same template."""
    return _pair("segmentation", view.image, view.layers["gray matter"], rng)


def cross_modal(view: View, rng: np.random.Generator) -> Pair:
    """The white matter map of a T1 weighted slice."""
    return _pair("cross-modal", view.image, view.layers["white matter"], rng)


def staining(view: View, rng: np.random.Generator) -> Pair:
    """The hematoxylin channel by color deconvolution, to the image as it was stained."""
    from skimage.color import rgb2hed

    hematoxylin = rgb2hed(np.asarray(view.image))[..., 0]
    gray = np.rint((1 - np.clip(hematoxylin / _DENSEST, 0, 1)) * 255).astype(np.uint8)
    return _pair("virtual staining", Image.fromarray(gray).convert("RGB"), view.image, rng)


def counterfactual(view: View, rng: np.random.Generator) -> Pair | None:
    """A crop of a lung with a rendered opacity and without, one the answer to the other. Synthetic, and called so.

    None where no place is dark enough for it to be seen.
    """
    clear = np.asarray(view.image).astype(np.float64)
    x, y = min(rng.uniform(0.25, 0.75, (8, 2)) * SIDE, key=lambda place: _around(clear, *place))
    if _around(clear, x, y) > _DARK:
        return None
    radius = rng.uniform(0.08, 0.16) * SIDE
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    blob = np.exp(-((((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius**2)) ** 2))[..., None]
    opaque = Image.fromarray(np.rint(clear + np.clip(235 - clear, 0, None) * 0.75 * blob).astype(np.uint8))
    place = place_words(x, y)
    if rng.integers(2):
        return Pair(
            "counterfactual", view.image, opaque,
            f"Show this chest X-ray with a rendered opacity in the {place} part.",
            f"A round opacity now lies in the {place} part; nothing else has changed. It is rendered, not a disease.",
        )  # fmt: skip
    return Pair(
        "counterfactual", opaque, view.image,
        "Show this chest X-ray without the rendered opacity.",
        f"The round opacity in the {place} part is gone; nothing else has changed. It was rendered, not a disease.",
    )  # fmt: skip


def _around(pixels: np.ndarray, x: float, y: float) -> float:
    """Mean gray level of the 17 x 17 pixels around a place."""
    return float(pixels[int(y) - 8 : int(y) + 9, int(x) - 8 : int(x) + 9].mean())


def _pair(task: str, before: Image.Image, after: Image.Image, rng: np.random.Generator) -> Pair:
    return Pair(task, before, after, ask_edit(task, rng), RESPONSES[task])
