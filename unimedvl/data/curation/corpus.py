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
from unimedvl.data.curation.decisions import Decision, read_decisions, write_decisions
from unimedvl.data.curation.pairs import Pair, read_part
from unimedvl.data.curation.settings import CurateSettings
from unimedvl.data.curation.stages import Stage
from unimedvl.data.records import IMAGE_MARK
from unimedvl.errors import DataError
from unimedvl.files import aside, line, write_json, write_text

MANIFEST, CARD, DECISIONS = "manifest.json", "README.md", "decisions.jsonl"
# The file of each family, as training names its sources.
_FILES = {"understanding": "i2t", "text": "text", "t2i": "t2i", "edit": "interleaved", "counterfactual": "interleaved"}
_DESCRIBE = "Describe this image."


@dataclass(frozen=True)
class Corpus:
    """What was made.

    Attributes:
        rows: by file, from the folder.
        digest: of all files of records.
    """

    folder: Path
    rows: dict[str, int]
    digest: str

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.rows.items())
        return f"{sum(self.rows.values())} records: {counts}\nsha256 {self.digest}\n{self.folder}"


def write_corpus(folder: Path, stages: Sequence[Stage], settings: CurateSettings) -> Corpus:
    """The pairs of the last stage, and what happened to all others."""
    rows = _write_records(folder, stages[-1])
    reasons = _write_decisions(folder / DECISIONS, stages)
    files = {name: _sha256(folder / name) for name in sorted(rows)}
    digest = _digest(files)
    write_text(folder / CARD, "\n".join(_card(stages, rows, reasons)) + "\n")
    write_json(
        folder / MANIFEST,
        {
            "version": __version__,
            "settings": json.loads(json.dumps(asdict(settings), default=str)),
            "stages": {stage.folder.name: stage.digest for stage in stages},
            "rows": rows,
            "files": files,
            "sha256": digest,
        },
    )
    return Corpus(folder, rows, digest)


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
    manifest, ids = _manifest(folder), {decision.pair for decision in decisions}
    gone = 0
    for name in manifest["rows"]:
        lines = (folder / name).read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [text for text in lines if json.loads(text)["id"] not in ids]
        gone += len(lines) - len(kept)
        write_text(folder / name, "".join(kept))
        manifest["rows"][name] = len(kept)
        manifest["files"][name] = _sha256(folder / name)
    known = read_decisions(folder / DECISIONS)
    write_decisions(folder / DECISIONS, dict.fromkeys([*known, *decisions]))
    manifest["sha256"] = _digest(manifest["files"])
    manifest["removed"] = sorted({*manifest.get("removed", ()), *ids})
    write_json(folder / MANIFEST, manifest)
    return gone


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{name} {files[name]}\n" for name in sorted(files)).encode()).hexdigest()


def _write_records(folder: Path, last: Stage) -> dict[str, int]:
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        files: dict[str, IO[str]] = {}
        for pair in last.pairs():
            name = f"{pair.split or 'train'}/{_FILES[pair.family]}.jsonl"
            if name not in files:
                part = stack.enter_context(aside(folder / name))
                files[name] = stack.enter_context(part.open("w", encoding="utf-8"))
            files[name].write(line(record(pair, (folder / name).parent.resolve())))
            counts[name] += 1
    return dict(sorted(counts.items()))


def _write_decisions(path: Path, stages: Sequence[Stage]) -> Counter[tuple[str, str, str]]:
    counts: Counter[tuple[str, str, str]] = Counter()
    with aside(path) as part, part.open("w", encoding="utf-8") as file:
        for stage in stages:
            for decision in stage.decisions():
                counts[decision.stage, decision.action, decision.reason] += 1
                file.write(line(decision.row()))
    return counts


def _card(stages: Sequence[Stage], rows: dict[str, int], reasons: Counter[tuple[str, str, str]]) -> Iterator[str]:
    """Counts by stage of the funnel, by modality, task, source and license."""
    yield "# Curated corpus\n"
    yield "For research only. Every decision on every pair is a line of `decisions.jsonl`.\n"
    yield "| stage | pairs after it |\n|---|---|"
    last: dict[str, Counter[str]] = {}
    for stage in stages:
        count = 0
        last = {name: Counter() for name in ("modality", "family", "subtask", "source", "license", "split")}
        for pair in stage.pairs():
            count += 1
            for name, counter in last.items():
                counter[getattr(pair, name) or "not told"] += 1
        yield f"| {stage.folder.name} | {count} |"
    yield "\n| stage | decision | reason | pairs |\n|---|---|---|---|"
    for (stage_name, action, reason), count in sorted(reasons.items()):
        yield f"| {stage_name} | {action} | {reason} | {count} |"
    for name, counter in last.items():
        yield f"\n| {name} | pairs |\n|---|---|"
        for value, count in counter.most_common():
            yield f"| {value} | {count} |"
    yield "\n| file | records |\n|---|---|"
    for file, count in rows.items():
        yield f"| {file} | {count} |"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
