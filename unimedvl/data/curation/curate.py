"""The whole way from raw sources to a corpus, stage by stage; started again, it goes on where it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from unimedvl.data.curation.alignment import Measured, combine, measurable, measure
from unimedvl.data.curation.authoring import CAPTIONS, REPLIES, Tell, author, captioning, not_sent, spent
from unimedvl.data.curation.backends import EndpointCaptioner, address_of, captioner, image_text_scorer, text_embedder
from unimedvl.data.curation.coarse import coarse
from unimedvl.data.curation.corpus import Corpus, write_corpus
from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.degradation import DegradationSettings, degraded, with_planned
from unimedvl.data.curation.duplicates import DuplicateSettings, Entry, duplicates, entry
from unimedvl.data.curation.fingerprints import fingerprints
from unimedvl.data.curation.ingest import READERS, Skipped
from unimedvl.data.curation.pairs import Pair, in_parts, write_part
from unimedvl.data.curation.privacy import privacy
from unimedvl.data.curation.refine import noted
from unimedvl.data.curation.registration import registration
from unimedvl.data.curation.selection import select
from unimedvl.data.curation.settings import BackendSettings, CurateSettings
from unimedvl.data.curation.stages import Bar, Outcome, Stage, Work, enter, judge, work
from unimedvl.data.curation.templates import WordingSettings, task_of, wordings_hash
from unimedvl.data.curation.templates import worded as worded_pair
from unimedvl.errors import ConfigError, DataError
from unimedvl.files import write_json

_INGESTED = "ingested.json"
Facts = Iterator[tuple[Pair, Mapping[str, Any]]]


def curate(settings: CurateSettings, bar: Bar, tell: Tell = print) -> Corpus:
    """All stages, then the corpus: records by split and family, decisions, card and manifest.

    Args:
        tell: gets a line of costs after each stage that asked a language model.

    Raises:
        ConfigError: there is no source, or a setting cannot work.
        DataError: a source cannot be read.
    """
    stages = staged(settings, bar, tell)
    return write_corpus(settings.out, stages, settings, notes=_costs(settings))


def staged(settings: CurateSettings, bar: Bar, tell: Tell = print) -> list[Stage]:
    """All stages, of which the last has the pairs of the corpus; see :func:`curate`.

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

    def carry_out(name: str, own: Any, task: Work) -> None:
        before = stages[-1].parts
        work(add(name, own), before, task, workers=settings.workers, bar=bar)

    seed = settings.seed
    carry_out("coarse", asdict(settings.coarse), partial(_filtered, coarse, settings.coarse))
    if settings.degradation.share:
        inputs = (settings.out / "images" / "degraded").resolve()
        task = partial(_degraded, settings.degradation, seed, inputs)
        carry_out("degradation", {**asdict(settings.degradation), "seed": seed, "images": inputs}, task)
    carry_out("registration", asdict(settings.registration), partial(_filtered, registration, settings.registration))
    carry_out("privacy", asdict(settings.privacy), partial(_filtered, privacy, settings.privacy))
    flagged = {decision.pair for decision in stages[-1].decisions() if decision.action == "flag"}
    withheld = frozenset() if settings.authoring.send_flagged else frozenset(flagged)
    carry_out("fingerprints", {}, _fingerprinted)
    before = stages[-1]
    judge(add("duplicates", asdict(settings.duplicates)), before, partial(_duplicates, settings.duplicates), bar=bar)
    # After the duplicates: pairs that differ only in the wording that was drawn for them are the same.
    own = {"seed": seed, "wordings": wordings_hash(settings.wording.file)}
    carry_out("wording", own, partial(_worded, settings.wording, seed))
    if settings.backends.captioner:
        own = {**asdict(settings.backends), **asdict(settings.alignment)}
        before = stages[-1].parts
        with captioning(settings.backends.captioner, settings.authoring, folder / REPLIES, tell) as asked:
            if asked:
                own["send_flagged"] = settings.authoring.send_flagged
            task = partial(_measured, settings.backends, settings.alignment, asked, withheld if asked else frozenset())
            work(add("alignment", own), before, task, workers=1 if asked else settings.workers, bar=bar)
        before = stages[-1]
        task = partial(_selected, settings)
        judge(add("selection", asdict(settings.selection)), before, task, bar=bar)
    for use in settings.authoring.uses:
        before = stages[-1].parts
        stage = add(use, settings.authoring.decisive(use, seed))
        author(
            stage, before, use, settings.authoring,
            seed=seed, withheld=withheld, folder=folder / REPLIES, bar=bar, tell=tell,
        )  # fmt: skip
    return stages


def _costs(settings: CurateSettings) -> list[str]:
    """A line for each use of a language model, over all runs."""
    prices = (settings.authoring.input_price, settings.authoring.output_price)
    return [
        f"Language model, {name}: {cost.summary(*(prices if name != CAPTIONS else ()))}"
        for name, cost in spent(settings.out / "work" / REPLIES).items()
    ]


def _ingest(folder: Path, settings: CurateSettings, bar: Bar) -> Stage:
    """The pairs of all sources in parts; a kill begins it anew, but images that were made stay."""
    own = {"sources": [asdict(source) for source in settings.sources], "part_size": settings.part_size}
    if settings.degradation.share:
        own |= {"degradation": asdict(settings.degradation), "seed": settings.seed}
    stage = enter(folder, "ingest", 0, own, None)
    if (stage.folder / _INGESTED).is_file():
        return stage
    skipped = Skipped()
    with bar("ingest", 0) as step:
        found = with_planned(_read(settings, skipped), settings.degradation, settings.seed)
        for number, pairs in enumerate(in_parts(_unlike(found), settings.part_size)):
            write_part(stage.folder / f"part-{number:06d}.parquet", pairs)
            step()
    write_json(stage.folder / _INGESTED, {"skipped": skipped.counts, "first": skipped.first})
    return stage


def _read(settings: CurateSettings, skipped: Skipped) -> Iterator[Pair]:
    for number, source in enumerate(settings.sources):
        reader, own = READERS[source.reader], source.settings
        if "images_out" in reader.uses and own.images_out is None:
            own = replace(own, images_out=(settings.out / "images" / f"{number:02d}-{source.reader}").resolve())
        yield from reader(source.path, own, skipped)


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


def _degraded(settings: DegradationSettings, seed: int, folder: Path, pairs: list[Pair]) -> Outcome:
    return Outcome(degraded(pairs, settings, seed, folder))


def _worded(settings: WordingSettings, seed: int, pairs: list[Pair]) -> Outcome:
    """Pairs of images whose source has no words get an instruction and a response; others stay as they are."""
    worded: list[Pair] = []
    told: list[Decision] = []
    for pair in pairs:
        if (pair.question and pair.text) or task_of(pair, settings.file) is None:
            worded.append(pair)
            continue
        try:
            worded.append(noted(pair, worded_pair(pair, seed, settings.file)))
            told.append(Decision(pair.id, "wording", "keep", "worded by a template"))
        except DataError as error:
            told.append(Decision(pair.id, "wording", "drop", "no template suits it", str(error)))
    return Outcome(worded, told)


def _fingerprinted(pairs: list[Pair]) -> Outcome:
    prints = zip(pairs, fingerprints(pairs), strict=True)
    return Outcome(pairs, facts={pair.id: entry(pair, own).facts() for pair, own in prints})


def _duplicates(settings: DuplicateSettings, facts: Facts) -> list[Decision]:
    return duplicates([Entry.from_facts(pair.id, own) for pair, own in facts], settings)


@cache
def _opened(backends: BackendSettings) -> tuple[Any, Any, Any]:
    """The models that run here, once a process."""
    own = None if address_of(backends.captioner) else captioner(backends.captioner)
    return own, text_embedder(backends.embedder), image_text_scorer(backends.scorer)


def _measured(
    backends: BackendSettings, settings: Any, asked: EndpointCaptioner | None, withheld: Set[str], pairs: list[Pair]
) -> Outcome:
    own, embedder, scorer = _opened(backends)
    found = measure([pair for pair in pairs if pair.id not in withheld], asked or own, embedder, scorer, settings)
    unsent = [not_sent(pair, "alignment") for pair in pairs if pair.id in withheld and measurable(pair)]
    return Outcome(pairs, unsent, facts={one.pair: one.facts() for one in found})


def _selected(settings: CurateSettings, facts: Facts) -> Sequence[Decision]:
    """Training pairs are ranked; held-out ones stay, for a test set of easy pairs only would flatter."""
    measured = [Measured.from_facts(own) for pair, own in facts if own and pair.split in ("", "train")]
    compared = [one for one in measured if one.caption]
    told = "each was empty, or the endpoint refused to write it"
    missed = [Decision(one.pair, "alignment", "flag", "no captions", told) for one in measured if not one.caption]
    return [*select(combine(compared, settings.alignment), settings.selection), *missed]
