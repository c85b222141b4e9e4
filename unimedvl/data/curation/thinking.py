"""Reasoning for questions with known answers, from a larger model, kept only where it ends in the truth."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from unimedvl.data.curation import prompts
from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.pairs import Pair
from unimedvl.endpoint import Messages, Reply
from unimedvl.errors import DataError
from unimedvl.replies import Problem, ask_checked

STAGE = "reason"
Same = Callable[[str, str], bool]

_THOUGHTS = (40, 3000)  # characters, as below
_ANSWER = (1, 300)
_CUES = re.compile(
    r"\b(?:reference|correct|true|ground[- ]truth|given|provided|expected) answer\b|\bground[- ]truth\b", re.I
)
_OPTION = re.compile(r"(?:^|(?<=[\s(;,]))\(?([A-J])[.):]\s*(.+?)(?=[\s;,]*(?:[\s(;,]\(?[A-J][.):]\s|\Z))", re.S)
_LETTER = re.compile(r"\(?([A-Ja-j])(?:\)|[.:](?=\s|\Z)|(?=\s*\Z))[.:]?\s*(.*)", re.S)
_BEFORE = re.compile(r"\A(?:so,?\s+)?(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|option)(?:\s+is)?\s*:?\s+", re.I)


def answered(pair: Pair) -> bool:
    """Whether a pair is to get reasoning: a question with a short answer, for training, without reasoning so far."""
    asked = pair.family == "understanding" and pair.question.strip() and "turns" not in pair.more
    fits = _ANSWER[0] <= len(pair.text.strip()) <= _ANSWER[1] and "<think>" not in pair.text
    return bool(asked) and fits and pair.split in ("", "train")


def think(
    pair: Pair, ask: Callable[[Messages], Reply], rounds: int = 3, *, same: Same | None = None
) -> tuple[Pair, Decision]:
    """A pair whose ``text`` is reasoning before the answer that it had: ``<think>…</think> answer``.

    The model is not told the answer. What it answers must be the same; a wrong answer is not asked for again, since
    guessing until it fits would keep reasoning that leads elsewhere. What it answered and its name go to
    ``more["reasoning"]``.

    Args:
        ask: as :meth:`unimedvl.replies.KeptReplies.ask`.
        rounds: replies, at most; one of another form is asked for again with the fault named.
        same: whether an answer says what the truth says; by default :func:`same_answer` with the question's options.

    Returns:
        The new pair, kept; or the pair as it was, flagged.

    Raises:
        ConfigError: the endpoint refuses whatever is asked.
        UnreachedError: no reply came.
    """

    def failed(reason: str, detail: str) -> tuple[Pair, Decision]:
        return pair, Decision(pair.id, STAGE, "flag", reason, detail)

    options = options_of(pair)
    try:
        messages = prompts.to_reason(pair.question, pair.images, _form(pair, options))
    except DataError as error:
        return failed("unreadable image", str(error))
    reply = ask_checked(ask, messages, reasoning_fault, rounds)
    if isinstance(reply, Problem):
        return failed(f"reasoning {reply.kind}", reply.text)
    thoughts, answer, _ = prompts.planned(reply.text)
    same = same or partial(same_answer, options=options)
    if not same(answer, pair.text):
        return failed("another answer", repr(answer[:80]))
    text = f"<think>{thoughts}</think> {pair.text.strip()}"
    more = {**pair.more, "reasoning": {"model": reply.model, "answer": answer}}
    return replace(pair, text=text, more=more), Decision(pair.id, STAGE, "keep", "reasoned", f"by {reply.model}")


def reasoning_fault(text: str) -> str:
    """What is wrong with the form of a reply, as a clause; empty if nothing is."""
    thoughts, answer, fault = prompts.planned(text)
    if words := prompts.refusal(text):
        return f"it declines ({words!r})"
    if fault:
        return fault
    if found := _CUES.search(thoughts):
        return f"it speaks of an answer that was given ({found[0]!r})"
    return prompts.length_fault("the reasoning", thoughts, *_THOUGHTS) or prompts.length_fault(
        "the answer after </think>", answer, *_ANSWER
    )


def options_of(pair: Pair) -> tuple[str, ...]:
    """Texts of the options, A first: of ``more["options"]``, or as they stand in the question."""
    given = pair.more.get("options")
    if isinstance(given, dict):
        given = [given[letter] for letter in sorted(given)]
    if isinstance(given, list) and all(isinstance(option, str) for option in given):
        return tuple(_without_letter(option) for option in given)
    found = _OPTION.findall(pair.question)
    letters = "".join(letter for letter, _ in found)
    return tuple(text.strip() for _, text in found) if len(found) > 1 and "ABCDEFGHIJ".startswith(letters) else ()


def same_answer(answer: str, truth: str, options: Sequence[str] = ()) -> bool:
    """Whether two short answers are the same: the same option by letter or text, or the same words.

    Case, accents, articles and punctuation do not count; signs, decimal points and units do. An answer whose letter
    and text name different options is the same as nothing.
    """
    one, two = _read(answer, options), _read(truth, options)
    if one is None or two is None:
        return False
    if one[0] and two[0]:
        return one[0] == two[0] and (bool(options) or not (one[1] and two[1]) or one[1] == two[1])
    return bool(one[1]) and one[1] == two[1]


def _read(answer: str, options: Sequence[str]) -> tuple[str, str] | None:
    """Letter and normalized text, either of which may be empty; None for nothing, and for what contradicts itself."""
    plain = _BEFORE.sub("", answer.strip().strip("*\"'` \n"))
    known = [_normalized(option) for option in options]
    whole = _normalized(plain)
    if whole in known and known.count(whole) == 1:
        return chr(ord("A") + known.index(whole)), whole
    found = _LETTER.match(plain)
    if not found:
        said = re.match(r"(yes|no)\s*[,.;]", plain, re.I)
        other = said and re.search(r"\b(?:yes|no)\b", plain[said.end() :], re.I)
        text = said[1].casefold() if said and not other and not known else whole
        return ("", text) if text else None
    letter, text = found[1].upper(), _normalized(found[2])
    if not known:
        return letter, text
    at = ord(letter) - ord("A")
    if at >= len(known) or (text and text != known[at]):
        return None
    return letter, known[at]


def _normalized(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text.casefold().replace("\u2212", "-"))
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    words = re.findall(r"[<>\u2264\u2265]?(?:(?<!\w)-)?\d+(?:[.,]\d+)*|[^\W\d_]+|[%+]", letters)
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def _without_letter(option: str) -> str:
    return re.sub(r"\A\s*\(?[A-J][.):]\s+", "", option).strip()


def _form(pair: Pair, options: Sequence[str]) -> str:
    if options:
        return "the letter of the right option with a period, then the option's text"
    if _normalized(pair.text) in ("yes", "no"):
        return "yes or no"
    return "a term or a few words, as short as the question allows"
