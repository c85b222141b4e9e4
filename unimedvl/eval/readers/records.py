"""Questions of one's own: files of records (:mod:`unimedvl.data.records`), or tables in a plain form."""

from __future__ import annotations

from collections.abc import Iterator
from glob import escape
from pathlib import Path
from typing import Any

from unimedvl.data.records import IMAGE_MARK
from unimedvl.eval.readers.choices import by_letter, by_text, chosen, lettered, options_of
from unimedvl.eval.readers.images import Kept, image_file, image_refs
from unimedvl.eval.readers.layout import collected, located, of_split, shards, spellings
from unimedvl.eval.readers.tables import Entry, read_entries, written_list
from unimedvl.eval.rows import LETTERS, Row, read_rows

_OURS = ("message", "main_task_type", "conversations", "captions")
_TABLES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def read(path: Path, split: str = "test") -> list[Row]:
    """The rows of a file of records, or of a table in the plain form, which its first row tells.

    The plain form has the columns ``image`` (a path from the file's folder, bytes, base64, or a list of these),
    ``question``, ``answer`` (one or a list of right ones), and perhaps ``options`` (a list, or texts by the letters A,
    B, ...; or columns with these names), ``category``, ``modality``, ``split`` and ``id``. With options, the answer is
    the text of one, or its letter where it is the text of none. Lists in CSV and TSV files are written as JSON.

    Args:
        path: a file (``.jsonl``, ``.json``, ``.parquet``; the plain form also ``.csv``, ``.tsv``), or a folder with
            ``test.jsonl`` and the like, or ``test-00000-of-0000N.parquet``.
        split: which file of a folder; rows with a column ``split`` are chosen by it.

    Raises:
        DataError: a file or row is absent or cannot be used.
    """
    names = spellings(split)
    files = located(path, [f"{escape(name)}{suffix}" for name in names for suffix in _TABLES] + shards(names))
    return collected((row for file in files for row in (_records if _ours(file) else _plain)(file, split)), path)


def _ours(file: Path) -> bool:
    first = next(read_entries(file), None)
    return first is not None and any(first.values.get(field) is not None for field in _OURS)


def _records(file: Path, _: str) -> Iterator[Row]:
    for number, row in enumerate(read_rows(file)):
        entry = Entry({}, f"{file}, row {number + 1}", number)
        for image in (*row.images, row.wanted):
            if image and image.path is not None:
                image_file(image.path, row.root or file.parent, entry)
        yield row


def _plain(file: Path, split: str) -> Iterator[Row]:
    kept: Kept = {}
    written = file.suffix.lower() in (".csv", ".tsv")
    return (_row(entry, file, kept, written) for entry in of_split(read_entries(file), split, file))


def _row(entry: Entry, file: Path, kept: Kept, written: bool) -> Row:
    """``written``: lists stand as text in their cells."""
    entry.present("image")
    options = _options(entry)
    truths = entry.texts("answer", written)
    if options:
        if len(truths) != 1:
            raise entry.fault(f"{len(truths)} answers to a question with options")
        truths = (chosen(truths[0], options, entry, (by_text, by_letter)),)
    if not (question := entry.text("question").replace(IMAGE_MARK, "").strip()):
        raise entry.fault("'question' is empty")
    image = entry.values["image"]
    if written and isinstance(several := written_list(image), list):
        image = several
    return Row(
        f"{file.stem}-{entry.optional('id') or f'{entry.number:05d}'}",
        "vqa",
        entry.optional("category"),
        entry.optional("modality"),
        question,
        truths,
        options,
        closed=True if options else None,
        images=image_refs(image, file.parent, entry, kept),
        root=file.parent,
    )


def _options(entry: Entry) -> tuple[str, ...]:
    value: Any = entry.values.get("options")
    if isinstance(value, str) and value:
        if (several := written_list(value)) is None:
            raise entry.fault(f"options {value!r} are no list", "write them as a JSON list of texts")
        value = several
    if value is None or value == "":
        return options_of([entry.optional(letter) for letter in LETTERS], entry)
    if isinstance(value, dict):
        return lettered({letter: entry.said(each, "options") for letter, each in value.items()}, entry)
    if not isinstance(value, list):
        raise entry.fault(f"options are {type(value).__name__}, not a list", "give a list of texts")
    return options_of([entry.said(each, "options") for each in value], entry)
