"""An evaluation on disk, as the report reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unimedvl.errors import DataError


@dataclass(frozen=True)
class Evaluated:
    """Scores, predictions and pictures of one model."""

    name: str
    folder: Path

    @cached_property
    def result(self) -> Mapping[str, Any]:
        """All scores.

        Raises:
            DataError: the evaluation is not complete.
        """
        path = self.folder / "result.json"
        if not path.is_file():
            raise DataError("no result.json", where=str(self.folder), remedy="run python -m unimedvl.eval first")
        return json.loads(path.read_text(encoding="utf-8"))

    def lines(self, part: str) -> dict[str, dict[str, Any]]:
        """Predictions of a part by row; the first seed's of drawings."""
        found: dict[str, dict[str, Any]] = {}
        for line in (self.folder / f"{part}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found.setdefault(row["row"], row)
        return found

    def image(self, name: str) -> Path:
        """A kept picture, by its name without ending."""
        return self.folder / "images" / f"{name}.png"
