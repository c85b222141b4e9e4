"""Text burned into pixels, found by shape: small crisp strokes side by side in a line near the border.

A cheap first look that needs no reading; thin, faint or ornate writing, and text over busy tissue, escape it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unimedvl.errors import ConfigError

_SIDE = 1024  # larger images are shrunk to this longer side
_SMALL = 256  # smaller images are enlarged, so that thin strokes have inner pixels
_STROKE = 15  # pixels across, above which nothing is a stroke
_SHIFTS = (1, 2, 4, 7)  # that make windows of 1, 2, 4 and 8 pixels twice as wide, the last one as wide as a stroke
_CONTRAST = 70  # gray levels between a stroke and what lies around it
_CRISP_CONTRAST = 105  # gray levels well above that
_CRISP = 0.5  # share of a glyph's pixels that must reach them
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
    """Boxes of small crisp shapes that lie near the border, in the order of their first pixels."""
    try:
        from scipy import sparse
    except ImportError as error:
        remedy = "pip install 'unimedvl[eval]'"
        raise ConfigError("the check for burned-in text needs scipy", where="privacy", remedy=remedy) from error
    stroke_HW = _strokes(gray_HW if bright else ~gray_HW)
    if stroke_HW.max() < _CONTRAST:
        return []
    pitch = gray_HW.shape[1] + 1
    first_R, end_R, crisp_R = _runs(stroke_HW, pitch)
    neighbors_E, pointers = _neighbors(first_R, end_R, pitch)
    touching_RR = sparse.csr_array((np.ones(len(neighbors_E)), neighbors_E, pointers), shape=(len(first_R),) * 2)
    shape_R = sparse.csgraph.connected_components(touching_RR, directed=False)[1]
    order_R = np.argsort(shape_R, kind="stable")  # those of a shape together, from its first row to its last
    return _boxes(first_R[order_R], end_R[order_R], crisp_R[order_R], shape_R[order_R], gray_HW.shape)


def _strokes(gray_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What is left of the picture without all that is wider than a bright stroke: its white top-hat."""
    opened_HW = _over_windows(np.maximum, _over_windows(np.minimum, gray_HW, outside=255), outside=0)
    return gray_HW - opened_HW


def _over_windows(pick: np.ufunc, values_HW: NDArray[np.uint8], *, outside: int) -> NDArray[np.uint8]:
    """The minimum or maximum over the square around every pixel that is as wide as a stroke.

    The rows lie one behind the other, so that a shift is an offset along them; what runs over into the next row
    ends in the margin, which is cut off.
    """
    margin = _STROKE - 1
    padded_HW = np.pad(values_HW, margin // 2, constant_values=outside)
    values_P, spare_P = padded_HW.reshape(-1), np.empty(padded_HW.size, np.uint8)
    for step in (1, padded_HW.shape[1]):
        for shift in _SHIFTS:
            offset = step * shift
            pick(values_P[:-offset], values_P[offset:], out=spare_P[:-offset])
            values_P, spare_P = spare_P, values_P
    return values_P.reshape(padded_HW.shape)[:-margin, :-margin]


def _runs(stroke_HW: NDArray[np.uint8], pitch: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Stretches of strokes in the rows: the place of the first pixel, that behind the last, and how many are crisp.

    A place is ``row * pitch + column``; rows are one column wider than the picture, so that no run goes on in the next.
    """
    stroke_Q = np.zeros((len(stroke_HW), pitch), np.uint8)
    stroke_Q[:, :-1] = stroke_HW
    stroke_Q = stroke_Q.reshape(-1)
    place_P = np.flatnonzero(stroke_Q >= _CONTRAST)
    start_R = np.flatnonzero(np.diff(place_P, prepend=-2) > 1)
    crisp_R = np.add.reduceat(stroke_Q[place_P] >= _CRISP_CONTRAST, start_R, dtype=np.intp)
    first_R = place_P[start_R]
    return first_R, first_R + np.diff(start_R, append=len(place_P)), crisp_R


def _neighbors(
    first_R: NDArray[np.intp], end_R: NDArray[np.intp], pitch: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The runs of the next row that touch each run at a side or corner, run by run, and where those of each start."""
    low_R = np.searchsorted(end_R, first_R + pitch, side="left")
    high_R = np.searchsorted(first_R, end_R + pitch, side="right")
    pointers = np.concatenate(([0], np.cumsum(high_R - low_R)))
    return np.arange(pointers[-1]) + np.repeat(low_R - pointers[:-1], high_R - low_R), pointers


def _boxes(
    first_R: NDArray[np.intp],
    end_R: NDArray[np.intp],
    crisp_R: NDArray[np.intp],
    shape_R: NDArray[np.intp],
    sides: Sequence[int],
) -> list[_Box]:
    """Boxes around the shapes whose runs stand together, of those that can be glyphs."""
    start_N = np.flatnonzero(np.diff(shape_R, prepend=-1))
    row_R, left_R = np.divmod(first_R, sides[1] + 1)
    length_R = end_R - first_R
    top_N, left_N = np.minimum.reduceat(row_R, start_N), np.minimum.reduceat(left_R, start_N)
    height_N = np.maximum.reduceat(row_R, start_N) + 1 - top_N
    width_N = np.maximum.reduceat(left_R + length_R, start_N) - left_N
    area_N, crisp_N = np.add.reduceat(length_R, start_N), np.add.reduceat(crisp_R, start_N)
    fine_N = crisp_N >= _CRISP * area_N
    columns = (values_N[fine_N].tolist() for values_N in (top_N, left_N, height_N, width_N, area_N))
    found = ((_Box(*place), area) for *place, area in zip(*columns, strict=True))
    return [box for box, area in found if _shaped(box, area) and _near_border(box, sides)]


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
