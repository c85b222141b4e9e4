"""Whole answers against truths: the same words, yes or no, and the share of words that are there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from unimedvl.eval.answer_words import NUMBERS, read, singular, spoken
from unimedvl.eval.answers import normalized


def exact(answer: str, truths: Iterable[str]) -> bool:
    """Whether the whole answer says the same as one of the truths.

    Case, accents, punctuation, spacing, articles, a leading "the answer is", regular plurals, number words up to
    twelve, and the synonyms of this file (modalities, British spelling) make no difference. Every other word does:
    "the left kidney" is not "kidney". Signs of numbers, decimals, ranges, ``%`` and ``+`` count: "ER+" is not "ER",
    and "Hepatitis A" is not "hepatitis".
    """
    said = _whole(answer)
    return bool(said) and any(said == _whole(truth) for truth in truths)


def _whole(answer: str) -> tuple[str, ...]:
    text = read(answer)
    lead = re.match(r"(?:(?:the|my|final|correct) )*answer (?:is )?", " ".join(text.words) + " ")
    skipped = len(lead[0].split()) if lead else 0
    said = list(zip(text.words, text.gaps[1:], strict=True))[skipped if skipped < len(text.words) else 0 :]
    # "A" is an article only where a word follows: not in "hepatitis A", nor in "A. Liver".
    articles = (
        word in ("the", "an") or (word == "a" and at + 1 < len(said) and gap.isspace())
        for at, (word, gap) in enumerate(said)
    )
    return tuple(
        NUMBERS.get(word, singular(word)) for (word, _), article in zip(said, articles, strict=True) if not article
    )


def token_recall(answer: str, truth: str) -> float:
    """Share of the truth's different words that the answer has, 0 to 1: LLaVA-Med's score of open questions.

    Words are those of :func:`unimedvl.eval.answers.normalized`, number words as digits; no synonyms, no plurals.
    """
    said, wanted = set(_tokens(answer)), set(_tokens(truth))
    return len(said & wanted) / len(wanted) if wanted else float(not said)


def token_f1(answer: str, truth: str) -> float:
    """Harmonic mean of precision and recall, 0 to 1, over the words of :func:`token_recall`, repeated ones counted."""
    said, wanted = Counter(_tokens(answer)), Counter(_tokens(truth))
    if not said or not wanted:
        return float(said == wanted)
    return 2 * (said & wanted).total() / (said.total() + wanted.total())


def _tokens(text: str) -> list[str]:
    return [NUMBERS.get(word, word) for word in normalized(spoken(text)).split()]


def yes_no(answer: str) -> bool | None:
    """Whether the answer says yes or no; None if it says neither, or both.

    Counted are: yes or no as the first word ("No evidence of...", but not "No idea"), and yes or no standing alone
    behind punctuation or "answer is", "it is", "say". "There is no fracture" is None: whether that means no depends
    on the question. Where a word is said to be the answer ("the answer is yes"), only such words count.
    """
    text = read(answer)
    said, declared = set(), set()
    for at, word in enumerate(text.words):
        if word not in ("yes", "no"):
            continue
        # A few words are enough for the patterns, and keep an answer that says "no" four thousand times quick.
        before, after = text.between(max(0, at - 6), at), text.between(at + 1, min(at + 2, len(text.words)))
        alone = re.match(r"\s*(?:$|[^\w\s])", after) or re.match(r"\s*(?:or|and|but)\b", after)
        opening = at == 0 and not re.match(r"\s*(?:idea|image|answer|information|doubt|way|clear|definit\w+)\b", after)
        if alone and re.search(r"\banswer\b(?: to (?:this|the|your) question)?(?: is)?\W*$", before):
            declared.add(word)
        stands = re.search(r"(?:[.,:;!?\n(/]|\b(?:say|is|or|and|but|so|therefore))\s*$", before)
        if opening or (alone and stands and not re.search(r"\bthere is\s*$", before)):
            said.add(word)
    said = declared or said
    return said == {"yes"} if len(said) == 1 else None
