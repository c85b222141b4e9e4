"""Rows of JSON, JSON lines, CSV, TSV and Parquet files, each with the place where it stands."""

from __future__ import annotations

import ast
import csv
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimedvl.errors import DataError

_ROWS_AT_ONCE = 64  # of a Parquet file: each may hold an image
_MEND = "mend or remove the row"


@dataclass(frozen=True)
class Entry:
    """One row of a file.

    Attributes:
        values: by column.
        place: file and row, or line, counted from 1.
        number: of the row in its file, from 0.
    """

    values: Mapping[str, Any]
    place: str
    number: int

    def text(self, column: str) -> str:
        """What stands in a column, without spaces around it.

        Raises:
            DataError: there is no such column, or nothing in it.
        """
        self.present(column)
        if not (said := self.optional(column)):
            raise self.fault(f"{column!r} is empty")
        return said

    def present(self, column: str) -> None:
        """Check that there is such a column.

        Raises:
            DataError: there is not.
        """
        if column not in self.values:
            known = ", ".join(map(str, self.values)) or "none"
            raise self.fault(f"no column {column!r} among {known}", "give the file as it was published")

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

    def said(self, value: Any, column: str) -> str:
        """A value as text: numbers are written out, and nothing is an empty text.

        Raises:
            DataError: it is neither text nor a number.
        """
        if value is None or (isinstance(value, float) and math.isnan(value)):  # tables write an absent text as NaN
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.fault(f"{column!r} is {type(value).__name__}, not a text")
        whole = isinstance(value, float) and value.is_integer()
        return str(int(value) if whole else value).strip()

    def fault(self, problem: str, remedy: str = _MEND) -> DataError:
        """An error that says where the row stands."""
        return DataError(problem, where=self.place, remedy=remedy)


def read_entries(path: Path) -> Iterator[Entry]:
    """The rows of a file, one after the other; a JSON file is a list of objects.

    Raises:
        DataError: the file is of another kind, absent or damaged; says in which line.
    """
    readers = {".json": _json, ".jsonl": _json_lines, ".csv": _separated, ".tsv": _separated, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path.suffix!r} is no table", where=str(path), remedy=f"give {', '.join(readers)}")
    return readers[path.suffix.lower()](path)


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: it is absent or damaged; says in which line.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), remedy="check the path") from error
    except UnicodeDecodeError as error:
        raise _not_utf8(str(path)) from error
    except json.JSONDecodeError as error:
        place = f"{path}, line {error.lineno}, column {error.colno}"
        raise DataError(f"bad JSON: {error.msg}", where=place, remedy="download the file again") from error
    except RecursionError as error:
        raise DataError("bad JSON: nested too deeply", where=str(path), remedy="download the file again") from error


def entries_of(rows: Any, place: str) -> Iterator[Entry]:
    """The objects of a list that was read from a JSON file.

    Raises:
        DataError: it is no list, or holds something else than objects.
    """
    if not isinstance(rows, list):
        raise DataError(f"holds a {type(rows).__name__}, not a list", where=place, remedy="give a list of objects")
    for number, values in enumerate(rows):
        yield _entry(values, f"{place}, row {number + 1}", number)


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


def _entry(values: Any, place: str, number: int) -> Entry:
    if not isinstance(values, Mapping):
        raise DataError(f"a {type(values).__name__}, not an object", where=place, remedy=_MEND)
    return Entry(values, place, number)


def _not_utf8(place: str) -> DataError:
    return DataError("not UTF-8", where=place, remedy="write the file as UTF-8")


def _json(path: Path) -> Iterator[Entry]:
    yield from entries_of(read_json(path), str(path))


def _json_lines(path: Path) -> Iterator[Entry]:
    count = 0
    with path.open("rb") as file:
        for line_number, line in enumerate(file, 1):
            place = f"{path}, line {line_number}"
            if not line.strip():
                continue
            try:
                values = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                raise _not_utf8(place) from error
            except json.JSONDecodeError as error:
                raise DataError(
                    f"bad JSON: {error.msg}", where=f"{place}, column {error.colno}", remedy=_MEND
                ) from error
            except RecursionError as error:
                raise DataError("bad JSON: nested too deeply", where=place, remedy=_MEND) from error
            yield _entry(values, place, count)
            count += 1


def _separated(path: Path) -> Iterator[Entry]:
    """Cells that hold line breaks, separators or quotes stand in double quotes, as pandas writes them."""
    columns: list[str] = []
    count = 0
    for line_number, cells in _cells(path):
        place = f"{path}, line {line_number}"
        if not columns:
            columns = [cell.strip() for cell in cells]
            if len(set(columns)) < len(columns):
                raise DataError("two columns of one name", where=place, remedy="rename one")
            continue
        if len(cells) != len(columns):
            problem = f"{len(cells)} cells under {len(columns)} columns"
            raise DataError(problem, where=place, remedy="download the file again, or mend the row")
        yield Entry(dict(zip(columns, cells, strict=True)), place, count)
        count += 1


def _cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, with the line on which each starts."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        while True:
            start = rows.line_num + 1
            try:
                with _long_fields():
                    cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                remedy = "put cells with quotes into double quotes, and double those inside"
                raise DataError(f"bad table: {error}", where=f"{path}, line {start}", remedy=remedy) from error
            except UnicodeDecodeError as error:
                raise _not_utf8(f"{path}, line {start}") from error
            if cells:
                yield start, cells


@contextmanager
def _long_fields() -> Iterator[None]:
    """The limit of ``csv`` on a cell, which is the process's, is lifted only while a row is read: images are longer."""
    before = csv.field_size_limit(2**31 - 1)  # more does not fit a C long everywhere
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _parquet(path: Path) -> Iterator[Entry]:
    try:
        import pyarrow.parquet as pq
        from pyarrow.lib import ArrowException
    except ImportError as error:
        raise DataError("Parquet needs pyarrow", where=str(path), remedy="pip install 'unimedvl[eval]'") from error
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                for values in batch.to_pylist():
                    yield Entry(values, f"{path}, row {number + 1}", number)
                    number += 1
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        place = f"{path}, after row {number}"
        raise DataError(f"the file is damaged: {reason}", where=place, remedy="download it again") from error
