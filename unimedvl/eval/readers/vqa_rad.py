"""VQA-RAD: questions of clinicians on radiology images (Lau et al., 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unimedvl.eval.readers.hub_vqa import hub_rows
from unimedvl.eval.readers.images import image_file
from unimedvl.eval.readers.layout import collected, known_split, located, shards
from unimedvl.eval.readers.tables import Entry, read_entries
from unimedvl.eval.rows import Row

_PUBLIC = "VQA_RAD Dataset Public.json"
_IMAGES = "VQA_RAD Image Folder"
_PHRASES = {"train": ("freeform", "para"), "test": ("test_freeform", "test_para")}


def read(path: Path, split: str = "test") -> list[Row]:
    """The rows of a split, in the form of the Open Science Framework or of the Hugging Face hub.

    The first says which questions are closed and what they ask. The second does not: there, ``closed`` are the
    questions whose answer is yes or no, fewer than the authors count, and ``kind`` is empty.

    Args:
        path: folder with ``VQA_RAD Dataset Public.json`` and ``VQA_RAD Image Folder``, or with
            ``data/test-00000-of-00001-*.parquet``; or one of these files. A Parquet file is taken whole.
        split: ``train`` (``phrase_type`` freeform and para) or ``test`` (test_freeform and test_para).

    Raises:
        DataError: a file or row is absent or cannot be used.
    """
    names = known_split(split, *_PHRASES)
    files = located(path, [_PUBLIC, *shards(names)])
    rows = hub_rows(files, f"vqa-rad-{names[0]}") if files[0].suffix == ".parquet" else _public(files[0], names[0])
    return collected(rows, path)


def _public(path: Path, split: str) -> Iterator[Row]:
    known = {phrase for phrases in _PHRASES.values() for phrase in phrases}
    for entry in read_entries(path):
        phrase = entry.text("phrase_type")
        if phrase not in known:
            raise entry.fault(f"phrase_type {phrase!r} is none of {', '.join(sorted(known))}")
        if phrase in _PHRASES[split]:
            yield _row(entry, path.parent / _IMAGES)


def _row(entry: Entry, root: Path) -> Row:
    asked = entry.optional("question_type").upper()
    return Row(
        f"vqa-rad-{entry.text('qid')}",
        "vqa",
        ", ".join(part.strip() for part in asked.split(",")),
        prompt=entry.text("question"),
        truths=(entry.text("answer"),),
        closed=entry.one_of("answer_type", "CLOSED", "OPEN") == "CLOSED",
        images=(image_file(entry.text("image_name"), root, entry),),
        root=root,
    )
