"""Contact sheets: what a task or a modality looks like, at one glance."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_COLUMNS, _ROWS, _PADDING, _LINES, _LINE = 6, 4, 10, 5, 15


@dataclass(frozen=True)
class Entry:
    """Pictures that belong together, side by side, with a text below."""

    images: tuple[Image.Image, ...]
    text: str
    split: str


def contact_sheet(title: str, entries: Sequence[Entry], note: str = "") -> Image.Image:
    """RGB sheet of up to 24 entries, spread evenly over all of them; their pictures are squares of one size.

    Args:
        note: stands behind the title, in place of how many of the entries are shown.
    """
    count = min(len(entries), _COLUMNS * _ROWS)
    chosen = [entries[number * len(entries) // count] for number in range(count)]
    side = max(image.width for entry in chosen for image in entry.images)
    widths = [_PADDING + max(len(entry.images), 1) * (side + _PADDING) for entry in chosen]
    # Of single pictures six in a row, of others three, and of both as many as there is room for.
    across = max(_COLUMNS * (side + 2 * _PADDING), _COLUMNS // 2 * max(widths))
    places = _places(widths, across)
    height = side + 2 * _PADDING + _LINES * _LINE
    sheet = Image.new("RGB", (across + _PADDING, (places[-1][1] + 1) * height + 40), "white")
    draw = ImageDraw.Draw(sheet)
    heading = f"{title}: {note or f'{count} of {len(entries)}'}"
    draw.text((_PADDING, 10), heading, fill="black", font=ImageFont.load_default(16))
    for entry, width, (left, row) in zip(chosen, widths, places, strict=True):
        _draw(sheet, draw, entry, (left + _PADDING, row * height + 40), width, side)
    return sheet


def _places(widths: Sequence[int], across: int) -> list[tuple[int, int]]:
    """(left edge, row) of cells side by side, in pixels and from 0."""
    left, row, places = 0, 0, []
    for width in widths:
        if left and left + width > across:
            left, row = 0, row + 1
        places.append((left, row))
        left += width
    return places


def _draw(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, entry: Entry, corner: tuple[int, int], width: int, side: int
) -> None:
    left, top = corner
    for place, image in enumerate(entry.images):
        sheet.paste(image, (left + place * (side + _PADDING), top))
    words = textwrap.wrap(f"[{entry.split}] {entry.text}", width=(width - _PADDING) * 2 // 13)
    shown = words if len(words) <= _LINES else [*words[: _LINES - 1], f"{words[_LINES - 1][:-3]}..."]
    font = ImageFont.load_default(12)
    draw.multiline_text((left, top + side + 4), "\n".join(shown), fill="black", font=font, spacing=1)
