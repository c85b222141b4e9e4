"""Stages of curation: parts of pairs go in, parts of pairs come out, with a decision for each pair that does not.

A stage of *work* looks at one part at a time, in any process, and its part appears under its final name when everything
about it has been written: a run that was killed goes on with the parts that are missing. A stage of *judgment* looks at
facts of all parts together, such as hashes or scores. What a stage writes depends on its settings and on what came in,
never on the number of workers; a digest of both is kept, and a stage whose digest has changed starts again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unimedvl import __version__
from unimedvl.data.curation.decisions import Decision, read_decisions, write_decisions
from unimedvl.data.curation.pairs import Pair, read_part, write_part
from unimedvl.errors import ConfigError, DataError
from unimedvl.files import locked, read_journal, write_json, write_lines

_ABOUT = "stage.json"


@dataclass(frozen=True)
class Outcome:
    """What work made of one part.

    Attributes:
        pairs: those that stay, as they go on, in their order.
        facts: by pair id, plain JSON values for a later judgment; of any of the pairs.
    """

    pairs: Sequence[Pair]
    decisions: Sequence[Decision] = ()
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


Work = Callable[[list[Pair]], Outcome]
"""Of one part; it must survive pickling, and give the same whenever it is called."""

Judgment = Callable[[Iterator[tuple[Pair, Mapping[str, Any]]]], Iterable[Decision]]
"""Decisions on pairs with the facts of the stage before; dropped ones go no further."""

Bar = Callable[[str, int], AbstractContextManager[Callable[[], Any]]]


@dataclass(frozen=True)
class Stage:
    """The folder of one stage's results.

    Attributes:
        digest: of the settings and of what came in.
    """

    folder: Path
    digest: str

    @property
    def parts(self) -> list[Path]:
        """Files of pairs, in order."""
        return sorted(self.folder.glob("part-*.parquet"))

    def pairs(self) -> Iterator[Pair]:
        """All pairs, in order."""
        return (pair for part in self.parts for pair in read_part(part))

    def decisions(self) -> Iterator[Decision]:
        """All decisions, in order."""
        return (each for part in sorted(self.folder.glob("decisions-*.jsonl")) for each in read_decisions(part))

    def facts(self) -> Iterator[tuple[Pair, Mapping[str, Any]]]:
        """All pairs with their facts, in order."""
        for part in self.parts:
            known = {row["id"]: row["facts"] for row in read_journal(_beside(part, "facts"))}
            for pair in read_part(part):
                yield pair, known.get(pair.id, {})


@contextmanager
def alone(corpus: Path) -> Iterator[None]:
    """Keep others from working in the folder of a corpus for the block.

    Raises:
        DataError: another process works there.
    """
    with locked(corpus / "work" / "curation") as free:
        if not free:
            raise DataError(
                "another curation works here", where=str(corpus), remedy="wait for it, or give another out="
            )
        yield


def enter(folder: Path, name: str, number: int, settings: Any, before: Stage | None) -> Stage:
    """The stage in its folder; what was there of other settings, other input or another version is removed."""
    content = json.dumps([name, settings, before.digest if before else __version__], sort_keys=True, default=str)
    stage = Stage(folder / f"{number:02d}-{name}", hashlib.sha256(content.encode()).hexdigest()[:16])
    about = stage.folder / _ABOUT
    if _digest_in(about) != stage.digest:
        shutil.rmtree(stage.folder, ignore_errors=True)
        write_json(about, {"name": name, "digest": stage.digest, "settings": json.loads(content)[1]})
    return stage


def _digest_in(about: Path) -> str | None:
    """What a stage that was begun depends on; None where there is none, or its file is damaged."""
    try:
        return json.loads(about.read_text(encoding="utf-8"))["digest"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def work(stage: Stage, before: Sequence[Path], task: Work, *, workers: int, bar: Bar) -> None:
    """Carry out the work of the parts that are missing.

    Args:
        workers: processes, through Ray, on this machine or on the cluster of ``RAY_ADDRESS``; 1 works right here.

    Raises:
        ConfigError: more than one worker is wanted and Ray is absent.
    """
    waiting = [part for part in before if not (stage.folder / part.name).exists()]
    with bar(stage.folder.name, len(waiting)) as step:
        for _ in _carried_out(stage.folder, waiting, task, workers):
            step()


def _carried_out(folder: Path, waiting: Sequence[Path], task: Work, workers: int) -> Iterator[None]:
    if workers == 1 or len(waiting) < 2:
        for part in waiting:
            yield _one_part(folder, part, task)
        return
    ray = _ray(workers)

    def of(row: dict[str, Any]) -> dict[str, Any]:
        _one_part(folder, Path(row["part"]), task)
        return row

    rows = [{"part": str(part.resolve())} for part in waiting]
    parts = ray.data.from_items(rows, override_num_blocks=len(rows))
    done = parts.map(of, compute=ray.data.TaskPoolStrategy(size=workers))
    for _ in done.iter_rows():
        yield None


def _ray(workers: int) -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(
            "several workers need Ray", where="workers", remedy="pip install 'unimedvl[curate]'"
        ) from error
    if not ray.is_initialized():
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
        address = os.environ.get("RAY_ADDRESS")
        ray.init(address=address, log_to_driver=False) if address else ray.init(num_cpus=workers, **quiet)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray


def _one_part(folder: Path, part: Path, task: Work) -> None:
    """Decisions and facts first: the part under its name says that all is there."""
    outcome = task(list(read_part(part)))
    write_decisions(_beside(folder / part.name, "decisions"), outcome.decisions)
    if outcome.facts:
        rows = ({"id": name, "facts": facts} for name, facts in outcome.facts.items())
        write_lines(_beside(folder / part.name, "facts"), rows)
    write_part(folder / part.name, outcome.pairs)


def judge(stage: Stage, before: Stage, judgment: Judgment, *, bar: Bar) -> None:
    """Decide over all pairs, then write the parts without those that were dropped; done at once or not at all."""
    verdict = stage.folder / "verdict.jsonl"
    if not verdict.exists():
        write_decisions(verdict, judgment(before.facts()))
    found: dict[str, list[Decision]] = {}
    for decision in read_decisions(verdict):
        found.setdefault(decision.pair, []).append(decision)
    waiting = [part for part in before.parts if not (stage.folder / part.name).exists()]
    with bar(stage.folder.name, len(waiting)) as step:
        for part in waiting:
            pairs = list(read_part(part))
            own = [decision for pair in pairs for decision in found.get(pair.id, ())]
            dropped = {decision.pair for decision in own if decision.action == "drop"}
            write_decisions(_beside(stage.folder / part.name, "decisions"), own)
            write_part(stage.folder / part.name, (pair for pair in pairs if pair.id not in dropped))
            step()


def _beside(part: Path, what: str) -> Path:
    """The file of decisions or facts that belongs to a part."""
    return part.with_name(part.name.replace("part-", f"{what}-", 1)).with_suffix(".jsonl")
