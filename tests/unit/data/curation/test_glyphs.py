"""The quick search for glyphs against scipy's slow one: the same boxes in the same order, and the same lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage as images

from unimedvl.data.curation import glyphs

ndimage: Any = images  # its types do not say what it returns
FONTS = [ImageFont.load_default(size) for size in (9, 12, 16, 24, 40)]


def slow_glyphs(gray_HW: np.ndarray, *, bright: bool) -> list[glyphs._Box]:
    """What the search is defined as."""
    hat = ndimage.white_tophat if bright else ndimage.black_tophat
    stroke_HW = hat(gray_HW, size=(15, 15))
    labels_HW, count = ndimage.label(stroke_HW >= 70, structure=np.ones((3, 3)))
    numbers = range(1, count + 1)
    areas = ndimage.sum_labels(np.ones_like(stroke_HW), labels_HW, numbers)
    crisp = ndimage.sum_labels(stroke_HW >= 1.5 * 70, labels_HW, numbers)
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels_HW)):
        box = glyphs._Box(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
        shaped = glyphs._shaped(box, areas[number]) and glyphs._near_border(box, gray_HW.shape)
        if crisp[number] >= 0.5 * areas[number] and shaped:
            found.append(box)
    return found


def assert_same(gray_HW: np.ndarray) -> int:
    """Compare what is found; how many boxes that is."""
    count = 0
    for bright in (True, False):
        found, expected = glyphs._glyphs(gray_HW, bright=bright), slow_glyphs(gray_HW, bright=bright)
        assert found == expected
        assert list(glyphs._lines(found)) == list(glyphs._lines(expected))
        count += len(found)
    return count


@pytest.mark.parametrize("bright", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 5), (7, 8), (14, 15), (15, 14), (16, 200), (61, 47)])
def test_strokes_are_the_top_hat(shape, bright):
    """Also in pictures that are smaller than the window, and at their borders."""
    generator = np.random.default_rng(shape[0])
    for levels in (2, 5, 256):
        gray_HW = (generator.integers(levels, size=shape) * (255 // (levels - 1))).astype(np.uint8)
        slow = (ndimage.white_tophat if bright else ndimage.black_tophat)(gray_HW, size=(15, 15))
        quick = glyphs._strokes(gray_HW if bright else ~gray_HW)
        np.testing.assert_array_equal(quick, slow, strict=True)


@st.composite
def pictures(draw: st.DrawFn) -> np.ndarray:
    """Blobs and specks of few or many gray levels, with words and rings on them."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    # From single pixels to areas that are wider than a stroke; most coarse ones have no strokes but at crossings.
    sigma, share = draw(st.sampled_from([0, 0.5, 1, 2, 6])), draw(st.sampled_from([0.02, 0.2, 0.5, 0.9]))
    noise_HW = ndimage.gaussian_filter(generator.normal(size=(height, width)), sigma)
    low, high = sorted(generator.integers(0, 256, 2))
    gray_HW = np.where(noise_HW > np.quantile(noise_HW, 1 - share), high, low)
    grain = draw(st.sampled_from([1, 20, 80]))
    image = Image.fromarray((gray_HW + generator.integers(0, grain, gray_HW.shape)).clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(draw(st.integers(0, 4))):
        place, fill = generator.integers((-5, -5), (width, height)).tolist(), int(generator.integers(256))
        word = "".join(draw(st.lists(st.sampled_from("ABil18.:-OQ°ÄÖ"), max_size=9)))
        pen.text(place, word, fill=fill, font=draw(st.sampled_from(FONTS)))
        side = int(generator.integers(3, 60))  # a ring shares its corner with what lies in it
        pen.rectangle((*place, place[0] + side, place[1] + side), outline=fill)
    return np.asarray(image)


@given(pictures())
@settings(max_examples=300, deadline=None)
def test_the_same_boxes_in_random_pictures(gray_HW):
    assert_same(gray_HW)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.99), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_runs_and_those_that_touch(seed, share, height, width):
    """Random dots: corners, branches that meet below, rings, and rows that are full from side to side."""
    dots_HW = (np.random.default_rng(seed).random((height, width)) < share) * np.uint8(255)
    if not dots_HW.any():
        return
    pitch = width + 1
    first_R, end_R, crisp_R = glyphs._runs(dots_HW, pitch)
    neighbors_E, pointers = glyphs._neighbors(first_R, end_R, pitch)
    found = np.zeros((height, pitch), np.uint8)
    for first, end in zip(first_R, end_R, strict=True):
        found.reshape(-1)[first:end] = 255
    np.testing.assert_array_equal(found[:, :-1], dots_HW)
    assert not found[:, -1].any()
    np.testing.assert_array_equal(crisp_R, end_R - first_R)
    edges = set(zip(np.repeat(np.arange(len(first_R)), np.diff(pointers)).tolist(), neighbors_E.tolist(), strict=True))
    rows_R, lefts_R = np.divmod(first_R, pitch)
    rights_R = lefts_R + end_R - first_R
    assert edges == {
        (one, two)
        for one in range(len(first_R))
        for two in range(len(first_R))
        if rows_R[two] == rows_R[one] + 1 and lefts_R[two] <= rights_R[one] and lefts_R[one] <= rights_R[two]
    }


@pytest.mark.parametrize("side", [128, 256, 257, 512, 1024, 1500])
@pytest.mark.parametrize(("back", "fore"), [(0, 255), (255, 0), (60, 190)])
def test_the_same_lines_in_pictures_with_text(side, back, fore):
    generator = np.random.default_rng(side)
    cloud_HW = ndimage.gaussian_filter(generator.normal(0, 200, (side, side)), 4)
    gray_HW = cloud_HW + generator.normal(back, 6, (side, side))
    image = Image.fromarray(gray_HW.clip(0, 255).astype(np.uint8)).convert("RGB")
    pen = ImageDraw.Draw(image)
    for row, font in enumerate(FONTS):
        pen.text((3, row * side // 6), f"SMITH J. {side} Acc-88123", fill=(fore,) * 3, font=font)
        pen.text((side // 2, row * side // 6 + 9), "2019-03-14 R", fill=(fore,) * 3, font=font)
    gray_HW = glyphs._gray(image)
    assert assert_same(gray_HW) > 20
    lines = [line for bright in (True, False) for line in glyphs._lines(slow_glyphs(gray_HW, bright=bright))]
    assert glyphs.longest_line(image) == max(map(len, lines)) >= 4


def test_shapes_in_one_corner_keep_their_order():
    """Boxes with the same left and top: that whose first pixel comes first leads, whichever it is."""
    gray_HW = np.zeros((100, 100), np.uint8)
    gray_HW[5:15, 5:10] = 255
    gray_HW[5:30, 13:18] = gray_HW[25:30, 5:18] = 255  # below it, and up on its right
    assert_same(gray_HW)
    first, second = glyphs._glyphs(gray_HW, bright=True)
    assert (first, second) == (glyphs._Box(5, 5, 10, 5), glyphs._Box(5, 5, 25, 13))


def test_an_even_picture_holds_nothing():
    assert assert_same(np.full((300, 300), 120, np.uint8)) == 0
