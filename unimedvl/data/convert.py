"""Data files as Parquet with the images inside, which move as a few large files instead of many small ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pyarrow
import pyarrow.parquet

from unimedvl.data.records import ImageRef, Record, RecordError
from unimedvl.data.sources import Source
from unimedvl.data.validate import Offender, Report, examined, in_chunks
from unimedvl.errors import ConfigError, DataError

_TURN = pyarrow.struct([("from", pyarrow.string()), ("value", pyarrow.string())])
_IMAGE = pyarrow.struct(
    [
        ("bytes", pyarrow.binary()),
        ("path", pyarrow.string()),
        ("height", pyarrow.int64()),
        ("width", pyarrow.int64()),
    ]
)
_NAMES = ("main_task_type", "sub_task_type", "modality", "dataset")
# Rows that offer alternative captions fill ``image`` and ``captions`` (JSON); all others, the rest.
SCHEMA = pyarrow.schema(
    [
        *((name, pyarrow.string()) for name in _NAMES),
        ("input_img", pyarrow.list_(_IMAGE)),
        ("output_img", pyarrow.list_(_IMAGE)),
        ("message", pyarrow.list_(_TURN)),
        ("image", _IMAGE),
        ("captions", pyarrow.string()),
    ]
)

_GROUP_ROWS, _GROUP_BYTES = 64, 64 * 2**20  # of a row group: what is held in memory at a time
# Formats that are known by the file's name alone where the content lacks its usual mark.
_NAMED = (".dcm", ".dicom", ".nii", ".nii.gz")


@dataclass(frozen=True)
class Converted:
    """The shards that were written, and what became of the rows; its text says so."""

    shards: tuple[Path, ...]
    report: Report

    def values(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"shards": [str(path) for path in self.shards], **self.report.values()}

    def __str__(self) -> str:
        return f"{len(self.shards)} shards in {self.shards[0].parent}\n{self.report}"


def convert(
    source: Source, out: Path, *, rows_per_shard: int = 1000, overwrite: bool = False, quiet: bool = False
) -> Converted:
    """Write all rows as ``part-00000-of-0000N.parquet`` with the bytes of the image files, as they are.

    Rows that cannot be read, or whose image file is not there, are left out; images are not decoded (``validate`` does
    that). The folder appears under its name when it is complete. The same input gives the same bytes.

    Args:
        overwrite: replace a folder that holds nothing but such shards.

    Raises:
        DataError: the folder is not empty or cannot be written, or no row can be used.
        ConfigError: ``rows_per_shard`` is under 1.
    """
    if rows_per_shard < 1:
        raise ConfigError(f"{rows_per_shard} rows", where="rows_per_shard", remedy="give 1 or more")
    out = out.resolve()
    _check_out(out, overwrite, source)
    report = Report()
    with _aside(out) as folder:
        count = _write(folder, source, rows_per_shard, report, quiet)
        if not count:
            raise DataError(f"no row can be used: {_summary(report)}", where=source.name, remedy="see `validate`")
        names = [f"part-{number:05d}-of-{count:05d}.parquet" for number in range(count)]
        for number, name in enumerate(names):
            (folder / _temporary(number)).rename(folder / name)
        _put(folder, out)
    return Converted(tuple(out / name for name in names), report)


def _summary(report: Report) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in report.ranked)


def _temporary(number: int) -> str:
    return f"{number}.parquet"


def _check_out(out: Path, overwrite: bool, source: Source) -> None:
    if out.exists() and not out.is_dir():
        raise DataError("is a file", where=str(out), remedy="give a folder")
    present = list(out.iterdir()) if out.exists() else []
    if not present:
        return
    if not overwrite:
        raise DataError("the folder is not empty", where=str(out), remedy="give another, or --overwrite")
    if any(out in path.resolve().parents for path in source.files):
        raise DataError("the folder holds the rows to convert", where=str(out), remedy="give another folder")
    if other := sorted(path.name for path in present if not path.match("part-*-of-*.parquet")):
        raise DataError(f"the folder holds {other[0]!r}, no shard", where=str(out), remedy="give another folder")


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` to write in, gone afterwards if it still lies there."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror}", where=str(out), remedy="give another folder") from error
    try:
        (beside / "new").mkdir()  # with ordinary permissions
        yield beside / "new"
    except OSError as error:
        raise DataError(f"cannot be written: {error}", where=str(out), remedy="make room there") from error
    finally:
        shutil.rmtree(beside)


def _put(folder: Path, out: Path) -> None:
    """Give the complete folder its name; what stood there goes when ``folder``'s parent does."""
    old = folder.parent / "old"
    if out.exists():
        out.rename(old)
    try:
        folder.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise


def _write(folder: Path, source: Source, rows_per_shard: int, report: Report, quiet: bool) -> int:
    """Write the shards under names without their number; how many there are."""
    shard, count, groups = None, 0, _Groups(source, report)
    for row in (row for rows in in_chunks(groups.rows, len(source), jobs=1, quiet=quiet) for row in rows):
        if shard is None:
            shard = _Shard(folder / _temporary(count))
            count += 1
        shard.add(row)
        if shard.rows == rows_per_shard:
            shard.close()
            shard = None
    if shard is not None:
        shard.close()
    return count


class _Groups:
    """The rows of a source as they are written, bad ones counted and left out."""

    def __init__(self, source: Source, report: Report) -> None:
        self._source, self._report = source, report

    def rows(self, numbers: range) -> Iterator[pyarrow.RecordBatch]:
        """Each good row as a batch of one."""
        for number in numbers:
            self._report.rows += 1
            if (found := examined(self._source, number, _content, self._report)) is None:
                continue
            try:
                yield _as_row(*found)
            except RecordError as error:
                self._report.fault(error.reason, Offender(self._source.location(number), error.problem))


class _Shard:
    """One file, written in row groups."""

    def __init__(self, path: Path) -> None:
        # Pictures are compressed already, and no two are alike.
        self._writer = pyarrow.parquet.ParquetWriter(path, SCHEMA, use_dictionary=False, write_statistics=False)
        self._waiting: list[pyarrow.RecordBatch] = []
        self.rows = 0

    def add(self, row: pyarrow.RecordBatch) -> None:
        """Write a row, sooner or later."""
        self._waiting.append(row)
        self.rows += 1
        if len(self._waiting) >= _GROUP_ROWS or sum(each.nbytes for each in self._waiting) >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pyarrow.Table.from_batches(self._waiting).combine_chunks())
        self._waiting = []

    def close(self) -> None:
        """Write what waits, and the end of the file."""
        self._flush()
        self._writer.close()


def _as_row(record: Record, contents: Mapping[ImageRef, bytes]) -> pyarrow.RecordBatch:
    """A record as a batch of one row.

    Raises:
        RecordError: a value has no place in the table.
    """
    try:
        return pyarrow.RecordBatch.from_pylist([_columns(record, contents)], schema=SCHEMA)
    except UnicodeEncodeError as error:
        raise RecordError("not UTF-8", f"a text that UTF-8 cannot hold: {error.reason}") from error
    except (pyarrow.ArrowInvalid, OverflowError) as error:
        raise RecordError("wrong type", f"a value that does not fit the table: {error}") from error


def _columns(record: Record, contents: Mapping[ImageRef, bytes]) -> dict[str, Any]:
    """The columns that are read back as an equal record."""

    def image(ref: ImageRef) -> dict[str, Any]:
        return {"bytes": contents[ref], "path": ref.path, "height": ref.height, "width": ref.width}

    columns: dict[str, Any] = {
        "sub_task_type": record.subtask or None,
        "modality": record.modality or None,
        "dataset": record.dataset or None,
    }
    if record.captions:
        return columns | {"image": image(record.outputs[0]), "captions": json.dumps(record.captions)}
    return columns | {
        "main_task_type": record.family,
        "input_img": [image(ref) for ref in record.inputs],
        "output_img": [image(ref) for ref in record.outputs],
        "message": [{"from": turn.speaker, "value": turn.text} for turn in record.turns],
    }


def _content(ref: ImageRef, root: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        RecordError: it is missing, or could not be read any more without its name.
    """
    if ref.data is not None:
        return ref.data
    path = ref.location(root)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise RecordError("missing image", "no such file", where=str(path)) from error
    except (OSError, ValueError) as error:  # ValueError: no path may look so
        reason = error.strerror if isinstance(error, OSError) else error
        raise RecordError("missing image", f"cannot be read: {reason}", where=repr(str(path))) from error
    if path.name.lower().endswith(_NAMED):
        try:
            ImageRef(data=data).read(None)
        except RecordError as error:
            raise RecordError(error.reason, error.problem, where=str(path)) from error
    return data
