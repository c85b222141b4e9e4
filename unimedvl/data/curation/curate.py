"""The whole way from raw sources to a corpus, stage by stage; started again, it goes on where it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

from unimedvl.data.curation.alignment import Measured, combine, measure
from unimedvl.data.curation.backends import captioner, image_text_scorer, text_embedder
from unimedvl.data.curation.coarse import coarse
from unimedvl.data.curation.corpus import Corpus, write_corpus
from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.duplicates import DuplicateSettings, Entry, duplicates, entry
from unimedvl.data.curation.fingerprints import fingerprints
from unimedvl.data.curation.ingest import READERS, Skipped
from unimedvl.data.curation.pairs import Pair, in_parts, write_part
from unimedvl.data.curation.privacy import privacy
from unimedvl.data.curation.registration import registration
from unimedvl.data.curation.selection import select
from unimedvl.data.curation.settings import BackendSettings, CurateSettings
from unimedvl.data.curation.stages import Bar, Outcome, Stage, enter, judge, work
from unimedvl.data.curation.templates import task_of
from unimedvl.data.curation.templates import worded as worded_pair
from unimedvl.errors import ConfigError, DataError
from unimedvl.files import write_json

_INGESTED = "ingested.json"
Facts = Iterator[tuple[Pair, Mapping[str, Any]]]


def curate(settings: CurateSettings, bar: Bar) -> Corpus:
    """All stages, then the corpus: records by split and family, decisions, card and manifest.

    Raises:
        ConfigError: there is no source, or a setting cannot work.
        DataError: a source cannot be read.
    """
    if not settings.sources:
        raise ConfigError("no sources", where="curate", remedy="list them in the settings file, under sources")
    folder = settings.out / "work"
    stages = [_ingest(folder, settings, bar)]

    def add(name: str, own: Any) -> Stage:
        stages.append(enter(folder, name, len(stages), own, stages[-1]))
        return stages[-1]

    for name, own, judged in (
        ("coarse", settings.coarse, coarse),
        ("registration", settings.registration, registration),
        ("privacy", settings.privacy, privacy),
    ):
        before, task = stages[-1].parts, partial(_filtered, judged, own)
        work(add(name, asdict(own)), before, task, workers=settings.workers, bar=bar)
    before, task = stages[-1].parts, partial(_worded, settings.seed)
    work(add("wording", {"seed": settings.seed}), before, task, workers=settings.workers, bar=bar)
    before = stages[-1].parts
    work(add("fingerprints", {}), before, _fingerprinted, workers=settings.workers, bar=bar)
    before = stages[-1]
    judge(add("duplicates", asdict(settings.duplicates)), before, partial(_duplicates, settings.duplicates), bar=bar)
    if settings.backends.captioner:
        before = stages[-1].parts
        task = partial(_measured, settings.backends, settings.alignment)
        own = {**asdict(settings.backends), **asdict(settings.alignment)}
        work(add("alignment", own), before, task, workers=settings.workers, bar=bar)
        before = stages[-1]
        task = partial(_selected, settings)
        judge(add("selection", asdict(settings.selection)), before, task, bar=bar)
    return write_corpus(settings.out, stages, settings)


def _ingest(folder: Path, settings: CurateSettings, bar: Bar) -> Stage:
    """The pairs of all sources in parts; a kill begins it anew, but images that were made stay."""
    own = {"sources": [asdict(source) for source in settings.sources], "part_size": settings.part_size}
    stage = enter(folder, "ingest", 0, own, None)
    if (stage.folder / _INGESTED).is_file():
        return stage
    skipped = Skipped()
    with bar("ingest", 0) as step:
        for number, pairs in enumerate(in_parts(_unlike(_read(settings, skipped)), settings.part_size)):
            write_part(stage.folder / f"part-{number:06d}.parquet", pairs)
            step()
    write_json(stage.folder / _INGESTED, {"skipped": skipped.counts, "first": skipped.first})
    return stage


def _read(settings: CurateSettings, skipped: Skipped) -> Iterator[Pair]:
    for source in settings.sources:
        yield from READERS[source.reader](source.path, source.settings, skipped)


def _unlike(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """The pairs, whose ids must differ."""
    seen: set[str] = set()
    for pair in pairs:
        if pair.id in seen:
            remedy = "give sources that hold the same file different source names"
            raise DataError(f"two pairs of {pair.source} have the id {pair.id}", where="ingest", remedy=remedy)
        seen.add(pair.id)
        yield pair


# --- tasks of stages: functions of a part, or of all facts ----------------------------------------------------


def _filtered(judged: Any, settings: Any, pairs: list[Pair]) -> Outcome:
    decisions = judged(pairs, settings)
    dropped = {decision.pair for decision in decisions if decision.action == "drop"}
    return Outcome([pair for pair in pairs if pair.id not in dropped], decisions)


def _worded(seed: int, pairs: list[Pair]) -> Outcome:
    """Pairs of images whose source has no words get an instruction and a response; others stay as they are."""
    wordless = {pair.id for pair in pairs if task_of(pair) and not (pair.question and pair.text)}
    worded = [worded_pair(pair, seed) if pair.id in wordless else pair for pair in pairs]
    told = [Decision(pair.id, "wording", "keep", "worded by a template") for pair in pairs if pair.id in wordless]
    return Outcome(worded, told)


def _fingerprinted(pairs: list[Pair]) -> Outcome:
    prints = zip(pairs, fingerprints(pairs), strict=True)
    return Outcome(pairs, facts={pair.id: entry(pair, own).facts() for pair, own in prints})


def _duplicates(settings: DuplicateSettings, facts: Facts) -> list[Decision]:
    return duplicates([Entry.from_facts(pair.id, own) for pair, own in facts], settings)


@cache
def _opened(backends: BackendSettings) -> tuple[Any, Any, Any]:
    """The models, once a process."""
    return captioner(backends.captioner), text_embedder(backends.embedder), image_text_scorer(backends.scorer)


def _measured(backends: BackendSettings, settings: Any, pairs: list[Pair]) -> Outcome:
    found = measure(pairs, *_opened(backends), settings)
    return Outcome(pairs, facts={one.pair: one.facts() for one in found})


def _selected(settings: CurateSettings, facts: Facts) -> Sequence[Decision]:
    """Training pairs are ranked; held-out ones stay, for a test set of easy pairs only would flatter."""
    measured = [Measured.from_facts(own) for pair, own in facts if own and pair.split in ("", "train")]
    return select(combine(measured, settings.alignment), settings.selection)
