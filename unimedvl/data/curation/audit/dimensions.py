"""The seven things that an expert rates of a sample."""

from __future__ import annotations

from dataclasses import dataclass

MOST = 5  # of the scale on which the mean of the seven lies


@dataclass(frozen=True)
class Dimension:
    """One of the seven.

    Attributes:
        key: its name in files.
        label: its name on the page and in tables.
        hint: what is asked.
        ends: what the ends of the scale mean.
        highest: ratings are whole numbers from 0 to this.
    """

    key: str
    label: str
    hint: str
    ends: str
    highest: int = MOST

    def scaled(self, rating: float) -> float:
        """On the scale from 0 to 5 of the mean of the seven, where all weigh the same."""
        return rating * MOST / self.highest


DIMENSIONS = (
    Dimension("modality", "Modality match", "Is the image of the stated modality?", "0 no, 1 yes", highest=1),
    Dimension("accuracy", "Factual accuracy", "Is what the text says true of the image?", "0 false, 5 no error"),
    Dimension("completeness", "Completeness", "Does it say all that matters?", "0 nothing of it, 5 all"),
    Dimension("position", "Position and quantity", "Are places, sides, sizes, counts right?", "0 wrong, 5 all right"),
    Dimension("professionalism", "Professionalism", "Would a specialist word it so?", "0 garbled, 5 as in a report"),
    Dimension("planning", "Planning coherence", "Do its steps follow from each other?", "0 disconnected, 5 clear plan"),
    Dimension("reasoning", "Clinical reasoning", "Do its conclusions follow from what is seen?", "0 unsound, 5 sound"),
)
BY_KEY = {dimension.key: dimension for dimension in DIMENSIONS}
