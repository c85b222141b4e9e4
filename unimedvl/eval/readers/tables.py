"""Rows of the files in which benchmarks are published."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unimedvl.data.tables import Row, json_value, read_table, row_of, unreadable
from unimedvl.errors import DataError


class Entry(Row):
    """One row of a file, and how its columns are read."""

    def text(self, column: str) -> str:
        """What stands in a column, without spaces around it.

        Raises:
            DataError: there is no such column, or nothing in it.
        """
        self.present(column)
        if not (said := self.optional(column)):
            raise self.fault(f"{column!r} is empty")
        return said

    def one_of(self, column: str, *known: str) -> str:
        """What stands in a column, in capitals.

        Raises:
            DataError: it is none of ``known``.
        """
        if (said := self.text(column).upper()) not in known:
            raise self.fault(f"{column} {said!r} is none of {', '.join(known)}")
        return said

    def optional(self, *columns: str) -> str:
        """What stands in the first of the columns that is there and holds something; empty if none does."""
        return next((said for column in columns if (said := self.said(self.values.get(column), column))), "")

    def texts(self, column: str, written: bool = False) -> tuple[str, ...]:
        """The texts of a list, or the one text; ``written``: a list may stand as text in its cell.

        Raises:
            DataError: there is no such column, or no text, or an empty one.
        """
        value = self.values.get(column)
        if written and isinstance(value, str) and isinstance(several := written_list(value), list):
            value = several
        if not isinstance(value, list):
            return (self.text(column),)
        found = tuple(self.said(each, column) for each in value)
        if not found or not all(found):
            raise self.fault(f"{column!r} is empty")
        return found


def read_entries(path: Path) -> Iterator[Entry]:
    """The rows of a file, one after the other; a JSON file is a list of objects.

    Raises:
        DataError: the file is of another kind, absent or damaged; says in which line.
    """
    return read_table(path, Entry, lambda file: _listed(read_json(file), str(file)))


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: it is absent or damaged; says in which line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(error, path) from error
    return json_value(data, path)


def entries_of(rows: Any, place: str) -> Iterator[Entry]:
    """The objects of a list that was read from a JSON file.

    Raises:
        DataError: it is no list, or holds something else than objects.
    """
    for number, values in enumerate(_listed(rows, place)):
        yield row_of(values, f"{place}, row {number + 1}", number, Entry)


def _listed(rows: Any, place: str) -> list[Any]:
    if not isinstance(rows, list):
        raise DataError(f"holds a {type(rows).__name__}, not a list", where=place, remedy="give a list of objects")
    return rows


def written_list(text: str) -> list[Any] | dict[str, Any] | None:
    """A list or object written out in a cell, as JSON or as Python writes it; None for any other text."""
    text = text.strip()
    if (text[:1], text[-1:]) not in (("[", "]"), ("{", "}")):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return value if isinstance(value, list | dict) else None
    return None
