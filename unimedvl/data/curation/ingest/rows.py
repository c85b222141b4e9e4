"""Rows of CSV, JSON lines, JSON and Parquet files, a few at a time, each with the place where it stands."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from unimedvl.errors import DataError

_ROWS_AT_ONCE = 256  # of a Parquet file
_CHARACTERS_AT_ONCE = 1 << 20  # of a JSON file
_MEND = "mend or remove the row"


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        values: by column.
        place: file and line or row, counted from 1.
        number: of the row in its file, from 0.
    """

    values: Mapping[str, Any]
    place: str
    number: int

    def value(self, column: str) -> Any:
        """What stands in a column.

        Raises:
            DataError: there is no such column.
        """
        if column not in self.values:
            known = ", ".join(map(str, self.values)) or "none"
            raise self.fault(f"no column {column!r} among {known}", "name the right column")
        return self.values[column]

    def text(self, column: str) -> str:
        """The text or number in a column as text; empty where the column has no name, is absent, or holds nothing.

        Raises:
            DataError: it is a list or an object.
        """
        value = self.values.get(column) if column else None
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        if not isinstance(value, str | int | float):
            raise self.fault(f"{column!r} holds a {type(value).__name__}, not a text")
        whole = isinstance(value, float) and value.is_integer()
        return str(int(value) if whole else value).strip()

    def plain(self, *columns: str) -> dict[str, Any]:
        """The columns that hold something.

        Raises:
            DataError: it is no JSON value.
        """
        found: dict[str, Any] = {}
        for name in columns:
            value = self.values.get(name)
            if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
                continue
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise self.fault(f"{name!r} holds a {type(value).__name__}, no JSON value") from error
            found[name] = value
        return found

    def fault(self, problem: str, remedy: str = _MEND) -> DataError:
        """An error that says where the row stands."""
        return DataError(problem, where=self.place, remedy=remedy)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, without holding all of it; a JSON file is a list of objects.

    Raises:
        DataError: the file is of another kind, absent or damaged; says where.
    """
    readers = {".csv": _separated, ".tsv": _separated, ".jsonl": _json_lines, ".json": _json, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path.suffix!r} is no table", where=str(path), remedy=f"give {', '.join(readers)}")
    try:
        yield from readers[path.suffix.lower()](path)
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror or error}", where=str(path), remedy="check the file"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8", where=str(path), remedy="write the file as UTF-8") from error


TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


def _separated(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        columns: list[str] = []
        number = 0
        while (cells := _next_cells(reader, path)) is not None:
            place = f"{path}, line {reader.line_num}"
            if not columns:
                columns = cells
            elif len(cells) != len(columns):
                raise DataError(f"{len(cells)} cells under {len(columns)} columns", where=place, remedy=_MEND)
            else:
                yield Row(dict(zip(columns, cells, strict=True)), place, number)
                number += 1


def _next_cells(reader: Any, path: Path) -> list[str] | None:
    """The next row that is not blank; None at the end."""
    try:
        return next((cells for cells in reader if cells), None)
    except csv.Error as error:
        place = f"{path}, line {reader.line_num}"
        raise DataError(f"bad table: {error}", where=place, remedy="put cells with quotes in double quotes") from error


def _json_lines(path: Path) -> Iterator[Row]:
    number = 0
    with path.open(encoding="utf-8-sig") as file:
        for line_number, line in enumerate(file, 1):
            if not line.strip():
                continue
            place = f"{path}, line {line_number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"bad JSON: {error}", where=place, remedy=_MEND) from error
            yield _object(value, place, number)
            number += 1


def _json(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, value in enumerate(_items(file, str(path))):
            yield _object(value, f"{path}, row {number + 1}", number)


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
            raise DataError(f"bad JSON: {problem}", where=place, remedy="download the file again")
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


def _object(value: Any, place: str, number: int) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"a {type(value).__name__}, not an object", where=place, remedy=_MEND)
    return Row(value, place, number)


def _parquet(path: Path) -> Iterator[Row]:
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
                    yield Row(values, f"{path}, row {number + 1}", number)
                    number += 1
    except ArrowException as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"the file is damaged: {reason}", where=str(path), remedy="download it again") from error
