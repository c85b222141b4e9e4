"""Text answers against the truth by fixed rules; an answer that the rules cannot read is ``unmatched``, never guessed.

An answer is read in four steps: reasoning and chat template are cut off; the rest becomes lower-case words without
accents and what stands between them; places that name an option are found; what stands around each place tells
whether the option is denied, corrected or declared to be the answer.
"""

from __future__ import annotations

from typing import Literal

from unimedvl.errors import DataError
from unimedvl.eval.answer_words import REFUSAL, WORD, plain_text
from unimedvl.eval.answers import normalized
from unimedvl.eval.choices import choose
from unimedvl.eval.exact import exact, yes_no
from unimedvl.eval.rows import Row

Verdict = Literal["right", "wrong", "unmatched"]


def verdict(row: Row, answer: str) -> Verdict:
    """By :func:`choose` if the row has options, by :func:`yes_no` if that is its truth, else by :func:`exact`.

    ``unmatched`` are answers in which the first two find nothing, and, where any text may be the answer, only empty
    ones and refusals.

    Raises:
        DataError: the row has no truth, or one that is none of its options.
    """
    if not row.truths:
        raise DataError("the row has no truth", where=row.name, remedy="score answers only of rows that have truths")
    if row.options:
        texts = [option.strip().casefold() for option in row.options]
        wanted = [at for at, option in enumerate(texts) if option == row.truth.strip().casefold()]
        if not wanted:
            remedy = f"give one of {', '.join(map(repr, row.options))}"
            raise DataError(f"the truth {row.truth!r} is no option", where=row.name, remedy=remedy)
        found = choose(answer, row.options)
        return "unmatched" if found is None else _judged(found in wanted)
    truths = {normalized(truth) for truth in row.truths}
    if truths <= {"yes", "no"}:
        said = yes_no(answer)
        return "unmatched" if said is None else _judged(("yes" if said else "no") in truths)
    if exact(answer, row.truths):
        return "right"
    plain = plain_text(answer)
    return "unmatched" if not WORD.search(plain) or REFUSAL.search(plain) else "wrong"


def _judged(right: bool) -> Verdict:
    return "right" if right else "wrong"
