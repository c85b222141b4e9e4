"""Files of ratings, as experts send them back, read and checked against the sheet of their page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimedvl.data.curation.audit.dimensions import BY_KEY, DIMENSIONS
from unimedvl.data.curation.audit.page import FORMAT, Sheet
from unimedvl.errors import DataError

_REMEDY = "ask the rater for the file that the page saved"


@dataclass(frozen=True)
class Ratings:
    """What one expert gave.

    Attributes:
        rater: the expert's name.
        scores: by id and key of the dimension, whole numbers; None where a dimension does not apply. What was not
            rated is absent.
        comments: by id, those that are not empty.
    """

    rater: str
    scores: dict[str, dict[str, int | None]]
    comments: dict[str, str]

    @property
    def complete(self) -> int:
        """Samples of which every dimension is rated, if only as not applicable."""
        return sum(map(self.judged, self.scores))

    def judged(self, pair: str) -> bool:
        """Whether every dimension of a sample is rated."""
        return len(self.scores.get(pair, ())) == len(DIMENSIONS)

    def mean(self, pair: str) -> float | None:
        """The mean of the seven of a sample on the scale from 0 to 5, over those that apply.

        None without any, or where a dimension is not rated yet: a few of the seven say nothing about all.
        """
        if not self.judged(pair):
            return None
        given = [BY_KEY[key].scaled(score) for key, score in self.scores[pair].items() if score is not None]
        return sum(given) / len(given) if given else None


def read_ratings(sheet: Sheet, paths: Sequence[Path]) -> list[Ratings]:
    """The ratings of several experts, a file each.

    Raises:
        DataError: there is no file; one holds no ratings, or those of another sample, of an unknown id, or out of
            range; or two are of the same rater.
    """
    if not paths:
        raise DataError("no files of ratings", where="ratings", remedy="give those that the page saved")
    found: dict[str, Path] = {}
    everything = []
    for path in paths:
        ratings = _read(sheet, path)
        name = " ".join(ratings.rater.lower().split())
        if name in found:
            raise DataError(
                f"two files of {ratings.rater}", where=f"{found[name]} and {path}", remedy="give the later one only"
            )
        found[name] = path
        everything.append(ratings)
    return everything


def _read(sheet: Sheet, path: Path) -> Ratings:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path), remedy=_REMEDY) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError("no ratings of an audit", where=str(path), remedy=_REMEDY)
    if content.get("audit") != sheet.audit:
        raise DataError(
            f"ratings of the audit {content.get('audit')}, not {sheet.audit}",
            where=str(path),
            remedy="give the sheet of the page that was rated: the corpus or its sample has changed since",
        )
    rater, rows = content.get("rater"), content.get("ratings")
    if not isinstance(rater, str) or not rater.strip() or not isinstance(rows, dict):
        raise DataError("ratings without the rater's name, or none at all", where=str(path), remedy=_REMEDY)
    entries = {pair: _entry(sheet, pair, row, f"{path}, {pair}") for pair, row in rows.items()}
    scores = {pair: given for pair, (given, _) in entries.items() if given}
    comments = {pair: comment.strip() for pair, (_, comment) in entries.items() if comment.strip()}
    return Ratings(rater.strip(), scores, comments)


def _entry(sheet: Sheet, pair: str, row: Any, where: str) -> tuple[dict[str, int | None], str]:
    """Scores and comment of one sample."""
    if pair not in sheet.modalities:
        raise DataError("the sample has no such id", where=where, remedy=_REMEDY)
    scores, comment = (row.get("scores"), row.get("comment", "")) if isinstance(row, dict) else (None, "")
    if not isinstance(scores, dict) or not isinstance(comment, str):
        raise DataError("no scores and comment", where=where, remedy=_REMEDY)
    _check(scores, where)
    return dict(scores), comment


def _check(scores: Mapping[str, Any], where: str) -> None:
    for key, score in scores.items():
        if key not in BY_KEY:
            known = ", ".join(BY_KEY)
            raise DataError(f"no dimension is called {key!r}", where=where, remedy=f"it must be one of {known}")
        highest = BY_KEY[key].highest
        # True is a whole number to Python.
        if score is not None and (type(score) is not int or not 0 <= score <= highest):
            raise DataError(
                f"{key} {score!r}", where=where, remedy=f"it must be a whole number from 0 to {highest}, or null"
            )
