"""PMC-OA: figures of open-access articles with their captions.

``*.jsonl`` with one object a line, ``image`` (a file name), ``caption`` and perhaps ``subset`` or ``split``; the images
lie beside it, in ``images``, or in the folder that the published archive makes. Files named after a split say it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from unimedvl.data.curation.ingest.files import split_named
from unimedvl.data.curation.ingest.rows import Row, pairs_of_rows
from unimedvl.data.curation.ingest.settings import Reader, ReaderSettings, Skipped, one_image
from unimedvl.data.curation.ingest.tables import row_images, split_in
from unimedvl.data.curation.pairs import Pair

_FOLDERS = ("", "images", "caption_T060_filtered_top4_sep_v0_subfigures")


def _read(root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
    for path in [root] if root.is_file() else sorted(root.glob("*.jsonl")):
        make = partial(_pairs, path, settings, skipped)
        yield from pairs_of_rows(path, ("caption", "image"), make, settings, skipped)


def _pairs(path: Path, settings: ReaderSettings, skipped: Skipped, row: Row) -> Iterator[Pair]:
    folders = [path.parent / folder for folder in _FOLDERS]
    if images := row_images(row, "image", folders, settings, skipped):
        yield settings.pair(
            path.name,
            str(row.number),
            text=row.text("caption"),
            split=split_in(row, "split") or split_named(path.stem) or "",
            more={"name": row.text("image"), **row.plain("subset")},
            **one_image(images[0], settings.family),
        )


read = Reader(
    _read,
    layout="*.jsonl with image and caption, images beside it or in images/",
    defaults={"source": "PMC-OA", "subtask": "caption"},
)
