"""The images of a corpus, one line each: where from, under which terms, and what was done to their pixels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unimedvl.data.curation.pairs import Pair
from unimedvl.data.curation.stages import Stage
from unimedvl.files import aside, line

NAME = "images.jsonl"
_OF_TEXTS = ("turns", "caption", "cag", "reasoning", "templates")  # facts that are about words, not about an image


def write_index(folder: Path, last: Stage) -> int:
    """``images.jsonl`` of a corpus, in the order of its pairs; how many images there are.

    A line has ``path`` from the folder, ``sha256`` of the file, and from the first pair that names the image its
    ``split``, ``source``, ``license``, ``modality``, the ``steps`` that were done to pixels and the ``facts`` that the
    source told; of an image that only edits have, their ``subtask``.
    """
    count = 0
    with aside(folder / NAME) as part, part.open("w", encoding="utf-8") as file:
        for row in _rows(folder.resolve(), last):
            file.write(line(row))
            count += 1
    return count


def _rows(folder: Path, last: Stage) -> Iterator[dict[str, Any]]:
    seen: set[bytes] = set()
    for pair in last.pairs():
        for image in dict.fromkeys(file for file in (*pair.images, pair.target) if file):
            key = hashlib.sha256(image.encode()).digest()[:12]
            if key not in seen:
                seen.add(key)
                yield _row(pair, image, folder)


def _row(pair: Pair, image: str, folder: Path) -> dict[str, Any]:
    told = {
        "split": pair.split or "train",
        "subtask": pair.subtask if pair.family in ("edit", "counterfactual") else "",
        "source": pair.source,
        "license": pair.license,
        "modality": pair.modality,
        "steps": list(pair.steps),
        "facts": {name: value for name, value in pair.more.items() if name not in _OF_TEXTS},
    }
    return {
        "path": os.path.relpath(image, folder),
        "sha256": hashlib.sha256(Path(image).read_bytes()).hexdigest(),
        **{name: value for name, value in told.items() if value},
    }
