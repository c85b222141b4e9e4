"""Decisions: what a stage of curation did with a pair, and why; one row each, kept beside the corpus."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from unimedvl.errors import DataError
from unimedvl.files import aside, line, read_journal

if TYPE_CHECKING:
    import pyarrow as pa

Action = Literal["drop", "keep", "flag"]


@dataclass(frozen=True)
class Decision:
    """What became of one pair at one stage.

    Attributes:
        pair: its id.
        stage: such as ``coarse`` or ``alignment``.
        action: ``drop`` takes it out, ``flag`` leaves it for a person to look at, ``keep`` records a score.
        reason: a short key, the same for all pairs of this kind, to be counted.
        detail: what was found in this pair, for people.
        score: the number that was judged by, if there is one; finite.

    Raises:
        DataError: the action is unknown, the reason empty, or the score not finite.
    """

    pair: str
    stage: str
    action: Action
    reason: str
    detail: str = ""
    score: float | None = None

    def __post_init__(self) -> None:
        remedy = f"give pair, stage, one of {', '.join(get_args(Action))}, a reason, and a finite score or none"
        words = (self.pair, self.stage, self.reason)
        if self.action not in get_args(Action) or not all(isinstance(word, str) and word for word in words):
            problem = f"no decision: {self.action!r} of pair {self.pair!r} by {self.stage!r} for {self.reason!r}"
            raise DataError(problem, where="decision", remedy=remedy)
        number = isinstance(self.score, int | float) and math.isfinite(self.score)
        if not isinstance(self.detail, str) or not (self.score is None or number):
            problem = f"no decision: detail {self.detail!r}, score {self.score!r}"
            raise DataError(problem, where=f"decision on pair {self.pair}", remedy=remedy)

    def row(self) -> dict[str, Any]:
        """Plain values, for a line of JSON or a row of a table."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any], where: str = "decisions") -> Decision:
        """The decision whose ``row`` this is.

        Raises:
            DataError: a column is missing or unknown, or a value cannot be.
        """
        names = {item.name for item in fields(cls)}
        if wrong := sorted(names ^ row.keys()):
            remedy = "remove the file and run the stage again"
            raise DataError(f"columns of a decision missing or unknown: {', '.join(wrong)}", where=where, remedy=remedy)
        return cls(**row)


def write_decisions(path: Path, decisions: Iterable[Decision]) -> int:
    """A file of decisions, ``.parquet`` or else JSONL; how many."""
    rows = [decision.row() for decision in decisions]
    with aside(path) as part:
        if path.suffix == ".parquet":
            _write_table(part, rows)
        else:
            part.write_text("".join(map(line, rows)), encoding="utf-8")
    return len(rows)


def read_decisions(path: Path) -> list[Decision]:
    """The decisions of a file, in their order.

    Raises:
        DataError: it is absent or damaged, or holds something else.
    """
    if not path.is_file():
        raise DataError("no file of decisions", where=str(path), remedy="run the stage that writes it")
    if path.suffix != ".parquet":
        return [Decision.from_row(row, f"{path}, line {number}") for number, row in enumerate(read_journal(path), 1)]
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        remedy = "remove it and run the stage again"
        raise DataError(f"no table of decisions: {json.dumps(reason)}", where=str(path), remedy=remedy) from error
    return [Decision.from_row(row, f"{path}, row {number}") for number, row in enumerate(rows)]


def _write_table(part: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), part)


def _schema() -> pa.Schema:
    import pyarrow as pa

    kinds = {"score": pa.float64()}
    return pa.schema([(item.name, kinds.get(item.name, pa.string())) for item in fields(Decision)])
