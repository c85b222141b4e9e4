"""Rows of CSV, TSV, JSON, JSON lines and Parquet files, each with the place where it stands."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from unimedvl.errors import DataError

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
AGAIN = "download the file again"
_MEND = "mend or remove the row"
_ROWS_AT_ONCE = 64  # of a Parquet file: each may hold an image


@dataclass(frozen=True)
class Row:
    """One row of a file.

    Attributes:
        values: by column.
        place: file and row, or the line on which it starts, counted from 1.
        number: of the row in its file, from 0.
    """

    values: Mapping[str, Any]
    place: str
    number: int

    def present(self, column: str) -> None:
        """Check that there is such a column.

        Raises:
            DataError: there is not.
        """
        if column not in self.values:
            known = ", ".join(map(str, self.values)) or "none"
            remedy = "name the right column, or give the file as it was published"
            raise self.fault(f"no column {column!r} among {known}", remedy)

    def said(self, value: Any, column: str) -> str:
        """A value as text, without spaces around it: numbers are written out, and nothing is an empty text.

        Raises:
            DataError: it is neither text nor a number.
        """
        if absent(value):
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.fault(f"{column!r} is {type(value).__name__}, not a text")
        whole = isinstance(value, float) and value.is_integer()
        return str(int(value) if whole else value).strip()

    def fault(self, problem: str, remedy: str = _MEND) -> DataError:
        """An error that says where the row stands."""
        return DataError(problem, where=self.place, remedy=remedy)


RowT = TypeVar("RowT", bound=Row)


def absent(value: Any) -> bool:
    """Whether a cell holds no value: tables write an absent text as NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def read_table(path: Path, kind: type[RowT], items: Callable[[Path], Iterable[Any]]) -> Iterator[RowT]:
    """The rows of a file, one after the other.

    Args:
        kind: of the rows.
        items: reads the list of a JSON file.

    Raises:
        DataError: the file is of another kind, absent or damaged; says in which line or row.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        raise DataError(f"{path.suffix!r} is no table", where=str(path), remedy=f"give {', '.join(TABLES)}")
    readers = {".jsonl": _json_lines, ".parquet": _parquet}
    try:
        found = _numbered(items(path), path) if suffix == ".json" else readers.get(suffix, _separated)(path)
        for number, (place, values) in enumerate(found):
            yield row_of(values, place, number, kind)
    except OSError as error:
        raise unreadable(error, path) from error


def row_of(values: Any, place: str, number: int, kind: type[RowT]) -> RowT:
    """An object that was read from JSON, as a row.

    Raises:
        DataError: it is something else than an object.
    """
    if not isinstance(values, Mapping):
        raise DataError(f"a {type(values).__name__}, not an object", where=place, remedy=_MEND)
    return kind(values, place, number)


def json_value(data: bytes, path: Path, line: int = 0) -> Any:
    """What JSON says.

    Args:
        data: what the file holds, or one line of it.
        line: its number, from 1; 0 for the whole file.

    Raises:
        DataError: it is damaged; says in which line.
    """
    place, remedy = (f"{path}, line {line}", _MEND) if line else (str(path), AGAIN)
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise not_utf8(place) from error
    except json.JSONDecodeError as error:
        place = f"{path}, line {line or error.lineno}, column {error.colno}"
        raise DataError(f"bad JSON: {error.msg}", where=place, remedy=remedy) from error
    except RecursionError as error:
        raise DataError("bad JSON: nested too deeply", where=place, remedy=remedy) from error
    except ValueError as error:  # Python reads no more than some thousand
        raise DataError("bad JSON: a number has too many digits", where=place, remedy=remedy) from error


def not_utf8(place: str) -> DataError:
    """An error that says where the bytes are that are no text."""
    return DataError("not UTF-8", where=place, remedy="write the file as UTF-8")


def unreadable(error: OSError, path: Path) -> DataError:
    """An error that says which file the system does not give."""
    return DataError(f"cannot be read: {error.strerror or error}", where=str(path), remedy="check the path")


def _numbered(values: Iterable[Any], path: Path) -> Iterator[tuple[str, Any]]:
    return ((f"{path}, row {number}", each) for number, each in enumerate(values, 1))


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}, line {number}", json_value(line, path, number)


def _separated(path: Path) -> Iterator[tuple[str, Any]]:
    """Cells that hold line breaks, separators or quotes stand in double quotes, as pandas writes them."""
    columns: list[str] = []
    for line_number, cells in _cells(path):
        place = f"{path}, line {line_number}"
        if not columns:
            columns = [cell.strip() for cell in cells]
            named = [column for column in columns if column]
            if len(set(named)) < len(named):
                raise DataError("two columns of one name", where=place, remedy="rename one")
        elif len(cells) != len(columns):
            problem = f"{len(cells)} cells under {len(columns)} columns"
            raise DataError(problem, where=place, remedy=f"{AGAIN}, or mend the row")
        else:
            yield place, dict(zip(columns, cells, strict=True))


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
                raise not_utf8(f"{path}, line {start}") from error
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


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow.parquet as pq
        from pyarrow.lib import ArrowException
    except ImportError as error:
        raise DataError("Parquet needs pyarrow", where=str(path), remedy="pip install 'unimedvl[data]'") from error
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                for values in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", values
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno:  # the system's; pyarrow's own has no number
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        place = f"{path}, after row {number}"
        raise DataError(f"the file is damaged: {reason}", where=place, remedy=AGAIN) from error
