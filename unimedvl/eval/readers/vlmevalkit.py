"""Tables of VLMEvalKit, among them GMAI-MMBench (Chen et al., 2024): one TSV file with the images as base64."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from unimedvl.data.records import ImageRef
from unimedvl.errors import DataError
from unimedvl.eval.readers.choices import by_letter, by_text, chosen, options_of
from unimedvl.eval.readers.images import Kept, image_file, image_refs
from unimedvl.eval.readers.layout import collected, located, of_split, spellings
from unimedvl.eval.readers.tables import Entry, read_entries, written_list
from unimedvl.eval.rows import LETTERS, Row

_REFERENCE = 64  # letters; a shorter cell is the index of the row that holds the image
_KINDS = ("clinical vqa task", "category", "l2-category")

Shown = tuple[ImageRef, ...] | str
"""The images of a row, or the index of the row that holds them."""


def read(path: Path, split: str = "test") -> list[Row]:
    """The rows of a table; ``kind`` is the first of clinical VQA task, category and l2-category that is given.

    A row with options has the letter of one, or its text, as its answer; a row without them is an open question. The
    answers of GMAI-MMBench are public for its split ``val``.

    Args:
        path: a TSV file, or a folder with one, or with some that say their splits in their names, such as
            ``GMAI-MMBench_VAL.tsv``, or ``GMAI_mm_bench_TEST_part_1.tsv`` and the other parts.
        split: chooses among several files, and among rows of several splits, which their column ``split`` says. A
            single file whose rows are all of one split is taken whole.

    Raises:
        DataError: a file or row is absent or cannot be used.
    """
    return collected((row for file in _files(path, split) for row in _rows(file, split)), path)


def _files(path: Path, split: str) -> list[Path]:
    """The table, or the one or the parts that say the split in their names."""
    tables = located(path, ["*.tsv"])
    if len(tables) == 1:
        return tables
    wanted = set(spellings(split))
    found = [file for file in tables if not wanted.isdisjoint(_words(file))]
    if len(found) > 1 and not all("part" in _words(file) for file in found):
        names = ", ".join(file.name for file in found)
        raise DataError(f"several files could be meant: {names}", where=str(path), remedy="give one of them")
    if not found:
        names = ", ".join(file.name for file in tables)
        problem = f"no file name says the split {split!r}: {names}"
        raise DataError(problem, where=str(path), remedy="choose a split that is there, or give one file")
    return found


def _words(file: Path) -> list[str]:
    return re.split(r"[^a-z0-9]+", file.stem.lower())


def _rows(file: Path, split: str) -> Iterator[Row]:
    shown: dict[str, Shown] = {}
    kept: Kept = {}
    entries: list[Entry] = []
    for entry in read_entries(file):
        index = entry.text("index")
        if index in shown:
            raise entry.fault(f"a second row with the index {index}")
        shown[index] = _shown(entry, file, kept)
        # Without the image, which is long: a row may be shown one that stands further down.
        entries.append(replace(entry, values={**entry.values, "image": None}))
    mixed = len({entry.optional("split") for entry in entries}) > 1
    for entry in of_split(entries, split, file) if mixed else entries:
        yield _row(entry, file, _resolved(entry, shown))


def _shown(entry: Entry, file: Path, kept: Kept) -> Shown:
    """``image`` as base64 or a list of such, or the index of another row; else ``image_path``."""
    text = entry.optional("image")
    if text:
        if isinstance(several := written_list(text), list):
            return image_refs([_encoded(each) for each in several], file.parent, entry, kept)
        return image_refs(_encoded(text), file.parent, entry, kept) if len(text) > _REFERENCE else text
    if not entry.optional("image_path"):
        raise entry.fault("neither image nor image_path")
    folders = ("", f"images/{file.stem}", "images")  # the last two are where VLMEvalKit unpacks images
    return tuple(image_file(name, file.parent, entry, folders) for name in entry.texts("image_path", written=True))


def _encoded(text: Any) -> dict[str, Any]:
    return {"base64": text}


def _resolved(entry: Entry, shown: dict[str, Shown]) -> tuple[ImageRef, ...]:
    at, passed = entry.text("index"), set()
    while isinstance(found := shown[at], str):
        passed.add(at)
        if found not in shown:
            raise entry.fault(f"image is {found!r}, neither base64 nor the index of a row")
        if found in passed:
            raise entry.fault(f"image points to row {found}, which has no image of its own")
        at = found
    return found


def _row(entry: Entry, file: Path, images: tuple[ImageRef, ...]) -> Row:
    options = options_of([entry.optional(letter) for letter in LETTERS], entry)
    if not (answer := entry.optional("answer")):
        raise entry.fault("no answer", "choose a split whose answers are public")
    right = (chosen(answer, options, entry, (by_letter, by_text)),) if options else ()
    return Row(
        f"{file.stem}-{entry.text('index')}",
        "vqa",
        entry.optional(*_KINDS),
        entry.optional("modality"),
        "\n".join(text for text in (entry.optional("hint"), entry.text("question")) if text),
        right or entry.texts("answer", written=True),
        options,
        closed=True if options else None,
        images=images,
        root=file.parent,
    )
