"""Questions in Parquet files of the Hugging Face hub with the columns ``image``, ``question`` and ``answer``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from unimedvl.eval.readers.choices import yes_or_no
from unimedvl.eval.readers.images import Kept, image_refs
from unimedvl.eval.readers.tables import read_entries
from unimedvl.eval.rows import Row


def hub_rows(files: Sequence[Path], name: str) -> Iterator[Row]:
    """The rows of all files, called ``NAME-00000`` and so on; ``image`` holds the bytes of a file.

    The files do not say which questions are closed: those whose answer is yes or no are.

    Raises:
        DataError: a file or row cannot be used.
    """
    kept: Kept = {}
    entries = ((file, entry) for file in files for entry in read_entries(file))
    for number, (file, entry) in enumerate(entries):
        question, answer = entry.text("question"), entry.text("answer")
        entry.present("image")
        yield Row(
            f"{name}-{number:05d}",
            "vqa",
            prompt=question,
            truths=(answer,),
            closed=yes_or_no(answer),
            images=image_refs(entry.values["image"], file.parent, entry, kept),
            root=file.parent,
        )
