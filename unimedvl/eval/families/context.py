"""What scoring may use beside the predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from unimedvl.eval.settings import EvalSettings
from unimedvl.infer.pipeline import UniMedVLPipeline

if TYPE_CHECKING:
    from unimedvl.eval.features import Extractor


@dataclass(frozen=True)
class Context:
    """Settings, the folder of the run, and the model where a score needs it."""

    settings: EvalSettings
    out: Path
    open_pipeline: Callable[[], UniMedVLPipeline]

    @cached_property
    def pipe(self) -> UniMedVLPipeline:
        """The model."""
        return self.open_pipeline()

    @cached_property
    def extractor(self) -> Extractor | None:
        """Of image features; None if none was asked for."""
        from unimedvl.eval.features import extractor

        return None if self.settings.extractor is None else extractor(self.settings.extractor)
