"""ICG-CXR: counterfactual chest X-rays, one visit and another of the same patient with what changed between them.

The data set is derived from MIMIC-CXR, which is given out under an agreement, and its own layout is not described in
public as far as we know. What is read here is therefore a table of one's own: one row for each pair, with the columns
``image_before`` and ``image_after`` (paths from the folder of the table), ``instruction`` and ``report``, and perhaps
``split`` and ``subject``. Columns of other names can be set.

Where an instruction or a report is empty, one is worded from the columns ``change`` (``add`` or ``remove``),
``finding`` (such as "pleural effusion") and ``side`` (``left`` or ``right``), as far as they are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from unimedvl.data.curation.ingest.rows import Row, pairs_of_rows
from unimedvl.data.curation.ingest.settings import Reader, ReaderSettings, Skipped
from unimedvl.data.curation.ingest.tables import COLUMNS, row_images, split_in, tables_of
from unimedvl.data.curation.pairs import Pair


def _read(root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
    needed = (settings.question_column, settings.text_column, settings.image_column, settings.target_column)
    for path in tables_of(root):
        yield from pairs_of_rows(path, needed, partial(_pairs, path, settings, skipped), settings, skipped)


def _pairs(path: Path, settings: ReaderSettings, skipped: Skipped, row: Row) -> Iterator[Pair]:
    before = row_images(row, settings.image_column, [path.parent], settings, skipped)
    after = row_images(row, settings.target_column, [path.parent], settings, skipped) if before else None
    if not before or not after:
        return
    if len(before) + len(after) != 2:
        raise row.fault("several images before or after", "give one of each in a row")
    yield settings.pair(
        path.name,
        str(row.number),
        images=tuple(before),
        target=after[0],
        question=row.text(settings.question_column),
        text=row.text(settings.text_column),
        split=split_in(row, settings.split_column),
        more={**_facts(row), **row.plain("subject", *settings.more_columns)},
    )


def _facts(row: Row) -> dict[str, str]:
    """What changes, and where.

    Raises:
        DataError: the change is neither ``add`` nor ``remove``, or the side none.
    """
    facts = {"anatomy": "chest", "finding": row.text("finding")}
    for column, known in (("change", ("add", "remove")), ("side", ("left", "right", "both"))):
        facts[column] = row.text(column).casefold()
        if facts[column] not in ("", *known):
            raise row.fault(f"no known {column}: {row.text(column)!r}", f"write {', '.join(known)}, or nothing")
    return {name: said for name, said in facts.items() if said}


read = Reader(
    _read,
    layout="a table with image_before, image_after, instruction and report",
    uses=tuple(name for name in COLUMNS if name != "modality_column"),
    defaults={
        "source": "ICG-CXR",
        "family": "counterfactual",
        "subtask": "counterfactual",
        "modality": "CXR",
        "image_column": "image_before",
        "target_column": "image_after",
        "question_column": "instruction",
        "text_column": "report",
        "split_column": "split",
    },
)
