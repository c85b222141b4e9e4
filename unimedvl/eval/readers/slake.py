"""SLAKE: questions on radiology images, the English ones (Liu et al., 2021)."""

from __future__ import annotations

from pathlib import Path

from unimedvl.eval.readers.images import image_file
from unimedvl.eval.readers.layout import collected, known_split, one_located
from unimedvl.eval.readers.tables import Entry, read_entries
from unimedvl.eval.rows import Row


def read(path: Path, split: str = "test") -> list[Row]:
    """The English rows of a split; ``kind`` is ``content_type``: Modality, Organ, Abnormality, ...

    Args:
        path: folder with ``test.json`` and ``imgs``, or the JSON file, which is taken whole.
        split: ``train``, ``validation`` or ``test``.

    Raises:
        DataError: a file or row is absent or cannot be used.
    """
    names = known_split(split, "train", "validation", "test")
    file = one_located(path, [f"{name}.json" for name in names])
    root = file.parent / "imgs"
    english = (entry for entry in read_entries(file) if entry.text("q_lang") == "en")
    return collected((_row(entry, root) for entry in english), path)


def _row(entry: Entry, root: Path) -> Row:
    return Row(
        f"slake-{entry.text('qid')}",
        "vqa",
        entry.optional("content_type"),
        entry.optional("modality"),
        entry.text("question"),
        (entry.text("answer"),),
        closed=entry.one_of("answer_type", "CLOSED", "OPEN") == "CLOSED",
        images=(image_file(entry.text("img_name"), root, entry),),
        root=root,
    )
