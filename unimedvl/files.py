"""Files that are never half-written: aside and renamed, or a journal whose torn last line is cut off."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from unimedvl.errors import DataError


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A path to write to, renamed to ``path`` when the block has ended well; its folder is made.

    The name keeps the suffix, for libraries that read the format from it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """UTF-8."""
    with aside(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Indented, with a last line feed."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line."""
    write_text(path, "".join(line(value) for value in values))


def line(value: Mapping[str, Any]) -> str:
    """One JSON object as a line: ASCII, so that no reader takes a separator inside a text for the end of a record."""
    return json.dumps(value) + "\n"


def append(file: IO[str], value: Mapping[str, Any]) -> None:
    """Add a record to a journal; it is on disk when this returns."""
    file.write(line(value))
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Whether this process, and no other, holds the lock of this name for the block; never waits."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def read_journal(path: Path, *, mend: bool = False) -> list[dict[str, Any]]:
    """The records of a journal, without a torn last one; none if there is no file.

    Args:
        mend: also cut the torn record off, before more are appended. Only its one writer may.

    Raises:
        DataError: a line is no JSON object.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if mend and len(whole) < len(content):
        with open(path, "r+b") as file:
            file.truncate(len(whole))
    records = []
    for number, text in enumerate(whole.decode("utf-8", errors="replace").split("\n")[:-1], 1):
        try:
            record = json.loads(text)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            remedy = "take the line out, or write elsewhere"
            raise DataError(f"no record: {text[:40]!r}", where=f"{path}, line {number}", remedy=remedy)
        records.append(record)
    return records
