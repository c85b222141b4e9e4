"""The whole way from raw sources to a corpus, stage by stage; started again, it goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

from unimedvl.data.curation.alignment import Measured, combine, measurable, measure
from unimedvl.data.curation.authoring import CAPTIONS, REPLIES, Tell, author, captioning, not_sent, spent
from unimedvl.data.curation.backends import EndpointCaptioner, address_of, captioner, image_text_scorer, text_embedder
from unimedvl.data.curation.card import CARD
from unimedvl.data.curation.coarse import coarse
from unimedvl.data.curation.corpus import DECISIONS, MANIFEST, Corpus, write_corpus
from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.degradation import DegradationSettings, degraded
from unimedvl.data.curation.duplicates import DuplicateSettings, Entry, duplicates, entry
from unimedvl.data.curation.fingerprints import fingerprints
from unimedvl.data.curation.image_index import NAME as IMAGES
from unimedvl.data.curation.ingestion import check_sources, ingest
from unimedvl.data.curation.pairs import SPLITS, Pair
from unimedvl.data.curation.privacy import privacy
from unimedvl.data.curation.refine import noted
from unimedvl.data.curation.registration import registration
from unimedvl.data.curation.selection import select
from unimedvl.data.curation.settings import BackendSettings, CurateSettings
from unimedvl.data.curation.stages import Bar, Judgment, Outcome, Stage, Work, alone, enter, judge, work
from unimedvl.data.curation.templates import WordingSettings, library, task_of, wordings_hash
from unimedvl.data.curation.templates import worded as worded_pair
from unimedvl.errors import DataError

Facts = Iterator[tuple[Pair, Mapping[str, Any]]]
_WRITTEN = (CARD, DECISIONS, IMAGES, "removed.jsonl", *SPLITS, "plots", "sheets")


def curate(settings: CurateSettings, bar: Bar, tell: Tell = print) -> Corpus:
    """All stages, then the corpus: records by split and family, decisions, card and manifest.

    Args:
        tell: gets a line of costs after each stage that asked a language model.

    Raises:
        ConfigError: there is no source, or a setting cannot work.
        DataError: a source cannot be read.
    """
    check(settings)
    with held(settings.out):
        stages = staged(settings, bar, tell)
        corpus = write_corpus(settings.out, stages, settings, notes=_costs(settings))
    if not corpus.rows:
        reasons = str(settings.out / DECISIONS)
        raise DataError("no pair is left", where=reasons, remedy="the reasons are there; mend the sources or settings")
    return corpus


def check(settings: CurateSettings) -> None:
    """Say before any work what cannot work.

    Raises:
        ConfigError: there is no source, the corpus would lie inside one, or the file of wordings is wrong.
    """
    check_sources(settings)
    library(settings.wording.file)


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Keep others from working in the folder of a corpus.

    Raises:
        DataError: another process works there, or something of other origin would be overwritten.
    """
    ours = (out / "work" / "00-ingest").is_dir() or (out / MANIFEST).is_file()
    foreign = None if ours else next((out / name for name in _WRITTEN if (out / name).exists()), None)
    if foreign is not None:
        raise DataError("is of no corpus and would be overwritten", where=str(foreign), remedy="give another out=")
    with alone(out):
        yield


def staged(settings: CurateSettings, bar: Bar, tell: Tell = print) -> list[Stage]:
    """All stages, of which the last has the pairs of the corpus; see :func:`curate`.

    Raises:
        ConfigError: there is no source, or a setting cannot work.
        DataError: a source cannot be read.
    """
    line = _Line(settings, bar, tell)
    line.filters()
    if settings.backends.captioner:
        line.alignment()
    line.authoring()
    return line.stages


class _Line:
    """Stages, one behind the other."""

    def __init__(self, settings: CurateSettings, bar: Bar, tell: Tell) -> None:
        self.settings, self.bar, self.tell = settings, bar, tell
        self.folder = settings.out / "work"
        self.stages = [ingest(self.folder, settings, bar)]
        self.withheld: Set[str] = frozenset()

    def filters(self) -> None:
        """All that needs no model."""
        settings, seed = self.settings, self.settings.seed
        self._work("coarse", asdict(settings.coarse), partial(_filtered, coarse, settings.coarse))
        if settings.degradation.share:
            inputs = (settings.out / "images" / "degraded").resolve()
            own = {**asdict(settings.degradation), "seed": seed, "images": inputs}
            self._work("degradation", own, partial(_degraded, settings.degradation, seed, inputs))
        self._work(
            "registration", asdict(settings.registration), partial(_filtered, registration, settings.registration)
        )
        self._work("privacy", asdict(settings.privacy), partial(_filtered, privacy, settings.privacy))
        if not settings.authoring.send_flagged:
            flagged = self.stages[-1].decisions()
            self.withheld = frozenset(decision.pair for decision in flagged if decision.action == "flag")
        self._work("fingerprints", {}, _fingerprinted)
        self._judge("duplicates", asdict(settings.duplicates), partial(_duplicates, settings.duplicates))
        # After the duplicates: pairs that differ only in the wording that was drawn for them are the same.
        own = {"seed": seed, "wordings": wordings_hash(settings.wording.file)}
        self._work("wording", own, partial(_worded, settings.wording, seed))

    def alignment(self) -> None:
        """How well texts fit images; the best part stays."""
        settings, backends = self.settings, self.settings.backends
        with captioning(backends.captioner, settings.authoring, self.folder / REPLIES, self.tell) as asked:
            own = {**asdict(backends), **asdict(settings.alignment)}
            own |= {"send_flagged": settings.authoring.send_flagged} if asked else {}
            task = partial(_measured, backends, settings.alignment, asked, self.withheld if asked else frozenset())
            self._work("alignment", own, task, workers=1 if asked else settings.workers)
        self._judge("selection", asdict(settings.selection), partial(_selected, settings))

    def authoring(self) -> None:
        """What a language model writes."""
        own, seed = self.settings.authoring, self.settings.seed
        for use in own.uses:
            before = self.stages[-1].parts
            stage = self._add(use, own.decisive(use, seed))
            where = {"folder": self.folder / REPLIES, "bar": self.bar, "tell": self.tell}
            author(stage, before, use, own, seed=seed, withheld=self.withheld, **where)

    def _add(self, name: str, own: Any) -> Stage:
        self.stages.append(enter(self.folder, name, len(self.stages), own, self.stages[-1]))
        return self.stages[-1]

    def _work(self, name: str, own: Any, task: Work, workers: int = 0) -> None:
        before = self.stages[-1].parts
        work(self._add(name, own), before, task, workers=workers or self.settings.workers, bar=self.bar)

    def _judge(self, name: str, own: Any, judgment: Judgment) -> None:
        before = self.stages[-1]
        judge(self._add(name, own), before, judgment, bar=self.bar)


def _costs(settings: CurateSettings) -> list[str]:
    """A line for each use of a language model, over all runs."""
    prices = (settings.authoring.input_price, settings.authoring.output_price)
    return [
        f"Language model, {name}: {cost.summary(*(prices if name != CAPTIONS else ()))}"
        for name, cost in spent(settings.out / "work" / REPLIES).items()
    ]


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
        edited = pair.family in ("edit", "counterfactual")
        if not edited or (pair.question and (pair.text or task_of(pair, settings.file) is None)):
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
    """Training pairs are measured; scores of others would decide nothing, see :func:`_selected`."""
    own, embedder, scorer = _opened(backends)
    training = [pair for pair in pairs if pair.split in ("", "train")]
    found = measure([pair for pair in training if pair.id not in withheld], asked or own, embedder, scorer, settings)
    unsent = [not_sent(pair, "alignment") for pair in training if pair.id in withheld and measurable(pair)]
    return Outcome(pairs, unsent, facts={one.pair: one.facts() for one in found})


def _selected(settings: CurateSettings, facts: Facts) -> Sequence[Decision]:
    """Training pairs are ranked; held-out ones stay, for a test set of easy pairs only would flatter."""
    measured = [Measured.from_facts(own) for pair, own in facts if own and pair.split in ("", "train")]
    compared = [one for one in measured if one.caption]
    told = "each was empty, or the endpoint refused to write it"
    missed = [Decision(one.pair, "alignment", "flag", "no captions", told) for one in measured if not one.caption]
    return [*select(combine(compared, settings.alignment), settings.selection), *missed]
