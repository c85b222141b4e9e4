"""A JSONL file of requests in; JSONL results and image files out, resumable after a kill.

Every request has its line number as name. Its image is written first, under that name; then its record is appended
and forced to disk. A run that is started again drops a torn last record, takes what stands there as done, and goes
on: nothing is lost and nothing doubled.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from unimedvl.errors import ConfigError, DataError, UniMedVLError
from unimedvl.imaging import ReadOptions, read_image
from unimedvl.infer.pipeline import UniMedVLPipeline, progress_bar
from unimedvl.infer.requests import Result
from unimedvl.infer.runner import no_progress
from unimedvl.infer.tasks import Call, InferSettings, with_options

_CALL_FIELDS = ("task", "prompt", "subtask", "think", "mode", "through")


@dataclass(frozen=True)
class _Row:
    """One request: its line, and what it asks, unless it cannot be read."""

    line: int
    digest: str
    call: Call | UniMedVLError
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
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / ("results.jsonl" if shards == 1 else f"results-{shard}-of-{shards}.jsonl")
    done = _done(results, lines)
    waiting = [(number, text) for number, text in lines.items() if number not in done]
    counts = {"requests": len(lines), "done before": len(done), "done now": 0, "errors": 0}
    if waiting:
        pipe = open_pipeline(options)
        pipe.progress = no_progress
        bar = no_progress if options.quiet else progress_bar
        with open(results, "a", encoding="utf-8") as file, bar("requests", len(waiting)) as step:
            for start in range(0, len(waiting), options.batch_size):
                rows = [
                    _read_row(number, text, options.requests.parent, settings, reading)
                    for number, text in waiting[start : start + options.batch_size]
                ]
                for row, outcome in _outcomes(pipe, rows):
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
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the requests cannot be read", where=str(path), remedy="give a JSONL file in UTF-8") from error
    numbered = [(number, text) for number, text in enumerate(texts, 1) if text.strip()]
    return dict(numbered[shard::shards])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _done(results: Path, lines: dict[int, str]) -> set[int]:
    """Lines that have a record; a torn last record is cut off.

    Raises:
        DataError: a record is of another request than its line holds now.
    """
    if not results.exists():
        return set()
    content = results.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with open(results, "r+b") as file:
            file.truncate(len(whole))
    done = set()
    for text in whole.decode("utf-8").splitlines():
        record = json.loads(text)
        line = record["line"]
        if line not in lines or record["request"] != _digest(lines[line]):
            raise DataError(
                f"the record of line {line} belongs to another request",
                where=str(results),
                remedy="give another --out, or the same requests and shard as before",
            )
        done.add(line)
    return done


def _read_row(number: int, text: str, folder: Path, settings: InferSettings, reading: ReadOptions) -> _Row:
    """A request, or the error that it makes; relative image paths stand beside the file."""
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
        turns = tuple((question, answer) for question, answer in values.pop("history", ()))
        call = Call(images=images, history=turns, settings=with_options(settings, **values), **more)
    except json.JSONDecodeError as error:
        return _Row(number, _digest(text), DataError(f"not JSON: {error}", remedy="mend the line"))
    except UniMedVLError as error:
        return _Row(number, _digest(text), error, name)
    except (TypeError, ValueError) as error:
        return _Row(number, _digest(text), DataError(f"a value has the wrong form: {error}", remedy="mend it"), name)
    return _Row(number, _digest(text), call, name)


def _outcomes(pipe: UniMedVLPipeline, rows: Sequence[_Row]) -> Iterator[tuple[_Row, Result | UniMedVLError]]:
    """Results of the rows together; one by one if together they fail, so that only the culprits do."""
    calls = [row.call for row in rows if isinstance(row.call, Call)]
    try:
        results: list[Result] | None = pipe.perform(calls) if calls else []
    except UniMedVLError:
        results = None
    together = iter(results or ())
    for row in rows:
        if not isinstance(row.call, Call):
            yield row, row.call
        elif results is not None:
            yield row, next(together)
        else:
            try:
                yield row, pipe.perform([row.call])[0]
            except UniMedVLError as error:
                yield row, error


def _write(file: IO[str], row: _Row, outcome: Result | UniMedVLError, out: Path) -> None:
    """Image first, record last; the record is on disk when this returns."""
    record: dict[str, Any] = {"line": row.line, "id": row.name, "request": row.digest}
    if isinstance(outcome, Result):
        path = None
        if outcome.image is not None:
            path = f"{row.line:06d}.png"
            outcome.save_image(out / path)
        record |= outcome.record(path)
    else:
        record["error"] = str(outcome)
    file.write(json.dumps(record, ensure_ascii=False) + "\n")
    file.flush()
    os.fsync(file.fileno())
