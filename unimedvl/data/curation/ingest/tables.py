"""Tables with a column of images and one of captions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from unimedvl.data.curation.ingest.files import save_once, split_named
from unimedvl.data.curation.ingest.modalities import named
from unimedvl.data.curation.ingest.rows import Row, pairs_of_rows
from unimedvl.data.curation.ingest.settings import Reader, ReaderSettings, Skipped, one_image
from unimedvl.data.curation.pairs import Pair, pair_id
from unimedvl.data.tables import TABLES
from unimedvl.errors import ConfigError, DataError
from unimedvl.imaging import read_image

COLUMNS = (
    "image_column",
    "text_column",
    "question_column",
    "target_column",
    "split_column",
    "modality_column",
    "more_columns",
)


def _read(root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
    if settings.target_column and settings.family not in ("edit", "counterfactual"):
        remedy = "give family edit or counterfactual, or leave target_column out"
        raise ConfigError(f"target_column for the family {settings.family}", where="reader", remedy=remedy)
    columns = ("text_column", "split_column", "modality_column", "image_column", "target_column")
    needed = [name for column in columns if (name := getattr(settings, column))]
    for path in tables_of(root):
        yield from pairs_of_rows(path, needed, partial(_pairs, path, settings, skipped), settings, skipped)


def _pairs(path: Path, settings: ReaderSettings, skipped: Skipped, row: Row) -> Iterator[Pair]:
    """The pair of a row; none where an image is to be skipped."""
    images = row_images(row, settings.image_column, (path.parent,), settings, skipped)
    targets = row_images(row, settings.target_column, (path.parent,), settings, skipped)
    if images is None or targets is None:
        return
    if len(targets) > 1 or (settings.family == "t2i" and len(images) != 1):
        raise row.fault("several images to make", "give one in a row")
    given: dict[str, Any] = {"images": tuple(images), "target": "".join(targets)}
    yield settings.pair(
        path.name,
        str(row.number),
        text=row.text(settings.text_column),
        question=row.text(settings.question_column),
        split=split_in(row, settings.split_column),
        modality=named(row.text(settings.modality_column)),
        more=row.plain(*settings.more_columns),
        **(one_image(images[0], "t2i") if settings.family == "t2i" else given),
    )


def tables_of(root: Path) -> list[Path]:
    """The file itself, or the tables that lie in a folder, sorted.

    Raises:
        DataError: there are none.
    """
    if root.is_file():
        return [root]
    files = (path for path in root.iterdir() if path.is_file() and not path.name.startswith("."))
    found = sorted(path for path in files if path.suffix.lower() in TABLES)
    if not found:
        raise DataError("no table in the folder", where=str(root), remedy=f"give a file ({', '.join(TABLES)})")
    return found


def split_in(row: Row, column: str) -> str:
    """The split that a row says; empty if it says none.

    Raises:
        DataError: it says something else.
    """
    split = split_named(row.text(column))
    if split is None:
        raise row.fault(f"no known split: {row.text(column)!r}", "write train, validation or test")
    return split


def row_images(
    row: Row, column: str, folders: Sequence[Path], settings: ReaderSettings, skipped: Skipped
) -> list[str] | None:
    """The files of a row's image or images; none where the column has no name.

    Args:
        folders: from which paths start; the first in which there is such a file.

    Returns:
        None where one is absent or cannot be read, and is to be skipped.

    Raises:
        DataError: the row names none, or one is absent and is not to be skipped.
    """
    if not column:
        return []
    value = row.value(column)
    files: list[str] = []
    for number, each in enumerate(value if isinstance(value, list) else [value]):
        file = _image(each, row, f"{column}-{number}", folders, settings, skipped)
        if file is None:
            return None
        files.append(file)
    if not files:
        raise row.fault(f"{column!r} names no image")
    return files


def _image(
    value: Any, row: Row, name: str, folders: Sequence[Path], settings: ReaderSettings, skipped: Skipped
) -> str | None:
    value = value.get("bytes") or value.get("path") if isinstance(value, dict) else value
    if isinstance(value, bytes):
        return _written(value, row, name, settings, skipped)
    if not isinstance(value, str) or not value.strip():
        raise row.fault(f"{name.partition('-')[0]!r} names no image")
    for folder in folders:
        path = folder / value.strip()
        if os.path.isfile(path):  # unlike that of Path, no error for names that cannot be
            return str(path)
    skipped.missing(settings, "no such image", f"{row.place}: {value.strip()}", "check the path")
    return None


def _written(value: bytes, row: Row, name: str, settings: ReaderSettings, skipped: Skipped) -> str | None:
    """An image that stands in the row itself, as a file."""
    try:
        image = read_image(value).image
    except DataError as error:
        skipped.failed(settings, row.fault(error.problem), row.place)
        return None
    path = settings.out() / pair_id(settings.source, row.place.rpartition("/")[2]) / f"{name}.png"
    save_once(image, path)
    return str(path)


read = Reader(
    _read,
    layout="rows with an image and a caption",
    uses=(*COLUMNS, "images_out"),
    defaults={"image_column": "image", "text_column": "caption"},
)
