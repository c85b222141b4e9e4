"""A corpus of a few pairs, as the stages of a curation leave it, for the tests of what comes after them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from PIL import Image

from unimedvl.data.curation.corpus import write_corpus
from unimedvl.data.curation.decisions import Decision, write_decisions
from unimedvl.data.curation.pairs import Pair, pair_id, write_part
from unimedvl.data.curation.settings import CurateSettings
from unimedvl.data.curation.stages import enter


def pairs_in(folder):
    """Questions to two images, captions of each, and texts; by number."""
    folder.mkdir(exist_ok=True)
    for number in range(4):
        Image.new("L", (8, 8), 20 * number).save(folder / f"{number}.png")
    made = []
    for number in range(12):
        file = str(folder / f"{number % 4}.png")
        kinds: tuple[dict[str, Any], ...] = (
            {"family": "understanding", "question": "Which plane?", "images": (file,), "more": {"age": number}},
            {"family": "t2i", "target": file},
            {"family": "text", "question": "What is a scan?"},
        )
        split = "test" if number > 9 else "train"
        made.append(
            Pair(
                pair_id("s", str(number)), "s", text=f"Text {number}.", modality="CT", split=split, **kinds[number % 3]
            )
        )
    return made


def staged(folder, pairs, flagged=(), **settings):
    """Ingest and privacy, which flags the pairs of these numbers."""
    first = enter(folder / "work", "ingest", 0, settings, None)
    second = enter(folder / "work", "privacy", 1, settings, first)
    for stage in (first, second):
        write_part(stage.folder / "part-000000.parquet", pairs[:5])
        write_part(stage.folder / "part-000001.parquet", pairs[5:])
    found = [Decision(pairs[number].id, "privacy", "flag", "name in text") for number in flagged]
    write_decisions(second.folder / "decisions-000000.jsonl", [*found, *(replace(each, detail="2") for each in found)])
    return [first, second]


def curated(folder, pairs, flagged=(), files=None, **settings):
    """Write the corpus, as often as one likes."""
    stages = staged(folder, pairs, flagged, **settings)
    return write_corpus(folder, stages, CurateSettings(out=folder, files=files or {}))


def rows_in(path):
    return [json.loads(text) for text in path.read_text().splitlines()]


def ids_in(folder):
    """Of all records, whatever the file."""
    return [row["id"] for path in sorted(folder.glob("t*/*.jsonl")) for row in rows_in(path)]


def contents(folder):
    """All that a corpus says, without the words of its card and its place."""
    names = [path for path in folder.rglob("*.json*") if "work" not in path.relative_to(folder).parts]
    return {path.relative_to(folder).as_posix(): path.read_text().replace(str(folder), "FOLDER") for path in names}
