"""What scoring may use beside the predictions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from unimedvl.eval.settings import EvalSettings

if TYPE_CHECKING:
    from unimedvl.eval.features import Extractor


@dataclass(frozen=True)
class Context:
    """Settings and the folder of the run."""

    settings: EvalSettings
    out: Path

    @cached_property
    def extractor(self) -> Extractor | None:
        """Of image features; None if none was asked for."""
        from unimedvl.eval.features import extractor

        return None if self.settings.extractor is None else extractor(self.settings.extractor, self.settings.device)
