"""What each family of benchmarks makes of its predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from unimedvl.eval.families import autoencoder, generation, interleaved, reports, understanding
from unimedvl.eval.families.context import Context
from unimedvl.eval.predict import Prediction
from unimedvl.eval.scores import Scored
from unimedvl.eval.settings import EvalSettings


@dataclass(frozen=True)
class Family:
    """A way of scoring.

    Attributes:
        check: raises before any work if something that the scores need is missing.
        targets: whether every row needs a picture to compare with.
    """

    check: Callable[[EvalSettings], None]
    score: Callable[[Sequence[Prediction], Context], Scored]
    targets: bool = True


FAMILIES: Mapping[str, Family] = {
    "understanding": Family(understanding.check, understanding.score, targets=False),
    "reports": Family(reports.check, reports.score, targets=False),
    "generation": Family(generation.check, generation.score),
    "interleaved": Family(interleaved.check, interleaved.score),
    "counterfactual": Family(interleaved.check_counterfactual, interleaved.score_counterfactual),
    "autoencoder": Family(autoencoder.check, autoencoder.score),
}

__all__ = ["FAMILIES", "Context", "Family"]
