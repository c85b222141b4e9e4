from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from unimedvl.sheets import Entry, contact_sheet

SIDE = 40


def entry(color, count=1):
    return Entry(tuple(Image.new("RGB", (SIDE, SIDE), color) for _ in range(count)), "A text.", "train")


def area(sheet, color):
    """Pixels of a color; drawn text has others."""
    return int((np.asarray(sheet) == color).all(-1).sum())


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (6, 1), (7, 2), (24, 4), (30, 4)])
def test_six_pictures_in_a_row_and_four_rows_at_most(count, rows):
    sheet = contact_sheet("task", [entry((200, 30, 40))] * count)
    one = contact_sheet("task", [entry((200, 30, 40))])
    assert sheet.width == one.width
    assert sheet.height - 40 == rows * (one.height - 40)
    assert area(sheet, (200, 30, 40)) == min(count, 24) * SIDE**2


def test_single_pictures_and_several_lie_on_one_sheet_without_covering_each_other():
    colors = [(10 * n, 200 - 10 * n, 90) for n in range(9)]
    counts = (1, 1, 2, 3, 1, 2, 2, 1, 3)
    sheet = contact_sheet("modality", [entry(color, count) for color, count in zip(colors, counts, strict=True)])
    assert [area(sheet, color) for color in colors] == [count * SIDE**2 for count in counts]


def test_an_entry_of_text_alone_keeps_its_place():
    sheet = contact_sheet("source", [Entry((), "Only words.", "train"), entry((1, 2, 3))])
    assert area(sheet, (1, 2, 3)) == SIDE**2


def test_a_note_stands_in_place_of_the_count():
    entries = [entry((1, 2, 3))]
    plain, noted = contact_sheet("task", entries), contact_sheet("task", entries, "1 of 20 pairs")
    assert plain.size == noted.size
    assert plain.tobytes() != noted.tobytes()
    assert plain.tobytes() == contact_sheet("task", entries, "1 of 1").tobytes()
