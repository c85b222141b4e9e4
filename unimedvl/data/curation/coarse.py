"""The coarse filter: what no later stage need look at. Sides, lengths of texts, pictures without content."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.pairs import Pair
from unimedvl.data.records import IMAGE_MARK
from unimedvl.errors import ConfigError, DataError
from unimedvl.imaging import ReadImage, read_image

STAGE = "coarse"
_THUMBNAIL = 256  # pixels of the longer side on which contrast is judged
Fault = tuple[str, str, "float | None"]
"""Reason, detail and score of a decision."""

_HEADED = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif")


@dataclass(frozen=True)
class CoarseSettings:
    """Bounds of what may stay (paper, A.3; aspect and contrast are ours).

    Attributes:
        min_side: pixels of the shorter side of every image of a pair.
        min_characters, max_characters: of the text, with the question before it where there is one; of a dialogue, the
            most that one question has with its answer.
        max_aspect: longer side by shorter side.
        min_contrast: standard deviation of the gray values, 0 to 255; below it an image counts as plain.
    """

    min_side: int = 128
    min_characters: int = 10
    max_characters: int = 1024
    max_aspect: float = 8.0
    min_contrast: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_characters <= self.max_characters:
            problem = f"texts of {self.min_characters} to {self.max_characters} characters"
            raise ConfigError(problem, where="coarse", remedy="give a range")
        for name, lowest in (("min_side", 1), ("max_aspect", 1), ("min_contrast", 0)):
            if not getattr(self, name) >= lowest:
                raise ConfigError(f"{name} is {getattr(self, name)}", where="coarse", remedy=f"give {lowest} or more")


def coarse(pairs: Sequence[Pair], settings: CoarseSettings | None = None) -> list[Decision]:
    """A ``drop`` for each pair that has a fault, its first one; pairs without are not named.

    Texts are judged before any file is opened, and sides by the header where the format has one. An image that several
    of the pairs have is looked at once.
    """
    settings = settings or CoarseSettings()

    @cache
    def image_fault(file: str, *, mask: bool) -> Fault | None:
        return _image_fault(file, settings, mask=mask)

    decisions: list[Decision] = []
    for pair in pairs:
        if fault := next(filter(None, chain([_text_fault(pair, settings)], _of_images(pair, image_fault))), None):
            decisions.append(Decision(pair.id, STAGE, "drop", *fault))
    return decisions


def said(pair: Pair) -> str:
    """Question and text together, which are judged as one: an answer alone may well be "Yes"."""
    return " ".join(part for part in (pair.question.strip(), pair.text.strip()) if part)


def turns_of(pair: Pair) -> list[tuple[str, str]]:
    """All that is said, as (speaker, text) without marks of images: of dialogues every turn, empty ones as well.

    Of other pairs what there is of question (``human``) and text (``gpt``).
    """
    told = pair.more.get("turns") or [turn for turn in (("human", pair.question), ("gpt", pair.text)) if turn[1]]
    return [(speaker, text.replace(IMAGE_MARK, "").strip()) for speaker, text in told]


def _of_images(pair: Pair, look: Callable[..., Fault | None]) -> Iterator[Fault | None]:
    for file in _files(pair):
        # A mask may be empty: nothing of the kind is in the picture.
        yield look(file, mask=pair.subtask == "segmentation" and file == pair.target)


def _files(pair: Pair) -> list[str]:
    return list(dict.fromkeys(file for file in (*pair.images, pair.target) if file))


def _text_fault(pair: Pair, settings: CoarseSettings) -> Fault | None:
    turns = turns_of(pair)
    length = max(map(len, _rounds(turns)), default=0)
    if pair.target and pair.family != "t2i" and not length:
        return None  # templates write the texts of image pairs later
    if pair.family in ("understanding", "text") and (missed := _unanswered(turns)):
        return "no answer", missed, None
    if length < settings.min_characters:
        return "text too short", f"{length} characters, under {settings.min_characters}", float(length)
    if length > settings.max_characters:
        return "text too long", f"{length} characters, over {settings.max_characters}", float(length)
    return None


def _rounds(turns: Sequence[tuple[str, str]]) -> list[str]:
    """Each question with what is said until the next one."""
    rounds: list[list[str]] = []
    for speaker, text in turns:
        if speaker == "human" or not rounds:
            rounds.append([])
        rounds[-1].append(text)
    return [" ".join(filter(None, texts)) for texts in rounds]


def _unanswered(turns: Sequence[tuple[str, str]]) -> str:
    """Where an answer to learn from is missing, in words; empty if all questions have one, or nothing is asked."""
    open_at = 0
    for number, (speaker, text) in enumerate(turns, 1):
        if speaker == "human":
            open_at = open_at or (number if text else 0)
        elif text:
            open_at = 0
        else:
            return f"turn {number} is empty"
    return f"to turn {open_at}" if open_at else ""


def _image_fault(file: str, settings: CoarseSettings, *, mask: bool) -> Fault | None:
    size = _headed_size(file)
    fault = None if size is None else _size_fault(file, size, settings)
    if fault is not None:
        return fault
    try:
        read: ReadImage = read_image(file)
    except DataError as error:
        return "unreadable image", str(error), None
    fault = _size_fault(file, read.image.size, settings) if size is None else None
    contrast = contrast_of(read.image)
    if fault is None and contrast < settings.min_contrast and not mask:
        detail = f"{file}: gray values deviate by {contrast:.2f}, under {settings.min_contrast:g}"
        return "plain image", detail, contrast
    return fault


def _headed_size(file: str) -> tuple[int, int] | None:
    """(width, height) by the header alone; None where only reading the whole file tells."""
    if not file.lower().endswith(_HEADED):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # read_image refuses it
            with Image.open(Path(file)) as image:
                return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None  # read_image says what is wrong


def _size_fault(file: str, size: tuple[int, int], settings: CoarseSettings) -> Fault | None:
    short, long = sorted(size)
    shown = f"{file}: {size[0]} x {size[1]} pixels"
    if short < settings.min_side:
        return "image too small", f"{shown}, the shorter side under {settings.min_side}", float(short)
    if long > settings.max_aspect * short:
        return "image too narrow", f"{shown}, longer than {settings.max_aspect:g} to 1", long / short
    return None


def contrast_of(image: Image.Image) -> float:
    """Standard deviation of the gray values of an image, 0 to 127.5, at 256 pixels a side at most."""
    small = image.convert("L")
    small.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    return float(np.asarray(small, np.float32).std())
