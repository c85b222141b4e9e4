"""Rows of the tables that corpora come in, a few at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from unimedvl.data import tables
from unimedvl.data.curation.ingest.settings import ReaderSettings, Skipped
from unimedvl.data.curation.pairs import Pair
from unimedvl.data.tables import AGAIN, absent, not_utf8, read_table
from unimedvl.errors import DataError

_CHARACTERS_AT_ONCE = 1 << 20  # of a JSON file


class Row(tables.Row):
    """One row, and how its columns are read."""

    def absence(self, column: str) -> DataError:
        """An error that says that there is no such column."""
        known = ", ".join(map(str, self.values)) or "none"
        remedy = "name the right column, or give the file as it was published"
        return self.fault(f"no column {column!r}: there are {known}", remedy)

    def value(self, column: str) -> Any:
        """What stands in a column.

        Raises:
            DataError: there is no such column.
        """
        if column not in self.values:
            raise self.absence(column)
        return self.values[column]

    def text(self, column: str) -> str:
        """The text or number in a column as text; empty where the column has no name, is absent, or holds nothing.

        Raises:
            DataError: it is neither text nor a number.
        """
        return self.said(self.values.get(column), column) if column else ""

    def plain(self, *columns: str) -> dict[str, Any]:
        """The columns that hold something.

        Raises:
            DataError: it is no JSON value.
        """
        found: dict[str, Any] = {}
        for name in columns:
            value = self.values.get(name)
            if absent(value) or value == "":
                continue
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise self.fault(f"{name!r} holds a {type(value).__name__}, no JSON value") from error
            found[name] = value
        return found


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, without holding all of it; a JSON file is a list of objects.

    Raises:
        DataError: the file is of another kind, absent or damaged; says where.
    """
    return read_table(path, Row, _listed)


def pairs_of_rows(
    path: Path,
    needed: Sequence[str],
    make: Callable[[Row], Iterable[Pair]],
    settings: ReaderSettings,
    skipped: Skipped,
) -> Iterator[Pair]:
    """What is made of the rows of a file; a faulty one stops or counts, as the settings say.

    Args:
        needed: columns.

    Raises:
        DataError: a row is faulty and not to be skipped; or no row has all columns, whatever the settings say.
    """
    whole, lacking = False, None
    for row in read_rows(path):
        if gone := [name for name in needed if name not in row.values]:
            lacking = lacking or row.absence(gone[0])
            skipped.failed(settings, lacking, row.place)
            continue
        whole = True
        try:
            made = list(make(row))
        except DataError as error:
            skipped.failed(settings, error, row.place)
            continue
        yield from made
    if lacking and not whole:
        raise lacking


def _listed(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as file:
        try:
            yield from _items(file, str(path))
        except UnicodeDecodeError as error:
            raise not_utf8(str(path)) from error


def _items(file: IO[str], place: str) -> Iterator[Any]:
    """The items of a JSON list, each as soon as it is whole: such files are larger than the memory.

    The text is read in pieces. An item is taken when a comma or the end of the list follows it, because a number
    without one may go on in the next piece.
    """
    decoder = json.JSONDecoder()
    text = file.read(_CHARACTERS_AT_ONCE).lstrip()
    if text[:1] != "[":
        raise DataError("no JSON list", where=place, remedy="give a list of objects")
    at, wanted, first = 1, _CHARACTERS_AT_ONCE, True
    while True:
        found, problem = _item(decoder, text, at, first)
        if found is not None:
            value, at, last = found
            if value is not _NOTHING:
                yield value
            if last:
                return
            first, wanted = False, _CHARACTERS_AT_ONCE
            continue
        more = file.read(wanted)
        if not more:
            raise DataError(f"bad JSON: {problem}", where=place, remedy=AGAIN)
        text, at, wanted = text[at:] + more, 0, wanted * 2  # twice as much each time, so that long items cost no more


_NOTHING = object()


def _item(decoder: json.JSONDecoder, text: str, at: int, first: bool) -> tuple[tuple[Any, int, bool] | None, str]:
    """(item, where the next one starts, whether it was the last), or None and what is amiss so far."""
    at = _past_space(text, at)
    if first and text[at : at + 1] == "]":
        return (_NOTHING, at, True), ""
    try:
        value, end = decoder.raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        return None, str(error)
    end = _past_space(text, end)
    if text[end : end + 1] not in (",", "]"):
        return None, "no comma and no end after an item"
    return (value, end + 1, text[end] == "]"), ""


def _past_space(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\n", "\r", "\t"):
        at += 1
    return at
