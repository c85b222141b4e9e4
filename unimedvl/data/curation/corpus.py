"""The corpus as files: records by split and family, every decision, a card, and a manifest of hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from unimedvl import __version__
from unimedvl.data.curation.card import note_removal, write_card
from unimedvl.data.curation.counts import DecisionCounts, count_pairs
from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.image_index import NAME as IMAGES
from unimedvl.data.curation.image_index import sha256_of, write_index
from unimedvl.data.curation.pairs import Pair
from unimedvl.data.curation.record_files import UNFINISHED, names_of, note_unfinished, record, write_records
from unimedvl.data.curation.removals import (
    Removal,
    Removals,
    content_of,
    in_words,
    read_removals,
    standing,
    summed,
    write_removals,
)
from unimedvl.data.curation.settings import CurateSettings
from unimedvl.data.curation.stages import Stage, alone
from unimedvl.errors import DataError
from unimedvl.files import aside, line, write_json

__all__ = ["DECISIONS", "MANIFEST", "Corpus", "flags_of", "pairs_of", "record", "remove", "write_corpus"]

MANIFEST, DECISIONS = "manifest.json", "decisions.jsonl"


@dataclass(frozen=True)
class Corpus:
    """What was made.

    Attributes:
        rows: by file, from the folder.
        images: different ones.
        digest: of all files of records and of the images.
        removed: pairs that stay out because people took them out of this corpus before.
        unfit: removals that fit no pair any more.
    """

    folder: Path
    rows: dict[str, int]
    images: int
    digest: str
    removed: int = 0
    unfit: int = 0

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.rows.items())
        lines = [f"{sum(self.rows.values())} records: {counts}", *in_words(self.removed, self.unfit)]
        return "\n".join([*lines, f"sha256 {self.digest}", str(self.folder)])


def write_corpus(
    folder: Path,
    stages: Sequence[Stage],
    settings: CurateSettings,
    about: str = "",
    facts: Mapping[str, Any] | None = None,
    also: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Corpus:
    """The pairs of the last stage but those that people took out before, and what happened to all others.

    Args:
        about: Markdown that begins the card.
        facts: further entries of the manifest.
        also: folders inside that belong to the corpus, to be hashed.
        notes: lines below the funnel of the card.
    """
    removals = read_removals(folder)
    gone = standing(stages[-1].pairs(), removals) if removals else {}
    unfit = len(removals) - len(gone)
    before = names_of(folder / MANIFEST) | names_of(folder / UNFINISHED)
    note_unfinished(folder, before)
    (folder / MANIFEST).unlink(missing_ok=True)
    pairs = count_pairs(_left(stages, gone), settings.seed)
    rows = write_records(folder, _left(stages, gone), settings.files, before)
    images = write_index(folder, _left(stages, gone), _flags(stages))
    decided = _write_decisions(folder / DECISIONS, stages, gone, pairs.sampled)
    listed = (*rows, IMAGES, *(file for name in also for file in _below(folder, name)))
    files = {name: sha256_of(folder / name) for name in sorted(listed)}
    manifest = {
        "unimedvl": __version__,
        **(facts or {}),
        "settings": json.loads(json.dumps(asdict(settings), default=str)),
        "stages": {stage.folder.name: stage.digest for stage in stages},
        "rows": rows,
        "images": images,
        "files": files,
        "sha256": _digest(files),
        **summed(gone),
    }
    write_card(folder, stages, settings, manifest, pairs, decided, about=about, notes=(*notes, *in_words(0, unfit)))
    write_json(folder / MANIFEST, manifest)
    (folder / UNFINISHED).unlink(missing_ok=True)
    return Corpus(folder, rows, images, manifest["sha256"], len(gone), unfit)


def pairs_of(folder: Path) -> Iterator[Pair]:
    """The pairs of a corpus, as its last stage left them, without those that people took out.

    Raises:
        DataError: there is no corpus, or its ``work`` folder is gone.
    """
    stages = _stages(folder, _manifest(folder))
    removals = read_removals(folder)
    return _left(stages, standing(stages[-1].pairs(), removals) if removals else {})


def flags_of(folder: Path) -> dict[str, list[str]]:
    """What the guard of privacy found, by id: pairs of a corpus that may say who a patient is.

    Raises:
        DataError: there is no corpus, or its ``work`` folder is gone.
    """
    return _flags(_stages(folder, _manifest(folder)))


def remove(folder: Path, decisions: Sequence[Decision], judged: Mapping[str, str] | None = None) -> Removal:
    """Take pairs out of a corpus for good, and say why in its decisions.

    The removals are kept first. All else follows from them, so that whoever was killed can start again.

    Args:
        decisions: of any stage that is none of the curation's, such as ``audit``.
        judged: by id, the content of the pairs on which was decided, see :func:`~.removals.content_of`; a pair with
            another one stays. Any content by default.

    Raises:
        DataError: there is no corpus, its ``work`` folder is gone or somebody works there, or none of the decisions
            fits a pair of it.
    """
    manifest = _manifest(folder)
    stages = _stages(folder, manifest)
    with alone(folder):
        removals, told = _with_new(folder, stages, decisions, judged)
        gone = standing(stages[-1].pairs(), removals)
        new = gone.keys() - manifest.get("removed", ())
        if new:
            _rewrite(folder, manifest, stages, gone)
        (folder / UNFINISHED).unlink(missing_ok=True)
    return replace(told, removed=len(new))


def _with_new(
    folder: Path, stages: Sequence[Stage], decisions: Sequence[Decision], judged: Mapping[str, str] | None
) -> tuple[Removals, Removal]:
    """All removals, kept already, and which decisions are not among them."""
    by = {decision.pair: decision for decision in decisions}
    contents = {pair.id: content_of(pair) for pair in stages[-1].pairs() if pair.id in by}
    absent = tuple(name for name in by if name not in contents)
    changed = tuple(name for name in contents if judged is not None and judged.get(name) != contents[name])
    fit = {(name, content): by[name] for name, content in contents.items() if name not in changed}
    if by and not fit:
        problem = f"none of {len(by)} pairs to remove is in this corpus as it was judged"
        raise DataError(problem, where=str(folder), remedy="give the corpus whose pairs were judged")
    known = read_removals(folder)
    removals = fit | known  # whoever was first has said why
    if len(removals) > len(known):
        write_removals(folder, known | removals)
    return removals, Removal(0, absent, changed)


def _rewrite(folder: Path, manifest: dict[str, Any], stages: Sequence[Stage], gone: Mapping[str, Decision]) -> None:
    """All that names pairs, without those that are gone; the manifest last."""
    before = set(manifest["rows"])
    rows = write_records(folder, _left(stages, gone), manifest["settings"]["files"], before)
    images = write_index(folder, _left(stages, gone), _flags(stages))
    _write_decisions(folder / DECISIONS, stages, gone, frozenset())
    others = {name: digest for name, digest in manifest["files"].items() if name not in before}
    files = others | {name: sha256_of(folder / name) for name in (*rows, IMAGES)}
    changes = {"rows": rows, "images": images, "files": dict(sorted(files.items())), "sha256": _digest(files)}
    manifest = {**manifest, **changes, **summed(gone)}
    note_removal(folder, manifest)
    write_json(folder / MANIFEST, manifest)


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        remedy = "give the out= folder of a finished curation"
        raise DataError("no corpus", where=str(folder), remedy=remedy) from error


def _stages(folder: Path, manifest: Mapping[str, Any]) -> list[Stage]:
    """Those that the corpus was made of.

    Raises:
        DataError: they are gone, or of a later run that did not come to its end.
    """
    stages = [Stage(folder / "work" / name, digest) for name, digest in manifest["stages"].items()]
    remedy = "run the curation again"
    if not stages[-1].parts:
        raise DataError("its pairs are gone", where=str(folder / "work"), remedy=remedy)
    for stage in stages:
        about = stage.folder / "stage.json"
        if not about.is_file() or json.loads(about.read_text(encoding="utf-8"))["digest"] != stage.digest:
            raise DataError("of another run than the corpus", where=str(stage.folder), remedy=remedy)
    return stages


def _left(stages: Sequence[Stage], gone: Mapping[str, Decision]) -> Iterator[Pair]:
    return (pair for pair in stages[-1].pairs() if pair.id not in gone)


def _flags(stages: Iterable[Stage]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for stage in stages:
        if stage.folder.name.endswith("-privacy"):
            for decision in stage.decisions():
                if decision.action == "flag":
                    found.setdefault(decision.pair, []).append(decision.reason)
    return {name: list(dict.fromkeys(reasons)) for name, reasons in found.items()}


def _below(folder: Path, name: str) -> Iterator[str]:
    """The files of a folder inside, as paths from outside."""
    return (path.relative_to(folder).as_posix() for path in sorted((folder / name).rglob("*")) if path.is_file())


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{name} {files[name]}\n" for name in sorted(files)).encode()).hexdigest()


def _write_decisions(
    path: Path, stages: Sequence[Stage], gone: Mapping[str, Decision], watched: frozenset[str]
) -> DecisionCounts:
    counts = DecisionCounts(watched)
    decisions = (decision for stage in stages for decision in stage.decisions())
    with aside(path) as part, part.open("w", encoding="utf-8") as file:
        for decision in chain(decisions, gone.values()):
            counts.add(decision)
            file.write(line(decision.row()))
    return counts
