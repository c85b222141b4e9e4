"""How far a run is, and what one of its steps gave."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Progress:
    """What a run has done. ``updates`` are steps that were not skipped; tokens and rows are over all ranks."""

    step: int = 0
    updates: int = 0
    skipped: int = 0
    tokens: int = 0
    rows: int = 0
    seconds: float = 0.0


@dataclass
class StepResult:
    """Means over the whole global batch, and what it cost."""

    ce: float
    mse: float
    loss: float
    applied: bool
    norms: dict[str, float]
    learning_rate: float
    tokens: int
    rows: int
    fill: float
    seconds: float
    waited: float
    flops: float
    stop: bool = False
    culprits: list[str] = field(default_factory=list)
