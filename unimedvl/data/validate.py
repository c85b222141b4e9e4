"""Every row and every image of data files checked, before a run trips over them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from unimedvl.data.records import ImageRef, Record, RecordError
from unimedvl.data.sources import Source
from unimedvl.errors import ConfigError, DataError

T = TypeVar("T")

_CHUNK = 32  # rows that a process takes at a time
_SHOWN = 3  # offenders that are told for each reason
_KEPT = 65_536  # images whose size a process remembers


@dataclass(frozen=True)
class Offender:
    """A bad row: ``file:row``, and what is wrong with it."""

    where: str
    problem: str


@dataclass
class Report:
    """What was found in rows.

    Attributes:
        rows: rows that were looked at.
        counts: bad rows by reason; a row counts once, with the first thing that is wrong with it.
        first: the first three offenders of each reason, in the order of the rows.
    """

    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[Offender]] = field(default_factory=dict)

    @property
    def bad(self) -> int:
        """Rows with a fault."""
        return sum(self.counts.values())

    @property
    def good(self) -> int:
        """Rows without one."""
        return self.rows - self.bad

    def fault(self, reason: str, offender: Offender) -> None:
        """Count a bad row."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self._show(reason, [offender])

    def add(self, other: Report) -> None:
        """Add what was found in the rows that come next."""
        self.rows += other.rows
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            self._show(reason, other.first[reason])

    def _show(self, reason: str, offenders: Sequence[Offender]) -> None:
        shown = self.first.setdefault(reason, [])
        shown.extend(offenders[: _SHOWN - len(shown)])

    @property
    def ranked(self) -> list[tuple[str, int]]:
        """Reasons and counts, the most frequent first."""
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))

    def values(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        first = {reason: [asdict(one) for one in self.first[reason]] for reason, _ in self.ranked}
        return {"rows": self.rows, "good": self.good, "bad": self.bad, "reasons": dict(self.ranked), "first": first}

    def __str__(self) -> str:
        lines = [f"{self.rows:,} rows: {self.good:,} good, {self.bad:,} bad"]
        for reason, count in self.ranked:
            lines.append(f"\n{reason}: {count:,}")
            lines += [f"  {one.where}: {one.problem}" for one in self.first[reason]]
            if count > len(self.first[reason]):
                lines.append(f"  and {count - len(self.first[reason]):,} more")
        return "\n".join(lines)


def validate(source: Source, *, jobs: int = 1, limit: int | None = None, quiet: bool = False) -> Report:
    """Read every row, or the first ``limit``, and every image of theirs.

    Args:
        jobs: processes that share the rows; the report is the same for any number.

    Raises:
        DataError: a process was killed.
        ConfigError: ``jobs`` or ``limit`` is under 1.
    """
    report = Report()
    for found in in_chunks(_Checker(source), rows_of(source, limit), jobs=jobs, quiet=quiet):
        report.add(found)
    return report


def rows_of(source: Source, limit: int | None) -> int:
    """How many rows to look at.

    Raises:
        ConfigError: the limit is under 1.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit {limit}", where="limit", remedy="give 1 or more, or leave it out")
    return len(source) if limit is None else min(limit, len(source))


def _offender(source: Source, row: int, error: RecordError, image: str = "") -> Offender:
    """A bad row as it is shown; ``image`` says which image of its is meant."""
    where = source.location(row)
    place = f" ({error.where})" if error.where and error.where != where else ""
    return Offender(where, f"{image}: {error.problem}{place}" if image else f"{error.problem}{place}")


def _images_of(record: Record) -> dict[str, ImageRef]:
    """The images of a record by what they are called in reports."""
    named = {f"input image {number}": ref for number, ref in enumerate(record.inputs, start=1)}
    return named | {f"output image {number}": ref for number, ref in enumerate(record.outputs, start=1)}


class SizeCache:
    """Sizes of image files, so that one that many rows show is read once; of images in rows nothing is kept.

    Args:
        size: (width, height) of an image; raises RecordError where it cannot be read.
    """

    def __init__(self, size: Callable[[ImageRef, Path], tuple[int, int]]) -> None:
        self._size = size
        self._known: dict[Path, tuple[int, int] | RecordError] = {}

    def __call__(self, ref: ImageRef, root: Path) -> tuple[int, int]:
        """(width, height) in pixels.

        Raises:
            RecordError: the image cannot be read.
        """
        if ref.data is not None:
            return self._size(ref, root)
        path = ref.location(root)
        if path not in self._known:
            if len(self._known) >= _KEPT:
                self._known.clear()
            try:
                self._known[path] = self._size(ref, root)
            except RecordError as error:
                self._known[path] = error.with_traceback(None)
        known = self._known[path]
        if isinstance(known, RecordError):
            raise known
        return known


def _read_size(ref: ImageRef, root: Path) -> tuple[int, int]:
    return ref.read(root).size


def examined(
    source: Source, row: int, look: Callable[[ImageRef, Path], T], report: Report
) -> tuple[Record, dict[ImageRef, T]] | None:
    """A record, and what ``look`` sees in its images; or nothing, and the first fault is counted."""
    try:
        record, seen = source.record(row), {}
    except RecordError as error:
        report.fault(error.reason, _offender(source, row, error))
        return None
    for name, ref in _images_of(record).items():
        try:
            seen[ref] = look(ref, source.root(row))
        except RecordError as error:
            report.fault(error.reason, _offender(source, row, error, name))
            return None
    return record, seen


class _Checker:
    """Looks at some rows of a source."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._size = SizeCache(_read_size)

    def __call__(self, rows: range) -> Report:
        report = Report(rows=len(rows))
        for row in rows:
            examined(self._source, row, self._image, report)
        return report

    def _image(self, ref: ImageRef, root: Path) -> None:
        """Read an image; raise RecordError if it cannot be, or is not as large as the row says."""
        width, height = self._size(ref, root)
        if ref.width in (None, width) and ref.height in (None, height):
            return
        declared = " x ".join("?" if side is None else str(side) for side in (ref.width, ref.height))
        raise RecordError(
            "wrong size",
            f"the row says {declared} (width x height), the image is {width} x {height}",
            where="" if ref.data is not None else str(ref.location(root)),
        )


def in_chunks(work: Callable[[range], T], rows: int, *, jobs: int, quiet: bool = False) -> Iterator[T]:
    """What ``work`` makes of the rows, a few at a time, in their order; a bar on stderr shows how far it is.

    Args:
        work: is pickled, once for each process, where there are several ``jobs``.

    Raises:
        DataError: a process was killed.
        ConfigError: ``jobs`` is under 1.
    """
    from tqdm import tqdm

    if jobs < 1:
        raise ConfigError(f"{jobs} jobs", where="jobs", remedy="give 1 or more")
    chunks = [range(first, min(first + _CHUNK, rows)) for first in range(0, rows, _CHUNK)]
    jobs = min(jobs, len(chunks))
    results = map(work, chunks) if jobs == 1 else _in_pool(work, chunks, jobs)
    hidden = quiet or not sys.stderr.isatty()
    with tqdm(total=rows, unit=" rows", leave=False, disable=hidden, file=sys.stderr) as bar:
        for chunk, result in zip(chunks, results, strict=True):
            bar.update(len(chunk))
            yield result


def _in_pool(work: Callable[[range], T], chunks: Sequence[range], jobs: int) -> Iterator[T]:
    # Fresh processes: those of Arrow and torch do not survive being copied with their threads.
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=(work,))
    try:
        with _uninterrupted():
            results = pool.map(_do, chunks)
        yield from results
    except BrokenProcessPool as error:
        raise DataError(
            "a process was killed, perhaps for its memory", where="jobs", remedy=f"use fewer than {jobs}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes that start here never see Ctrl-C, which the terminal sends to all: the first one stops the others."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_mine: dict[str, Callable[[range], Any]] = {}  # what a process of the pool is here for


def _begin(work: Callable[[range], Any]) -> None:
    _mine["work"] = work


def _do(rows: range) -> Any:
    return _mine["work"](rows)
