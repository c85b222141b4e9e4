"""Where the files of a benchmark lie, and which of their rows are of a split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from glob import escape
from pathlib import Path

from unimedvl.errors import DataError
from unimedvl.eval.readers.tables import Entry
from unimedvl.eval.rows import Row

_VALIDATION = ("validation", "val", "valid", "validate")
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})")


def spellings(split: str) -> tuple[str, ...]:
    """The names under which benchmarks know a split, in lower case, the given one first."""
    name = split.casefold()
    return (name, *(other for other in _VALIDATION if other != name)) if name in _VALIDATION else (name,)


def known_split(split: str, *known: str) -> tuple[str, ...]:
    """:func:`spellings` of a split that the benchmark has.

    Raises:
        DataError: it has no such split.
    """
    names = spellings(split)
    if not set(names) & set(known):
        raise DataError(f"no split is called {split!r}", where="split", remedy=f"use one of {', '.join(known)}")
    return names


def located(path: Path, patterns: Sequence[str]) -> list[Path]:
    """The file itself; or those of a folder, or of a folder in it, that the first fitting pattern finds, sorted.

    Raises:
        DataError: there is nothing at the path, no such file, or not all files of a set.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError("no such file or folder", where=str(path), remedy="check the path")
    for pattern in patterns:
        for depth in ("", "*/"):
            # Names that start with a dot are what archives of a Mac bring along.
            if found := sorted(file for file in path.glob(depth + pattern) if not file.name.startswith(".")):
                return _complete(found)
    remedy = "give the folder as it was published, unpacked, or one of its files"
    raise DataError(f"the folder holds no {' or '.join(patterns)}", where=str(path), remedy=remedy)


def one_located(path: Path, patterns: Sequence[str]) -> Path:
    """The one file that :func:`located` finds.

    Raises:
        DataError: there is none, or more.
    """
    found = located(path, patterns)
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise DataError(f"several files could be meant: {names}", where=str(path), remedy="give one of them")
    return found[0]


def shards(names: Iterable[str]) -> list[str]:
    """Patterns of the Parquet files of a split as the Hugging Face hub stores them."""
    forms = ("data/{}-*.parquet", "{}-*.parquet", "data/{}.parquet", "{}.parquet")
    return [form.format(escape(name)) for name in names for form in forms]


def _complete(files: list[Path]) -> list[Path]:
    """``files``, unless some of ``x-00000-of-00003`` are absent."""
    numbers = [match for file in files if (match := _SHARD.search(file.name))]
    for wanted in {int(match[2]) for match in numbers}:
        here = {int(match[1]) for match in numbers if int(match[2]) == wanted}
        if absent := sorted(set(range(wanted)) - here):
            problem = f"file {absent[0]:05d} of {wanted:05d} is absent"
            raise DataError(problem, where=str(files[0].parent), remedy="download the rest")
    return files


def of_split(entries: Iterable[Entry], split: str, path: Path) -> Iterator[Entry]:
    """The rows whose column ``split`` says so; all of them where there is no such column.

    Raises:
        DataError: rows say their split, and none of them this one.
    """
    names, others, count = spellings(split), set(), 0
    for entry in entries:
        said = entry.optional("split").casefold()
        if said and said not in names:
            others.add(said)
            continue
        count += 1
        yield entry
    if others and not count:
        problem = f"no row is of the split {split!r}"
        raise DataError(problem, where=str(path), remedy=f"use one of {', '.join(sorted(others))}")


def collected(rows: Iterable[Row], path: Path) -> list[Row]:
    """The rows, a name that was seen before with a number behind it.

    Raises:
        DataError: there is none.
    """
    result: list[Row] = []
    seen: dict[str, int] = {}
    for row in rows:
        name = row.name
        while name in seen:
            seen[row.name] += 1
            name = f"{row.name}-{seen[row.name]}"
        seen[name] = 1
        result.append(row if name == row.name else replace(row, name=name))
    if not result:
        raise DataError("no row to ask", where=str(path), remedy="download the file again, or choose another split")
    return result
