"""Short answers against the truth: exact match after normalizing, by kind of question, beside the majority answer."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_ARTICLES = {"a", "an", "the"}


def normalized(text: str) -> str:
    """Lower case, without punctuation and articles, words one space apart."""
    words = re.sub(r"[^\w\s]", " ", text.lower()).split()
    return " ".join(word for word in words if word not in _ARTICLES)


@dataclass(frozen=True)
class Accuracy:
    """Share of right answers, with its 95 % interval, beside what the most frequent answer would get."""

    right: int
    count: int
    low: float
    high: float
    majority: float
    majority_answer: str

    @property
    def share(self) -> float:
        """Right answers of all."""
        return self.right / self.count


def accuracy(answers: Sequence[str], truths: Sequence[str], learned: Iterable[str]) -> Accuracy:
    """Exact matches after :func:`normalized`.

    Args:
        learned: answers of the training rows of this kind; the most frequent one is the majority answer.
    """
    right = sum(normalized(answer) == normalized(truth) for answer, truth in zip(answers, truths, strict=True))
    ((majority, _),) = Counter(learned).most_common(1)
    by_majority = sum(normalized(majority) == normalized(truth) for truth in truths) / len(truths)
    return Accuracy(right, len(truths), *wilson(right, len(truths)), by_majority, majority)


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share, 95 % by default."""
    share, spread = right / count, z * z / count
    center = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, center - half), min(1.0, center + half)
