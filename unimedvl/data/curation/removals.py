"""Pairs that people took out of a corpus, kept in a file beside it: whoever writes the corpus again leaves them out.

A removal is of a pair as somebody saw it. Ids of rows are numbers in a table, so that another pair may have the id by
now; a removal holds a hash of what was seen, and fits nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.image_index import sha256_of
from unimedvl.data.curation.pairs import Pair
from unimedvl.errors import DataError
from unimedvl.files import read_journal, write_lines

NAME = "removed.jsonl"
_CONTENT = "content"  # its column beside those of a decision

Removals = dict[tuple[str, str], Decision]
"""By id and content of the pair."""


@dataclass(frozen=True)
class Removal:
    """What came of decisions on a corpus.

    Attributes:
        removed: records that went.
        absent: ids of no pair of the corpus.
        changed: ids of pairs with other words or images than those that were judged.
    """

    removed: int
    absent: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


def content_of(pair: Pair, root: Path | None = None) -> str:
    """16 hexadecimal digits over what is seen of a pair: task, modality, words, and the bytes of its images.

    Args:
        root: folder to which relative paths of images refer; the current one by default.

    Raises:
        DataError: an image cannot be read.
    """
    files = [Path(name) if root is None else root / name for name in (*pair.images, pair.target) if name]
    seen = (
        *(pair.family, pair.subtask, pair.modality, pair.question, pair.text),
        *(pair.more.get("turns"), bool(pair.target), [sha256_of(file) for file in files]),
    )
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]


def read_removals(folder: Path) -> Removals:
    """The removals of a corpus; none if there is no file.

    Raises:
        DataError: the file holds something else.
    """
    path = folder / NAME
    return dict(_removal(row, f"{path}, line {number}") for number, row in enumerate(read_journal(path), 1))


def write_removals(folder: Path, removals: Removals) -> None:
    """Keep them, in their order."""
    write_lines(folder / NAME, ({**own.row(), _CONTENT: content} for (_, content), own in removals.items()))


def standing(pairs: Iterable[Pair], removals: Removals) -> dict[str, Decision]:
    """Those whose pair is there and still says what was judged, by its id, in the order of the pairs."""
    named = {name for name, _ in removals}
    known = ((pair.id, removals.get((pair.id, content_of(pair)))) for pair in pairs if pair.id in named)
    return {name: decision for name, decision in known if decision}


def summed(gone: Mapping[str, Decision]) -> dict[str, Any]:
    """Entries of a manifest: which pairs were taken out, and how many by decisions of which stage."""
    by = Counter(decision.stage for decision in gone.values())
    return {"removed": sorted(gone), "removals": dict(sorted(by.items()))} if gone else {}


def in_words(removed: int, unfit: int) -> Iterator[str]:
    """Lines on how many pairs stay out, and how many removals fit none; none for 0."""
    if removed:
        yield f"{removed} pairs stay out, as {NAME} says"
    if unfit:
        yield f"{unfit} removals of {NAME} are without effect: their pairs are gone, or have other words or images"


def _removal(row: dict[str, Any], where: str) -> tuple[tuple[str, str], Decision]:
    content = row.pop(_CONTENT, None)
    if not isinstance(content, str):
        raise DataError("no content of a pair", where=where, remedy="take the line out")
    decision = Decision.from_row(row, where)
    return (decision.pair, content), decision
