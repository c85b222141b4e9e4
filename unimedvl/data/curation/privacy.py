"""The guard of privacy: texts and pixels that may say who a patient is are flagged for a person to look at.

Flags name the kind and the place of what was found, never its words: the record of decisions must not leak it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from PIL import Image

from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.glyphs import longest_line
from unimedvl.data.curation.pairs import Pair
from unimedvl.errors import ConfigError, DataError
from unimedvl.imaging import read_image

STAGE = "privacy"
PixelCheck = Literal["glyphs", "tesseract", "none"]

_MONTH = r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
_MONTH += r"|Nov(?:ember)?|Dec(?:ember)?)\.?"
_DAY, _MONTH_NUMBER, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:19|20)\d\d"
_NAME = r"[A-Z][a-z]+(?:[-'][A-Z][a-z]+)?"
_STREET = r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Square|Court|Place)"

# What HIPAA's safe harbor lists and a text of an image may hold; a year alone may stay.
PATTERNS: dict[str, re.Pattern[str]] = {
    "email": re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    "date": re.compile(
        rf"(?<![\d./-]){_YEAR}([-/.]){_MONTH_NUMBER}\1{_DAY}(?![\d/]|-\d)"
        rf"|(?<![\d./-])(?:{_DAY}([-/.]){_MONTH_NUMBER}|{_MONTH_NUMBER}([-/.]){_DAY})(?:\2|\3){_YEAR}(?![\d/]|-\d)"
        rf"|(?<![\d./-])(?:{_DAY}/{_MONTH_NUMBER}|{_MONTH_NUMBER}/{_DAY})/\d\d(?![\d/]|-\d)"
        rf"|\b{_DAY}(?:st|nd|rd|th)?(?: of)?[ -]{_MONTH},?[ -]{_YEAR}\b"
        rf"|\b{_MONTH} (?:{_DAY}(?:st|nd|rd|th)?,? )?{_YEAR}\b"
    ),
    "record number": re.compile(
        r"(?i:\b(?:MRN|medical record(?: number)?|accession|patient id|hospital (?:number|no)|NHS (?:number|no)"
        r"|case (?:number|no)|SSN))\b\.?\s*(?i:number|no\.?|#)?\s*[:#]?\s*[A-Z]{0,4}[-]?\d[\d-]{2,}"
        r"|\b\d{3}-\d{2}-\d{4}\b|(?<![\d.])\d{7,}(?![\d.]*\d)"
    ),
    "phone": re.compile(
        r"(?i:\b(?:tel|phone|telephone|fax|mobile))\b\.?\s*:?\s*\+?[\d(][\d() .-]{5,}\d"
        r"|(?<![\w.])(?:\+\d{1,3}[ .-]?)?\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?!\d)"
        r"|(?<![\w.])\+\d{1,3}(?:[ .-]?\d{2,4}){3,5}(?!\d)"
    ),
    "age over 89": re.compile(
        r"(?i)\b(?:9\d|1[0-2]\d)[ -]?(?:years?|yrs?|y)\.?[ -]?(?:old|of age|o\b)|\b(?:9\d|1[0-2]\d) ?y/?o\b"
        r"|\bage[d]?\s*:?\s*(?:of )?(?:9\d|1[0-2]\d)\b(?! ?(?:%|mm|cm|days|weeks|months))"
    ),
    "address": re.compile(rf"\b\d{{1,5}}[A-Za-z]? (?:{_NAME} ){{1,3}}{_STREET}\b|\b[A-Z]{{2}} \d{{5}}(?:-\d{{4}})?\b"),
    "name": re.compile(
        rf"\b(?:Dr|Mr|Mrs|Ms|Prof|Professor|Miss)\b\.? {{1,2}}(?:[A-Z]\. ?)?{_NAME}"
        rf"|\b(?i:patient(?:'s)? name|name|referring physician|physician|radiologist)\s*:\s*{_NAME}"
        rf"|\b(?:Mr|Mrs|Ms|Dr)\b\.? [A-Z]{{2,}}\b|\b(?i:signed|reported|dictated) by:? {_NAME},? {_NAME}"
    ),
}


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


def found_in(text: str) -> dict[str, list[tuple[int, int]]]:
    """Kinds of personal facts in a text, and where each begins and ends."""
    found = {kind: [match.span() for match in pattern.finditer(text)] for kind, pattern in PATTERNS.items()}
    return {kind: spans for kind, spans in found.items() if spans}


def _in_texts(pair: Pair) -> Iterator[Decision]:
    for name in ("question", "text"):
        for kind, spans in found_in(getattr(pair, name)).items():
            places = ", ".join(f"{first} to {last}" for first, last in spans)
            yield Decision(pair.id, STAGE, "flag", f"{kind} in text", f"characters {places} of its {name}")


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
