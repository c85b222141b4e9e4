"""The files of records of a corpus, which come and go with its families and splits."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from unimedvl.data.curation.pairs import Pair
from unimedvl.data.records import IMAGE_MARK
from unimedvl.errors import DataError
from unimedvl.files import aside, line, write_json

UNFINISHED = "unfinished.json"  # names the files while they are written, for whoever goes on after a kill
# The file of each family, as training names its sources.
_FILES = {"understanding": "i2t", "text": "text", "t2i": "t2i", "edit": "interleaved", "counterfactual": "interleaved"}
_DESCRIBE = "Describe this image."


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


def names_of(path: Path) -> set[str]:
    """The files of records that a manifest names, or that :data:`UNFINISHED` does; none if there is no such file.

    Raises:
        DataError: it is something else.
    """
    try:
        return set(json.loads(path.read_text(encoding="utf-8"))["rows"])
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError) as error:
        remedy = "remove it, and the records beside it, and run the curation again"
        raise DataError("no manifest of a corpus", where=str(path), remedy=remedy) from error


def note_unfinished(folder: Path, names: Iterable[str]) -> None:
    """Keep the names of the files that may be there from now on."""
    write_json(folder / UNFINISHED, {"rows": sorted(names)})


def write_records(
    folder: Path, pairs: Iterable[Pair], files_of: Mapping[str, str], before: Iterable[str] = ()
) -> dict[str, int]:
    """Records of pairs by split and family; rows by file. Until the caller removes it, :data:`UNFINISHED` names all.

    Args:
        files_of: name of the file of a subtask or family, where it is not that of the family.
        before: files that earlier runs may have left. They go, or are replaced.
    """
    before = {*before, *names_of(folder / UNFINISHED)}
    for name in before:
        _sweep(folder / name)
    rows = _written(folder, pairs, files_of, before)
    for name in before - rows.keys():
        (folder / name).unlink(missing_ok=True)
    return rows


def _written(folder: Path, pairs: Iterable[Pair], files_of: Mapping[str, str], before: Iterable[str]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        files: dict[str, IO[str]] = {}
        for pair in pairs:
            file = files_of.get(pair.subtask) or files_of.get(pair.family) or _FILES[pair.family]
            name = f"{pair.split or 'train'}/{file}.jsonl"
            if name not in files:
                note_unfinished(folder, {*before, *files, name})
                part = stack.enter_context(aside(folder / name))
                files[name] = stack.enter_context(part.open("w", encoding="utf-8"))
            files[name].write(line(record(pair, (folder / name).parent.resolve())))
            counts[name] += 1
    return dict(sorted(counts.items()))


def _sweep(path: Path) -> None:
    """Take away what killed runs left of a file, see :func:`unimedvl.files.aside`."""
    for part in path.parent.glob(".part-*"):
        if re.fullmatch(rf"\.part-\d+-{re.escape(path.name)}", part.name):
            part.unlink(missing_ok=True)
