"""PubMedVision: questions and answers about figures of articles.

``PubMedVision_Alignment_VQA.json`` and ``PubMedVision_InstructionTuning_VQA.json``: lists of objects with ``id``,
``image`` (a list of paths from the folder), ``conversations`` (``from`` human or gpt, ``value``), ``modality`` and
``body_part``. Every round of a dialogue becomes a pair with all of its images; later rounds may lean on earlier ones,
and say their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from unimedvl.data.curation.ingest.modalities import named
from unimedvl.data.curation.ingest.rows import Row, pairs_of_rows
from unimedvl.data.curation.ingest.settings import Reader, ReaderSettings, Skipped
from unimedvl.data.curation.ingest.tables import row_images
from unimedvl.data.curation.pairs import Pair


def _read(root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
    for path in [root] if root.is_file() else sorted(root.glob("PubMedVision_*_VQA.json")):
        make = partial(_pairs, path, settings, skipped)
        yield from pairs_of_rows(path, ("image", "conversations"), make, settings, skipped)


def _pairs(path: Path, settings: ReaderSettings, skipped: Skipped, row: Row) -> Iterator[Pair]:
    images = row_images(row, "image", [path.parent], settings, skipped)
    for number, (question, answer) in enumerate(_rounds(row) if images else ()):
        yield settings.pair(
            path.name,
            str(row.number),
            str(number),
            text=answer,
            question=question,
            modality=named(row.text("modality")),
            images=tuple(images or ()),
            more={**row.plain("id", "body_part"), "part": path.stem, "round": number},
        )


def _rounds(row: Row) -> list[tuple[str, str]]:
    """Questions and answers."""
    turns = row.value("conversations")
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        raise row.fault("conversations are no list of questions and answers")
    texts = []
    for number, turn in enumerate(turns):
        speaker = ("human", "gpt")[number % 2]
        if not isinstance(turn, dict) or turn.get("from") != speaker or not isinstance(turn.get("value"), str):
            raise row.fault(f"turn {number + 1} is no text of {speaker}")
        texts.append(turn["value"])
    return list(zip(texts[::2], texts[1::2], strict=True))


read = Reader(
    _read,
    layout="PubMedVision_*_VQA.json beside the folder images/",
    defaults={"source": "PubMedVision", "subtask": "vqa"},
)
