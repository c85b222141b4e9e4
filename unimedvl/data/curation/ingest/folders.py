"""Folders of pictures, with a caption beside each where there is one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from unimedvl.data.curation.ingest.files import PICTURES, files_under, split_named
from unimedvl.data.curation.ingest.modalities import named
from unimedvl.data.curation.ingest.rows import Row
from unimedvl.data.curation.ingest.settings import Reader, ReaderSettings, Skipped, one_image
from unimedvl.data.curation.pairs import Pair
from unimedvl.errors import DataError


def _read(root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
    for path in files_under(root, PICTURES):
        try:
            pair = _pair(path, path.relative_to(root), settings)
        except DataError as error:
            skipped.failed(settings, error, str(path))
            continue
        yield pair


def _pair(path: Path, inner: Path, settings: ReaderSettings) -> Pair:
    facts = _facts(inner, settings)
    row = _caption(path, settings.text_column)
    more = {name: said for name, said in facts.items() if name not in ("split", "modality")}
    return settings.pair(
        inner.as_posix(),
        split=facts.get("split", ""),
        modality=named(facts.get("modality", "")),
        text=row.text(settings.text_column),
        question=row.text(settings.question_column),
        **one_image(str(path), settings.family),
        more={**more, **row.plain(*settings.more_columns)},
    )


def _facts(inner: Path, settings: ReaderSettings) -> dict[str, str]:
    """What the names of the sub-folders say."""
    found = {name: part for name, part in zip(settings.levels, inner.parts[:-1], strict=False) if name}
    if "split" in found:
        split = split_named(found["split"])
        if split is None:
            remedy = "name it train, validation or test, or take split out of levels"
            raise DataError(f"no known split: {found['split']!r}", where=str(inner), remedy=remedy)
        found["split"] = split
    return found


def _caption(path: Path, column: str) -> Row:
    """What stands in the file of the same stem, a text or an object of JSON, as a row; an empty one without a file.

    Args:
        column: for a text that stands alone.
    """
    side = next((side for side in map(path.with_suffix, (".txt", ".json")) if side.is_file()), None)
    if side is None:
        return Row({}, str(path), 0)
    try:
        content = side.read_text(encoding="utf-8-sig")
        value = json.loads(content) if side.suffix == ".json" else content
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"no caption: {reason}", where=str(side), remedy="mend or remove the file") from error
    value = {column: value} if isinstance(value, str) else value
    if not isinstance(value, dict):
        problem = f"a {type(value).__name__}, not an object or a text"
        raise DataError(problem, where=str(side), remedy="mend or remove the file")
    return Row(value, str(side), 0)


read = Reader(
    _read,
    layout=f"pictures ({', '.join(PICTURES)}) in folders, captions in .txt or .json files of the same stem",
    uses=("levels", "text_column", "question_column", "more_columns"),
    defaults={"text_column": "caption"},
)
