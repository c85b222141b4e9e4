"""Text burned into pixels, found by shape: small crisp strokes side by side in a line near the border.

A cheap first look that needs no reading; thin, faint or ornate writing, and text over busy tissue, escape it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unimedvl.errors import ConfigError

_SIDE = 1024  # larger images are shrunk to this longer side
_SMALL = 256  # smaller images are enlarged, so that thin strokes have inner pixels
_STROKE = 15  # pixels across, above which nothing is a stroke
_CONTRAST = 70  # gray levels between a stroke and what lies around it
_CRISP = 0.5  # share of a glyph's pixels that must lie well above that contrast
_BORDER = 0.3  # of either side: where overlays are written
_HEIGHTS = (5, 64)  # pixels of a glyph


@dataclass(frozen=True)
class _Box:
    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        return self.top + self.height

    @property
    def right(self) -> int:
        return self.left + self.width


def longest_line(image: Image.Image) -> int:
    """Glyphs in the longest line that looks written, bright on dark or dark on bright; 0 if there is none.

    Raises:
        ConfigError: scipy is absent.
    """
    gray_HW = _gray(image)
    return max(len(line) for bright in (True, False) for line in ([], *_lines(_glyphs(gray_HW, bright=bright))))


def _gray(image: Image.Image) -> NDArray[np.uint8]:
    image = image.convert("L")
    longer = max(image.size)
    if longer > _SIDE or longer <= _SMALL:
        factor = _SIDE / longer if longer > _SIDE else 2
        sides = max(1, round(image.width * factor)), max(1, round(image.height * factor))
        image = image.resize(sides, Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC)
    return np.asarray(image, np.uint8)


def _glyphs(gray_HW: NDArray[np.uint8], *, bright: bool) -> list[_Box]:
    """Boxes of small crisp shapes that lie near the border."""
    try:
        from scipy import ndimage as images
    except ImportError as error:
        remedy = "pip install 'unimedvl[eval]'"
        raise ConfigError("the check for burned-in text needs scipy", where="privacy", remedy=remedy) from error
    ndimage: Any = images  # its types do not say what it returns
    # What is left of the picture without all that is wider than a stroke.
    hat = ndimage.white_tophat if bright else ndimage.black_tophat
    stroke_HW = hat(gray_HW, size=(_STROKE, _STROKE))
    labels_HW, count = ndimage.label(stroke_HW >= _CONTRAST, structure=np.ones((3, 3)))
    if not count:
        return []
    numbers = np.arange(1, count + 1)
    area_N = ndimage.sum_labels(np.ones_like(stroke_HW), labels_HW, numbers)
    crisp_N = ndimage.sum_labels(stroke_HW >= 1.5 * _CONTRAST, labels_HW, numbers)
    boxes = [_box(slices) for slices in ndimage.find_objects(labels_HW)]
    return [
        box
        for box, area, crisp in zip(boxes, area_N.tolist(), crisp_N.tolist(), strict=True)
        if crisp >= _CRISP * area and _shaped(box, area) and _near_border(box, gray_HW.shape)
    ]


def _box(slices: tuple[slice, ...]) -> _Box:
    rows, columns = slices
    return _Box(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)


def _shaped(box: _Box, area: float) -> bool:
    """Whether a shape can be a letter, a digit, or two or three that touch."""
    slender = box.width >= 0.1 * box.height and box.width <= 3.5 * box.height
    return _HEIGHTS[0] <= box.height <= _HEIGHTS[1] and slender and area >= 0.15 * box.height * box.width


def _near_border(box: _Box, shape: Sequence[int]) -> bool:
    middle = box.top + box.height / 2, box.left + box.width / 2
    return any(not _BORDER < place / side < 1 - _BORDER for place, side in zip(middle, shape, strict=True))


def _lines(boxes: Sequence[_Box]) -> Iterator[list[_Box]]:
    """Runs of boxes of like height on one base line, with gaps as between letters or words."""
    waiting = sorted(boxes, key=lambda box: (box.left, box.top))
    while waiting:
        line = [waiting.pop(0)]
        rest: list[_Box] = []
        for box in waiting:
            (line if _follows(line[-1], box) else rest).append(box)
        waiting = rest
        yield line


def _follows(one: _Box, two: _Box) -> bool:
    tall = max(one.height, two.height)
    level = abs(one.bottom - two.bottom) <= 0.2 * tall + 1
    gap = two.left - one.right
    return level and min(one.height, two.height) >= 0.6 * tall and -0.2 * tall <= gap <= 1.2 * tall
