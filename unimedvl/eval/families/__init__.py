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
        uses: settings of scoring that mean something to it.
        targets: whether every row needs a picture to compare with.
    """

    check: Callable[[EvalSettings], None]
    score: Callable[[Sequence[Prediction], Context], Scored]
    uses: tuple[str, ...] = ()
    targets: bool = True


FAMILIES: Mapping[str, Family] = {
    "understanding": Family(understanding.check, understanding.score, ("wording", "judge"), targets=False),
    "reports": Family(reports.check, reports.score, ("meteor", "rate"), targets=False),
    "generation": Family(generation.check, generation.score, ("draws", "extractor", "train", "classifier", "clip")),
    "interleaved": Family(interleaved.check, interleaved.score, ("draws",)),
    "counterfactual": Family(
        interleaved.check_counterfactual,
        interleaved.score_counterfactual,
        ("draws", "extractor", "findings", "meteor", "rate"),
    ),
    "autoencoder": Family(autoencoder.check, autoencoder.score, ("extractor",)),
}

__all__ = ["FAMILIES", "Context", "Family"]
