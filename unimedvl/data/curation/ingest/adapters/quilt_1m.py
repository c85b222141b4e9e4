"""Quilt-1M: histopathology from videos and other sources, with captions.

``quilt_1M_lookup.csv`` with the columns ``image_path``, ``caption``, and perhaps ``subset``, ``split``, ``pathology``,
``magnification`` and others; the images lie beside it, in ``quilt_1m`` or in ``images``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from unimedvl.data.curation.ingest.files import split_named
from unimedvl.data.curation.ingest.rows import Row, pairs_of_rows
from unimedvl.data.curation.ingest.settings import Reader, ReaderSettings, Skipped, one_image
from unimedvl.data.curation.ingest.tables import row_images
from unimedvl.data.curation.pairs import Pair

_TABLE = "quilt_1M_lookup.csv"
_FOLDERS = ("", "quilt_1m", "images")
_KEPT = ("subset", "pathology", "magnification")


def _read(root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
    path = root if root.is_file() else root / _TABLE
    if path.is_file():
        make = partial(_pairs, path, settings, skipped)
        yield from pairs_of_rows(path, ("caption", "image_path"), make, settings, skipped)


def _pairs(path: Path, settings: ReaderSettings, skipped: Skipped, row: Row) -> Iterator[Pair]:
    folders = [path.parent / folder for folder in _FOLDERS]
    if images := row_images(row, "image_path", folders, settings, skipped):
        yield settings.pair(
            str(row.number),
            text=row.text("caption"),
            # The column subset tells in some rows the split and in others the origin.
            split=split_named(row.text("split")) or split_named(row.text("subset")) or "",
            more={"name": row.text("image_path"), **row.plain(*_KEPT)},
            **one_image(images[0], settings.family),
        )


read = Reader(
    _read,
    layout=f"{_TABLE} with image_path and caption, images beside it, in quilt_1m/ or images/",
    defaults={"source": "Quilt-1M", "subtask": "caption", "modality": "HIS"},
)
