"""PathVQA: questions on pathology images (He et al., 2020)."""

from __future__ import annotations

from pathlib import Path

from unimedvl.eval.readers.hub_vqa import hub_rows
from unimedvl.eval.readers.layout import collected, known_split, located, shards
from unimedvl.eval.rows import Row


def read(path: Path, split: str = "test") -> list[Row]:
    """The rows of a split, from the Parquet files of the Hugging Face hub.

    ``closed`` are the questions whose answer is yes or no.

    Args:
        path: folder with ``data/test-00000-of-0000N-*.parquet``; or one Parquet file, which is taken whole.
        split: ``train``, ``validation`` or ``test``.

    Raises:
        DataError: a file or row is absent or cannot be used.
    """
    names = known_split(split, "train", "validation", "test")
    return collected(hub_rows(located(path, shards(names)), f"path-vqa-{names[0]}"), path)
