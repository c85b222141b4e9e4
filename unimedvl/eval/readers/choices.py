"""Options of a multiple-choice question, and which of them an answer names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from unimedvl.eval.readers.tables import Entry
from unimedvl.eval.rows import LETTERS

Naming = Callable[[str, Sequence[str]], "str | None"]


def options_of(texts: Sequence[str], entry: Entry) -> tuple[str, ...]:
    """The texts behind A, B, ... without empty ones at the end; none where all are empty.

    Raises:
        DataError: one in between is empty, there is only one, or there are more than letters.
    """
    count = max((number for number, text in enumerate(texts, 1) if text), default=0)
    kept = tuple(texts[:count])
    if count > len(LETTERS):
        raise entry.fault(f"{count} options, but {len(LETTERS)} letters")
    if not all(kept):
        raise entry.fault(f"option {LETTERS[kept.index('')]} is empty, but option {LETTERS[count - 1]} is not")
    if count == 1:
        raise entry.fault(f"only one option, {kept[0]!r}")
    return kept


def lettered(values: Mapping[str, str], entry: Entry) -> tuple[str, ...]:
    """:func:`options_of` texts by their letters.

    Raises:
        DataError: as there, or a key is no letter.
    """
    if wrong := [key for key in values if key not in LETTERS or len(key) != 1]:
        raise entry.fault(f"an option is called {wrong[0]!r}", "call them A, B, C, ...")
    return options_of([values.get(letter, "") for letter in LETTERS], entry)


def by_text(answer: str, options: Sequence[str]) -> str | None:
    """The option that says the same; else the only one that does apart from case, spaces and a last period."""
    if answer in options:
        return answer
    alike = [option for option in options if _plain(option) == _plain(answer)]
    return alike[0] if len(alike) == 1 else None


def by_letter(answer: str, options: Sequence[str]) -> str | None:
    """The option behind a capital letter."""
    place = LETTERS.find(answer) if len(answer) == 1 else -1
    return options[place] if 0 <= place < len(options) else None


def chosen(answer: str, options: Sequence[str], entry: Entry, ways: Sequence[Naming]) -> str:
    """The text of the option that the answer names, in the first of the ways that finds one.

    Raises:
        DataError: none does.
    """
    for way in ways:
        if (option := way(answer, options)) is not None:
            return option
    if by_letter in ways and len(answer) == 1 and answer in LETTERS:
        raise entry.fault(f"the answer is {answer}, but the options end at {LETTERS[len(options) - 1]}")
    raise entry.fault(f"the answer {answer!r} is none of the options {', '.join(map(repr, options))}")


def yes_or_no(answer: str) -> bool:
    """Whether an answer is yes or no and nothing else."""
    return _plain(answer) in ("yes", "no")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()
