"""The guard of privacy: texts and pixels that may say who a patient is are flagged for a person to look at.

Flags name the kind and the place of what was found, never its words: the record of decisions must not leak it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Literal, get_args

from PIL import Image

from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.glyphs import longest_line
from unimedvl.data.curation.pairs import Pair
from unimedvl.data.curation.personal import PATTERNS, found_in, kind_of_fact
from unimedvl.data.records import IMAGE_MARK
from unimedvl.errors import ConfigError, DataError
from unimedvl.imaging import read_image

__all__ = ["PATTERNS", "STAGE", "PixelCheck", "PrivacySettings", "found_in", "privacy"]

STAGE = "privacy"
PixelCheck = Literal["glyphs", "tesseract", "none"]


@dataclass(frozen=True)
class PrivacySettings:
    """What is looked for.

    Attributes:
        pixels: check for text burned into images by the shapes of glyphs, by tesseract, or not at all.
        min_glyphs: in one line, of either check, that make a finding.
    """

    pixels: PixelCheck = "glyphs"
    min_glyphs: int = 4

    def __post_init__(self) -> None:
        if self.pixels not in get_args(PixelCheck):
            remedy = f"use one of {', '.join(get_args(PixelCheck))}"
            raise ConfigError(f"pixels is {self.pixels!r}", where=STAGE, remedy=remedy)
        if self.min_glyphs < 2:
            raise ConfigError(f"min_glyphs is {self.min_glyphs}", where=STAGE, remedy="give 2 or more")


def privacy(pairs: Sequence[Pair], settings: PrivacySettings | None = None) -> list[Decision]:
    """A ``flag`` for each kind of finding in the texts and images of pairs, in their order."""
    settings = settings or PrivacySettings()
    look = {"glyphs": longest_line, "tesseract": partial(_ocr_line), "none": None}[settings.pixels]
    seen: dict[str, int | DataError] = {}
    return [
        decision
        for pair in pairs
        for decision in (*_in_texts(pair), *(_in_images(pair, look, settings.min_glyphs, seen) if look else ()))
    ]


def _in_texts(pair: Pair) -> Iterator[Decision]:
    """Of its question, its text, further turns and what else the source told in words."""
    for kind, places, name in chain(_in_words(pair), _in_facts(pair.more)):
        yield Decision(pair.id, STAGE, "flag", kind, f"{places} of {name}" if places else name)


def _in_words(pair: Pair) -> Iterator[tuple[str, str, str]]:
    said = [("its question", pair.question), ("its text", pair.text)]
    known = {pair.question.strip(), pair.text.strip()}
    told: Sequence[Sequence[str]] = pair.more.get("turns") or []
    turns = [(f"turn {number}", text) for number, (_, text) in enumerate(told, 1)]
    said += [(name, text) for name, text in turns if text.replace(IMAGE_MARK, "").strip() not in known]
    for name, text in said:
        for kind, spans in found_in(text).items():
            yield f"{kind} in text", _places(spans), name


def _in_facts(more: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Kinds, places and names; the last names what was found by the name of the fact itself."""
    for name, value in more.items():
        if name == "turns":
            continue
        told = [text for text in _plain(value) if text]
        if kind := kind_of_fact(name, told):
            yield f"{kind} in facts", "", f"fact {name!r}"
        else:
            for text in told:
                for kind, spans in found_in(text).items():
                    if " " in text or kind != "record number":  # a number alone tells images apart in any data set
                        yield f"{kind} in facts", _places(spans), f"fact {name!r}"
        for within in value if isinstance(value, list | tuple) else (value,):
            if isinstance(within, Mapping):
                yield from _in_facts({f"{name}.{inner}": each for inner, each in within.items()})


def _plain(value: Any) -> Iterator[str]:
    """Texts and numbers of a fact, but for those with names of their own."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value).strip()
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _plain(each)


def _places(spans: Sequence[tuple[int, int]]) -> str:
    return "characters " + ", ".join(f"{first} to {last}" for first, last in spans)


def _in_images(
    pair: Pair, look: Callable[[Image.Image], int], min_glyphs: int, seen: dict[str, int | DataError]
) -> Iterator[Decision]:
    target = "" if pair.subtask == "segmentation" else pair.target  # the small parts of a mask are no letters
    for file in dict.fromkeys(file for file in (*pair.images, target) if file):
        if file not in seen:
            try:
                seen[file] = look(read_image(file).image)
            except DataError as error:
                seen[file] = error
        found = seen[file]
        if isinstance(found, DataError):
            yield Decision(pair.id, STAGE, "flag", "unreadable image", str(found))
        elif found >= min_glyphs:
            detail = f"{file}: a line of {found} glyphs"
            yield Decision(pair.id, STAGE, "flag", "burned-in text", detail, float(found))


def _ocr_line(image: Image.Image) -> int:
    """Letters and digits of the longest line that tesseract reads with confidence."""
    try:
        import pytesseract  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        remedy = "pip install pytesseract, install the program tesseract, or set pixels=glyphs"
        raise ConfigError("the check by tesseract needs pytesseract", where=STAGE, remedy=remedy) from error
    data = pytesseract.image_to_data(image, output_type=pytesseract.Output.DICT)
    lines: dict[tuple[int, int, int], int] = {}
    rows = zip(data["block_num"], data["par_num"], data["line_num"], data["conf"], data["text"], strict=True)
    for block, paragraph, number, confidence, text in rows:
        if float(confidence) >= 60:
            key = (block, paragraph, number)
            lines[key] = lines.get(key, 0) + sum(sign.isalnum() for sign in text)
    return max(lines.values(), default=0)
