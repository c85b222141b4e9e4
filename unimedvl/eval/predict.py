"""Predictions of a benchmark: one journal record a row and draw, shared out over processes, resumable after a kill.

The picture is written first, then its record, which is on disk before the next row begins. Every process has a journal
of its own and reads all of them, so that a run may go on with another number of processes. What a row gives depends on
the row, the seed and the settings alone, not on the rows beside it.
"""

from __future__ import annotations

import os
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from unimedvl import NOTICE
from unimedvl.errors import ConfigError, DataError
from unimedvl.eval.rows import Row
from unimedvl.files import append, locked, read_journal
from unimedvl.imaging import read_image
from unimedvl.infer.attempts import attempts, said
from unimedvl.infer.pipeline import UniMedVLPipeline, progress_bar
from unimedvl.infer.requests import Result
from unimedvl.infer.tasks import Call, InferSettings, with_options

_DRAWN = ("t2i", "edit", "counterfactual")


@dataclass(frozen=True)
class Ask:
    """One prediction that is wanted: a row, and which of its draws."""

    row: Row
    draw: int = 0

    @property
    def name(self) -> str:
        """Unlike all others; also that of its image file."""
        return self.row.name if self.draw == 0 else f"{self.row.name}-draw{self.draw}"

    def call(self, settings: InferSettings, seed: int) -> Call:
        """With noise of its own."""
        own = zlib.crc32(f"{seed} {self.name}".encode())
        return self.row.call(with_options(settings, seed=own))


@dataclass(frozen=True)
class Prediction:
    """What a row gave.

    Attributes:
        text: without the notice that reports carry; empty where none was made, or the row failed.
        image: file of the picture.
        error: why there is no result.
        seconds: its share of the batch that it was part of.
    """

    ask: Ask
    text: str
    image: Path | None
    error: str | None
    seconds: float

    @property
    def row(self) -> Row:
        """What was asked."""
        return self.ask.row

    def picture(self) -> Image.Image | None:
        """The RGB picture, read from its file."""
        return None if self.image is None else read_image(self.image).image


def asks_of(rows: Sequence[Row], draws: int) -> list[Ask]:
    """Every row once, and ``draws`` times where a picture is made.

    Raises:
        DataError: two rows have the same name.
    """
    asks = [Ask(row, draw) for row in rows for draw in range(draws if row.task in _DRAWN else 1)]
    name, count = Counter(ask.name for ask in asks).most_common(1)[0]
    if count > 1:
        raise DataError(f"two rows are called {name}", where="benchmark", remedy="give every row a name of its own")
    return asks


def shard_of(text: str | None) -> tuple[int, int]:
    """Number and count of the processes, from ``I/N`` or from what torchrun sets.

    Raises:
        ConfigError: it is no shard.
    """
    text = text or f"{os.environ.get('RANK', '0')}/{os.environ.get('WORLD_SIZE', '1')}"
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ConfigError(f"shard is {text!r}", where="shard", remedy="give I/N with I from 0 to N-1")
    return int(number), int(count)


class Predictions:
    """The predictions of one run in its folder.

    Args:
        about: digest of all that shapes them beside the rows: model, settings, seed.
    """

    def __init__(self, out: Path, about: str) -> None:
        self.out, self.about = out, about
        self.journals = out / "predictions"

    def records(self, asks: Sequence[Ask]) -> dict[str, dict[str, Any]]:
        """Those that are there, by name; of rows that are not asked for now, none.

        Raises:
            DataError: a record is of another model, setting or row, or a journal is damaged.
        """
        wanted = {ask.name: ask.row.digest(here=True) for ask in asks}
        found = {}
        for path in sorted(self.journals.glob("*.jsonl")):
            for record in read_journal(path):
                name, problem = record.get("name"), None
                if record.get("about") != self.about:
                    problem = "another model or another setting"
                elif name in wanted and record.get("ask") != wanted[name]:
                    problem = "another row of this name, or its images have changed"
                if problem:
                    remedy = "give another out=, or the same words as before"
                    raise DataError(f"the prediction of {name} is of {problem}", where=str(path), remedy=remedy)
                if name in wanted and self._stands(record, found.get(name)):
                    found[name] = record
        return found

    def _stands(self, record: dict[str, Any], known: dict[str, Any] | None) -> bool:
        """Whether it is better than what is known of its row: a result over an error, and with its picture."""
        image = record["image"]
        there = image is None or (self.out / image).is_file()
        return there and (known is None or known["error"] is not None)

    def complete(self, asks: Sequence[Ask]) -> list[Prediction] | None:
        """All of them in the order of ``asks``; None as long as one is missing."""
        found = self.records(asks)
        if len(found) < len(asks):
            return None
        return [self._prediction(ask, found[ask.name]) for ask in asks]

    def _prediction(self, ask: Ask, record: dict[str, Any]) -> Prediction:
        image = None if record["image"] is None else self.out / record["image"]
        return Prediction(ask, record["text"] or "", image, record["error"], record["seconds"])

    def make(
        self,
        asks: Sequence[Ask],
        open_pipeline: Callable[[], UniMedVLPipeline],
        *,
        shard: tuple[int, int] = (0, 1),
        batch_size: int = 1,
        seed: int = 0,
        bar: Callable[..., Any] = progress_bar,
    ) -> int:
        """Make those of a shard that are missing, or failed before; how many were made.

        Raises:
            DataError: as in :meth:`records`; or another process is at this shard.
        """
        number, count = shard
        self.journals.mkdir(parents=True, exist_ok=True)
        journal = self.journals / f"{number:03d}-of-{count:03d}.jsonl"
        with locked(journal.with_suffix(".lock")) as mine:
            if not mine:
                raise DataError("another process is at this", where=str(journal), remedy="let it end, or end it")
            done = {name for name, record in self.records(asks).items() if record["error"] is None}
            waiting = [ask for ask in asks[number::count] if ask.name not in done]
            if not waiting:
                return 0
            read_journal(journal, mend=True)
            pipe = open_pipeline()
            (self.out / "images").mkdir(exist_ok=True)
            with journal.open("a", encoding="utf-8") as file, bar("rows", len(waiting)) as step:
                for asked in _parts(waiting, batch_size):
                    for record in self._records(asked, pipe, seed):
                        append(file, record)
                        step()
            return len(waiting)

    def _records(self, asked: Sequence[Ask], pipe: UniMedVLPipeline, seed: int) -> Iterator[dict[str, Any]]:
        start = time.perf_counter()
        calls = [_read(ask, pipe.settings, seed) for ask in asked]
        outcomes = list(attempts(pipe, calls))
        seconds = (time.perf_counter() - start) / len(asked)
        for ask, outcome in zip(asked, outcomes, strict=True):
            record = {
                "name": ask.name,
                "about": self.about,
                "ask": ask.row.digest(here=True),
                "seconds": round(seconds, 4),
            }
            if not isinstance(outcome, Result):
                yield {**record, "text": None, "image": None, "error": outcome}
                continue
            path = None
            if outcome.image is not None:
                path = f"images/{ask.name}.png"
                outcome.save_image(self.out / path)
            yield {**record, "text": _plain(outcome.text), "image": path, "error": None}


def _read(ask: Ask, settings: InferSettings, seed: int) -> Call | str:
    try:
        return ask.call(settings, seed)
    except DataError as error:  # a damaged image of a benchmark is counted, and the others go on
        return said(error)


def _plain(text: str | None) -> str | None:
    """Without the notice that follows a report."""
    return None if text is None else text.removesuffix(NOTICE).rstrip()


def _parts(asks: Sequence[Ask], size: int) -> Iterator[Sequence[Ask]]:
    for first in range(0, len(asks), size):
        yield asks[first : first + size]


def with_wording(row: Row, choice: str, question: str | None) -> Row:
    """A question as the model is asked it; other tasks say what they want themselves.

    Args:
        question: None leaves questions without options as they are.
    """
    wording = choice if row.options else question
    return row if row.task != "vqa" or wording is None else row.worded(wording)
