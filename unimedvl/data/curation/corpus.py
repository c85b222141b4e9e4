"""The corpus as files: records by split and family, every decision, a card, and a manifest of hashes."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from unimedvl import __version__
from unimedvl.data.curation.card import note_removal, write_card
from unimedvl.data.curation.counts import DecisionCounts, count_pairs
from unimedvl.data.curation.decisions import Decision, read_decisions, write_decisions
from unimedvl.data.curation.image_index import NAME as IMAGES
from unimedvl.data.curation.image_index import write_index
from unimedvl.data.curation.pairs import Pair, read_part
from unimedvl.data.curation.settings import CurateSettings
from unimedvl.data.curation.stages import Stage
from unimedvl.data.records import IMAGE_MARK
from unimedvl.errors import DataError
from unimedvl.files import aside, line, write_json, write_text

MANIFEST, DECISIONS = "manifest.json", "decisions.jsonl"
# The file of each family, as training names its sources.
_FILES = {"understanding": "i2t", "text": "text", "t2i": "t2i", "edit": "interleaved", "counterfactual": "interleaved"}
_DESCRIBE = "Describe this image."


@dataclass(frozen=True)
class Corpus:
    """What was made.

    Attributes:
        rows: by file, from the folder.
        images: different ones.
        digest: of all files of records and of the images.
    """

    folder: Path
    rows: dict[str, int]
    images: int
    digest: str

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.rows.items())
        return f"{sum(self.rows.values())} records: {counts}\nsha256 {self.digest}\n{self.folder}"


def write_corpus(
    folder: Path,
    stages: Sequence[Stage],
    settings: CurateSettings,
    about: str = "",
    facts: Mapping[str, Any] | None = None,
    also: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Corpus:
    """The pairs of the last stage, and what happened to all others.

    Args:
        about: Markdown that begins the card.
        facts: further entries of the manifest.
        also: folders inside that belong to the corpus, to be hashed.
        notes: lines below the funnel of the card.
    """
    before = _begun(folder)
    rows = _write_records(folder, stages[-1], settings.files)
    for name in before - rows.keys():
        (folder / name).unlink(missing_ok=True)
    pairs = count_pairs(stages[-1].pairs(), settings.seed)
    decided = _write_decisions(folder / DECISIONS, stages, pairs.sampled)
    images = write_index(folder, stages[-1])
    listed = (*rows, IMAGES, *(file for name in also for file in _below(folder, name)))
    files = {name: _sha256(folder / name) for name in sorted(listed)}
    digest = _digest(files)
    manifest = {
        "unimedvl": __version__,
        **(facts or {}),
        "settings": json.loads(json.dumps(asdict(settings), default=str)),
        "stages": {stage.folder.name: stage.digest for stage in stages},
        "rows": rows,
        "images": images,
        "files": files,
        "sha256": digest,
    }
    write_card(folder, stages, settings, manifest, pairs, decided, about=about, notes=notes)
    write_json(folder / MANIFEST, manifest)
    return Corpus(folder, rows, images, digest)


def record(pair: Pair, folder: Path) -> dict[str, Any]:
    """A pair as a row of training, see :mod:`unimedvl.data.records`; image paths start at ``folder``."""
    row: dict[str, Any] = {"main_task_type": pair.family, "dataset": pair.source, "id": pair.id}
    for name, value in (("sub_task_type", pair.subtask), ("modality", pair.modality)):
        if value:
            row[name] = value
    images = list(pair.images)
    if images:
        row["input_img"] = [{"path": os.path.relpath(image, folder)} for image in images]
    if pair.target:
        row["output_img"] = [{"path": os.path.relpath(pair.target, folder)}]
    if pair.family == "t2i":  # the caption asks; with an instruction of its own it is the response
        said = (pair.question, pair.text) if pair.question else (pair.text, "")
    else:
        said = (pair.question or _DESCRIBE, pair.text)
    marks = f"{IMAGE_MARK}\n" * len(images) if pair.family == "understanding" else ""
    if turns := pair.more.get("turns"):
        row["message"] = [{"from": speaker, "value": text} for speaker, text in turns]
        return row
    row["message"] = [{"from": "human", "value": f"{marks}{said[0]}"}]
    if said[1]:
        row["message"].append({"from": "gpt", "value": said[1]})
    return row


def pairs_of(folder: Path) -> Iterator[Pair]:
    """The pairs of a corpus, as its last stage left them.

    Raises:
        DataError: there is no corpus, or its ``work`` folder is gone.
    """
    return (pair for part in _last_parts(folder) for pair in read_part(part))


def _last_parts(folder: Path) -> list[Path]:
    parts = sorted((folder / "work" / list(_manifest(folder)["stages"])[-1]).glob("part-*.parquet"))
    if not parts:
        raise DataError("its pairs are gone", where=str(folder / "work"), remedy="run the curation again")
    return parts


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        remedy = "give the out= folder of a finished curation"
        raise DataError("no corpus", where=str(folder), remedy=remedy) from error


def remove(folder: Path, decisions: Sequence[Decision]) -> int:
    """Take pairs out of the records of a corpus and say why in its decisions; how many rows went.

    Raises:
        DataError: there is no corpus.
    """
    manifest = _manifest(folder)
    by = {decision.pair: decision.stage for decision in decisions}
    gone: Counter[str] = Counter()
    for name in manifest["rows"]:
        kept: list[str] = []
        for text in (folder / name).read_text(encoding="utf-8").splitlines(keepends=True):
            if (pair := json.loads(text)["id"]) in by:
                gone[by[pair]] += 1
            else:
                kept.append(text)
        write_text(folder / name, "".join(kept))
        manifest["rows"][name] = len(kept)
        manifest["files"][name] = _sha256(folder / name)
    known = read_decisions(folder / DECISIONS)
    write_decisions(folder / DECISIONS, dict.fromkeys([*known, *decisions]))
    manifest["sha256"] = _digest(manifest["files"])
    manifest["removed"] = sorted({*manifest.get("removed", ()), *by})
    manifest["removals"] = dict(sorted((Counter(manifest.get("removals", {})) + gone).items()))
    write_json(folder / MANIFEST, manifest)
    note_removal(folder, manifest, manifest["removals"])
    return gone.total()


def _begun(folder: Path) -> set[str]:
    """Take the manifest of an earlier corpus away, for its folder is unfinished now; the records that it names."""
    path = folder / MANIFEST
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError) as error:
        remedy = "remove it, and the records beside it, and run the curation again"
        raise DataError("no manifest of a corpus", where=str(path), remedy=remedy) from error
    path.unlink()
    return set(rows)


def _below(folder: Path, name: str) -> Iterator[str]:
    """The files of a folder inside, as paths from outside."""
    return (path.relative_to(folder).as_posix() for path in sorted((folder / name).rglob("*")) if path.is_file())


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{name} {files[name]}\n" for name in sorted(files)).encode()).hexdigest()


def _write_records(folder: Path, last: Stage, files_of: Mapping[str, str]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        files: dict[str, IO[str]] = {}
        for pair in last.pairs():
            file = files_of.get(pair.subtask) or files_of.get(pair.family) or _FILES[pair.family]
            name = f"{pair.split or 'train'}/{file}.jsonl"
            if name not in files:
                part = stack.enter_context(aside(folder / name))
                files[name] = stack.enter_context(part.open("w", encoding="utf-8"))
            files[name].write(line(record(pair, (folder / name).parent.resolve())))
            counts[name] += 1
    return dict(sorted(counts.items()))


def _write_decisions(path: Path, stages: Sequence[Stage], watched: frozenset[str]) -> DecisionCounts:
    counts = DecisionCounts(watched)
    with aside(path) as part, part.open("w", encoding="utf-8") as file:
        for stage in stages:
            for decision in stage.decisions():
                counts.add(decision)
                file.write(line(decision.row()))
    return counts


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
