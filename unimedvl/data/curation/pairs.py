"""Pairs: what curation works on, one candidate for the corpus each; kept in parts of Parquet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimedvl.errors import DataError
from unimedvl.files import aside

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Pair:
    """One candidate: images with a text, or an image with the image that should be made of it.

    Attributes:
        id: 16 hexadecimal digits, the same in every run; see :func:`pair_id`.
        source: data set that it comes from.
        family: of its record, see :data:`unimedvl.data.records.Family`; ``subtask`` and ``modality`` as there.
        split: ``train``, ``validation``, ``test``, or empty where the source does not say.
        text: caption, report or answer; of edits the response.
        question: what is asked, or the instruction of an edit; empty until templates give one.
        images: files that are shown, of text-to-image none; ``target``: the one that should be made.
        license: of the source, in its own words or as an SPDX identifier.
        steps: what was done to pixels since they were acquired, such as a window or a slice number.
        more: further facts that the source tells, plain JSON; never DICOM tags.
    """

    id: str
    source: str
    family: str
    subtask: str = ""
    modality: str = ""
    split: str = ""
    text: str = ""
    question: str = ""
    images: tuple[str, ...] = ()
    target: str = ""
    license: str = ""
    steps: tuple[str, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def picture(self) -> str:
        """The file that the text is about: the target, or else the first that is shown; empty without any."""
        return self.target if self.family == "t2i" else (*self.images, self.target)[0]


def pair_id(source: str, *parts: str) -> str:
    """The id of a pair from its source and what tells it apart there, such as a relative path and a row number."""
    return hashlib.sha256(json.dumps([source, *parts]).encode()).hexdigest()[:16]


def write_part(path: Path, pairs: Iterable[Pair]) -> int:
    """A Parquet file of pairs; how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [_row(pair) for pair in pairs]
    with aside(path) as part:
        pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), part)
    return len(rows)


def read_part(path: Path) -> Iterator[Pair]:
    """The pairs of a Parquet file, in their order.

    Raises:
        DataError: it is absent, damaged, or holds something else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(path).iter_batches(1024):
            for row in batch.to_pylist():
                yield _pair(row)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"no part of pairs: {reason}", where=str(path), remedy="remove it and start again") from error


def in_parts(pairs: Iterable[Pair], size: int) -> Iterator[list[Pair]]:
    """Lists of ``size`` pairs, the last one shorter."""
    held: list[Pair] = []
    for pair in pairs:
        held.append(pair)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held


def _schema() -> pa.Schema:
    import pyarrow as pa

    several = {"images": pa.list_(pa.string()), "steps": pa.list_(pa.string())}
    return pa.schema([(item.name, several.get(item.name, pa.string())) for item in fields(Pair)])


def _row(pair: Pair) -> dict[str, Any]:
    return {**vars(pair), "more": json.dumps(pair.more, sort_keys=True)}


def _pair(row: dict[str, Any]) -> Pair:
    lists: dict[str, Sequence[str]] = {name: tuple(row[name]) for name in ("images", "steps")}
    return replace(Pair(row["id"], row["source"], row["family"]), **{**row, **lists, "more": json.loads(row["more"])})
