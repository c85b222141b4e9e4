"""Images with the report that was written on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from unimedvl.data.records import ImageRef
from unimedvl.errors import DataError
from unimedvl.eval.readers.images import image_file
from unimedvl.eval.readers.layout import collected, of_split, one_located, spellings
from unimedvl.eval.readers.tables import Entry, entries_of, read_entries, read_json
from unimedvl.eval.rows import Row

_PATTERNS = ("annotation.json", "df_chexpert_plus*.csv", "*.csv")
_FOLDERS = ("", "images", "PNG")  # of images, beside the file
_PATHS = ("image_path", "path_to_image", "image")


def read(path: Path, split: str = "test") -> list[Row]:
    """Reports of a split. The prompt is the task's own.

    Two forms are known. Annotations as R2Gen prepared them for IU X-ray and MIMIC-CXR: ``annotation.json`` with a list
    of ``{id, report, image_path: [...]}`` for each split, images in ``images``. Tables such as CheXpert Plus: a CSV
    file with ``path_to_image``, ``section_findings``, ``section_impression`` and ``split``, one image a row; the images
    may have been turned to PNG. Sections are written as ``Findings: ...`` and ``Impression: ...``, one a line; where
    both are empty, the column ``report`` is the truth.

    Args:
        path: folder with such a file, or the file. The images lie beside it.
        split: of the annotations, or in the column ``split`` of a table: ``valid`` in CheXpert Plus.

    Raises:
        DataError: a file or row is absent or cannot be used.
    """
    file = one_located(path, _PATTERNS)
    entries = _annotated(file, split) if file.suffix == ".json" else of_split(read_entries(file), split, file)
    return collected((_row(entry, file.parent) for entry in entries), path)


def _annotated(file: Path, split: str) -> Iterator[Entry]:
    parts = read_json(file)
    if not isinstance(parts, dict):
        return of_split(entries_of(parts, str(file)), split, file)
    found = next((name for name in spellings(split) if name in parts), None)
    if found is None:
        known = ", ".join(parts) or "none"
        raise DataError(f"no split is called {split!r}", where=str(file), remedy=f"use one of {known}")
    return entries_of(parts[found], f"{file}, {found}")


def _row(entry: Entry, root: Path) -> Row:
    names = _names(entry)
    name = entry.optional("id") or os.path.splitext(names[0])[0].replace("/", "-")
    images = tuple(_image(each, root, entry) for each in names)
    return Row(f"report-{name}", "report", truths=(_report(entry),), images=images, root=root)


def _names(entry: Entry) -> tuple[str, ...]:
    column = next((column for column in _PATHS if column in entry.values), _PATHS[0])
    return entry.texts(column)


def _image(name: str, root: Path, entry: Entry) -> ImageRef:
    """The image, or the PNG file of that name to which it was turned."""
    png = os.path.splitext(name)[0] + ".png"
    original, turned = (any(os.path.isfile(root / folder / each) for folder in _FOLDERS) for each in (name, png))
    return image_file(png if turned and not original else name, root, entry, _FOLDERS)


def _report(entry: Entry) -> str:
    findings = entry.optional("section_findings", "findings")
    impression = entry.optional("section_impression", "impression")
    sections = (("Findings", findings), ("Impression", impression))
    return "\n".join(f"{title}: {text}" for title, text in sections if text) or entry.text("report")
