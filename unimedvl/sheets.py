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


def contact_sheet(title: str, entries: Sequence[Entry]) -> Image.Image:
    """RGB sheet of up to 24 entries, spread evenly over all of them."""
    count = min(len(entries), _COLUMNS * _ROWS)
    chosen = [entries[number * len(entries) // count] for number in range(count)]
    side = max(image.width for image in chosen[0].images)
    across = len(chosen[0].images)
    columns = _COLUMNS if across == 1 else _COLUMNS // 2
    cell = (across * side + (across + 1) * _PADDING, side + 2 * _PADDING + _LINES * _LINE)
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * cell[0] + _PADDING, rows * cell[1] + 40), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    draw.text((_PADDING, 10), f"{title}: {count} of {len(entries)}", fill="black", font=ImageFont.load_default(16))
    for number, entry in enumerate(chosen):
        left, top = number % columns * cell[0] + _PADDING, number // columns * cell[1] + 40
        for place, image in enumerate(entry.images):
            sheet.paste(image, (left + place * (side + _PADDING), top))
        words = textwrap.wrap(f"[{entry.split}] {entry.text}", width=(cell[0] - _PADDING) * 2 // 13)
        shown = words if len(words) <= _LINES else [*words[: _LINES - 1], f"{words[_LINES - 1][:-3]}..."]
        draw.multiline_text((left, top + side + 4), "\n".join(shown), fill="black", font=font, spacing=1)
    return sheet
