"""A JSONL file of requests in; JSONL results and image files out, resumable after a kill.

Every request has its line number as name. Its image is written first, under that name; then its record is appended
and forced to disk. A run that is started again drops a torn last record, takes what stands there as done, and goes
on: nothing is lost and nothing doubled.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from unimedvl.errors import ConfigError, DataError
from unimedvl.files import append, read_journal
from unimedvl.imaging import ReadOptions, read_image
from unimedvl.infer.attempts import attempts, said
from unimedvl.infer.pipeline import UniMedVLPipeline, progress_bar
from unimedvl.infer.requests import Result
from unimedvl.infer.runner import no_progress
from unimedvl.infer.tasks import Call, InferSettings, with_options

_CALL_FIELDS = ("task", "prompt", "subtask", "think", "mode", "through")


@dataclass(frozen=True)
class _Row:
    """One request: its line, and what it asks, or why it cannot be read."""

    line: int
    digest: str
    call: Call | str
    name: Any = None


def run_batch(
    options: argparse.Namespace,
    settings: InferSettings,
    reading: ReadOptions,
    open_pipeline: Callable[[argparse.Namespace], UniMedVLPipeline],
) -> None:
    """Carry out the requests of this shard that have no record yet.

    Raises:
        ConfigError: the shard or batch size cannot be.
        DataError: the file is absent, or the results belong to another one.
    """
    shard, shards = _shard(options.shard)
    if options.batch_size < 1:
        raise ConfigError(f"batch size {options.batch_size}", where="batch-size", remedy="give at least 1")
    lines = _lines(options.requests, shard, shards)
    digest_of = partial(
        _digest, context=(options.model, options.weights, options.dtype, options.model_words, settings, reading)
    )
    results = options.out / ("results.jsonl" if shards == 1 else f"results-{shard}-of-{shards}.jsonl")
    done = _done(results, lines, digest_of)
    waiting = [(number, text) for number, text in lines.items() if number not in done]
    counts = {"requests": len(lines), "done before": len(done), "done now": 0, "errors": 0}
    if waiting:
        pipe = open_pipeline(options)
        pipe.progress = no_progress
        options.out.mkdir(parents=True, exist_ok=True)
        bar = no_progress if options.quiet else progress_bar
        with open(results, "a", encoding="utf-8") as file, bar("requests", len(waiting)) as step:
            for start in range(0, len(waiting), options.batch_size):
                rows = [
                    _Row(number, digest_of(text), *_read(text, options.requests.parent, settings, reading))
                    for number, text in waiting[start : start + options.batch_size]
                ]
                for row, outcome in zip(rows, attempts(pipe, [row.call for row in rows]), strict=True):
                    counts["errors"] += not isinstance(outcome, Result)
                    counts["done now"] += 1
                    _write(file, row, outcome, options.out)
                    step()
    if options.json:
        print(json.dumps({**counts, "results": str(results)}))
    else:
        print(f"{', '.join(f'{count} {what}' for what, count in counts.items())}: {results}", file=sys.stderr)


def _shard(text: str) -> tuple[int, int]:
    try:
        shard, shards = (int(part) for part in text.split("/"))
    except ValueError:
        shard, shards = -1, 0
    if not 0 <= shard < shards:
        raise ConfigError(f"shard is {text!r}", where="shard", remedy="give I/N with I from 0 to N-1")
    return shard, shards


def _lines(path: Path, shard: int, shards: int) -> dict[int, str]:
    """Line number (from 1) -> text, of the requests of this shard."""
    try:
        texts = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the requests cannot be read", where=str(path), remedy="give a JSONL file in UTF-8") from error
    numbered = [(number, text) for number, text in enumerate(texts, 1) if text.strip()]
    return dict(numbered[shard::shards])


def _digest(text: str, context: object) -> str:
    """Tells requests apart, together with everything else that shapes their results."""
    return hashlib.sha256(repr((text, context)).encode()).hexdigest()[:16]


def _done(results: Path, lines: dict[int, str], digest_of: Callable[[str], str]) -> set[int]:
    """Lines that have a record; a torn last record is cut off.

    Raises:
        DataError: a line is no record, or one of another request than its line holds now.
    """
    done = set()
    for record in read_journal(results, mend=True):
        line, digest = record.get("line"), record.get("request")
        if line not in lines or digest != digest_of(lines[line]):
            raise DataError(
                f"the record of line {line} belongs to another request, model or setting",
                where=str(results),
                remedy="give another --out, or the same command as before",
            )
        done.add(line)
    return done


def _read(text: str, folder: Path, settings: InferSettings, reading: ReadOptions) -> tuple[Call | str, Any]:
    """A request, or why it cannot be read, and its id; relative image paths stand beside the file."""
    name = None
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise DataError("the line is no JSON object", remedy='write {"task": ..., "prompt": ...}')
        name = values.pop("id", None)
        images = tuple(read_image(folder / path, reading) for path in values.pop("images", ()))
        more = {key: values.pop(key) for key in _CALL_FIELDS if key in values}
        if "task" not in more:
            raise DataError("the request names no task", remedy="give a task, such as vqa")
        turns = values.pop("history", [])
        if not all(isinstance(turn, list) and len(turn) == 2 for turn in turns):
            raise DataError("a turn is no pair", where="history", remedy="give [question, answer] pairs")
        history = tuple((question, answer) for question, answer in turns)
        return Call(images=images, history=history, settings=with_options(settings, **values), **more), name
    except json.JSONDecodeError as error:
        return f"not JSON: {error}", name
    except Exception as error:  # whatever is wrong with a row, it is recorded, and the others go on
        return said(error), name


def _write(file: IO[str], row: _Row, outcome: Result | str, out: Path) -> None:
    """Image first, record last; the record is on disk when this returns."""
    record: dict[str, Any] = {"line": row.line, "id": row.name, "request": row.digest}
    if isinstance(outcome, Result):
        path = None
        if outcome.image is not None:
            path = f"{row.line:06d}.png"
            outcome.save_image(out / path)
        record |= outcome.record(path)
    else:
        record["error"] = outcome
    append(file, record)
