"""Data files as memory-mapped tables of rows, through Hugging Face ``datasets``.

JSON lines are kept as lines and parsed when a row is read, so that a broken line costs itself and nothing else, and
rows need not agree on their fields.
"""

from __future__ import annotations

import glob
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimedvl.data.records import Record, RecordError, parse_record
from unimedvl.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = (".jsonl", ".json", ".parquet")
_LINE = "text"  # the column of a table that holds whole rows as JSON


class Source:
    """The rows of one or several files, and the root of their images.

    Args:
        files: paths or globs of ``.jsonl``, ``.json`` (a list of objects) and ``.parquet`` files.
        root: folder from which relative image paths start; the folder of each file by default.
        cache: folder for the Arrow files; that of ``datasets`` by default.

    Raises:
        DataError: no file is found, one is of another kind or damaged, or there is no row.
    """

    def __init__(
        self, name: str, files: Sequence[str | Path], *, root: str | Path | None = None, cache: Path | None = None
    ) -> None:
        self.name = name
        self.files = [path for pattern in files for path in _found(str(pattern), name)]
        self._root = None if root is None else Path(root)
        self._cache = cache
        if not len(self):
            raise DataError(
                "the source has no row",
                where=f"{name}: {', '.join(map(str, files))}",
                remedy="fill it, or leave it out",
            )

    @cached_property
    def _tables(self) -> list[Dataset]:
        # As Arrow, so that images stay files: our own reader knows DICOM and says what is damaged.
        return [_opened(path, self._cache).with_format("arrow") for path in self.files]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(len(table) for table in self._tables))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def row(self, number: int) -> str | dict[str, Any]:
        """A row as it stands in its file: a JSON line, or columns.

        Raises:
            RecordError: the line is not UTF-8.
        """
        table, inside = self._place(number)
        arrow: Any = self._tables[table][inside : inside + 1]
        (columns,) = arrow.to_pylist()
        if self.files[table].suffix == ".parquet":
            return columns
        try:
            return columns[_LINE].encode("latin-1").decode("utf-8-sig")
        except UnicodeDecodeError as error:
            where = self.location(number)
            raise RecordError("not UTF-8", "the line is not UTF-8", remedy="write it as UTF-8", where=where) from error

    def record(self, number: int) -> Record:
        """A row as a record.

        Raises:
            RecordError: it cannot be used; says which row of which file.
        """
        row = self.row(number)
        try:
            return parse_record(row)
        except RecordError as error:
            where = self.location(number)
            raise RecordError(error.reason, error.problem, remedy=error.remedy, where=where) from None

    def root(self, number: int) -> Path:
        """Folder from which the image paths of a row start."""
        return self.files[self._place(number)[0]].parent if self._root is None else self._root

    def location(self, number: int) -> str:
        """``file:row``, rows counted from 1; the line, in files of lines."""
        table, inside = self._place(number)
        return f"{self.files[table]}:{inside + 1}"

    def _place(self, number: int) -> tuple[int, int]:
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)} ({self.name})")
        table = bisect_right(self._ends, number)
        return table, number - (self._ends[table - 1] if table else 0)


def _found(pattern: str, name: str) -> list[Path]:
    paths = [Path(pattern)] if Path(pattern).is_file() else sorted(Path(path) for path in glob.glob(pattern))
    if not paths:
        remedy = "check the path, or give its family the weight 0"
        raise DataError("no such data file", where=f"{name}: {pattern}", remedy=remedy)
    for path in paths:
        if path.is_dir():
            raise DataError("a folder, not a data file", where=str(path), remedy="name its files, such as DIR/*.jsonl")
        if "::" in str(path):
            raise DataError("'::' in a name", where=str(path), remedy="rename it: datasets take it for a chain of URLs")
        if path.suffix not in SUFFIXES:
            raise DataError(f"{path.suffix!r} is no data file", where=str(path), remedy=f"give {', '.join(SUFFIXES)}")
    return paths


def _opened(path: Path, cache: Path | None) -> Dataset:
    from datasets import Dataset, Features, Value, load_dataset
    from datasets.exceptions import DatasetGenerationError
    from pyarrow.lib import ArrowException

    folder: Any = None if cache is None else str(cache)
    file = glob.escape(str(path.resolve()))  # what is passed on is a pattern
    if not path.stat().st_size:
        return Dataset.from_dict({_LINE: []})
    try:
        if path.suffix == ".jsonl":
            return load_dataset(
                "text",
                data_files=file,
                split="train",
                cache_dir=folder,
                encoding="latin-1",  # bytes as they are: whether they are UTF-8 is a matter of each line
            )
        if path.suffix == ".json":
            changed = {"path": str(path.resolve()), "modified": path.stat().st_mtime_ns}
            features = Features({_LINE: Value("large_string")})
            # The arguments name the cached table, so a changed file is read again.
            return Dataset.from_generator(_json_rows, gen_kwargs=changed, features=features, cache_dir=folder)
        return load_dataset("parquet", data_files=file, split="train", cache_dir=folder)
    except (DatasetGenerationError, ArrowException, ValueError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, DataError):
            raise cause from None
        raise DataError(
            f"the file is damaged: {_first_line(cause)}", where=str(path), remedy="write it again"
        ) from error


def _json_rows(path: str, modified: int) -> Iterator[dict[str, str]]:
    del modified
    with open(path, encoding="utf-8-sig") as file:
        rows = json.load(file)
    if not isinstance(rows, list):
        raise DataError(f"holds a {type(rows).__name__}, not a list", where=path, remedy="write one object a line")
    if not rows:
        raise DataError("the source has no row", where=path, remedy="fill it, or leave it out")
    for row in rows:
        yield {_LINE: json.dumps(row)}  # in ASCII


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
