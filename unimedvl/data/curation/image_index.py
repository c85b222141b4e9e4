"""The images of a corpus, one line each: where from, under which terms, and what was done to their pixels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

from unimedvl.data.curation.pairs import Pair
from unimedvl.errors import DataError
from unimedvl.files import aside, line

NAME = "images.jsonl"
_OF_TEXTS = ("turns", "caption", "cag", "reasoning", "templates")  # facts that are about words, not about an image


def write_index(folder: Path, pairs: Iterable[Pair], flagged: Container[str] = ()) -> int:
    """``images.jsonl`` of a corpus, in the order of its pairs; how many images there are.

    A line has ``path`` from the folder, ``sha256`` of the file, and from the first pair that names the image its
    ``split``, ``source``, ``license``, ``modality``, the ``steps`` that were done to pixels and the ``facts`` that the
    source told; of an image that only edits have, their ``subtask``.

    Args:
        flagged: ids of pairs that may say who a patient is: their facts are left out.

    Raises:
        DataError: an image cannot be read.
    """
    count = 0
    with aside(folder / NAME) as part, part.open("w", encoding="utf-8") as file:
        for row in _rows(folder.resolve(), pairs, flagged):
            file.write(line(row))
            count += 1
    return count


def sha256_of(path: Path) -> str:
    """Of a file, in hexadecimal digits.

    Raises:
        DataError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except FileNotFoundError as error:
        raise DataError("no such file", where=str(path), remedy="check the path") from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), remedy="check the path") from error
    return digest.hexdigest()


def _rows(folder: Path, pairs: Iterable[Pair], flagged: Container[str]) -> Iterator[dict[str, Any]]:
    seen: set[bytes] = set()
    for pair in pairs:
        for image in dict.fromkeys(file for file in (*pair.images, pair.target) if file):
            key = hashlib.sha256(image.encode()).digest()[:12]
            if key not in seen:
                seen.add(key)
                yield _row(pair, image, folder, told_facts=pair.id not in flagged)


def _row(pair: Pair, image: str, folder: Path, *, told_facts: bool) -> dict[str, Any]:
    told = {
        "split": pair.split or "train",
        "subtask": pair.subtask if pair.family in ("edit", "counterfactual") else "",
        "source": pair.source,
        "license": pair.license,
        "modality": pair.modality,
        "steps": list(pair.steps),
        "facts": {name: value for name, value in pair.more.items() if name not in _OF_TEXTS} if told_facts else {},
    }
    return {
        "path": os.path.relpath(image, folder),
        "sha256": sha256_of(Path(image)),
        **{name: value for name, value in told.items() if value},
    }
