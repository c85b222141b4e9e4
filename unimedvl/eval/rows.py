"""Rows of a benchmark: what is asked, and the truth beside it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any, cast

from PIL import Image

from unimedvl.data.records import IMAGE_MARK, Family, ImageRef, Record
from unimedvl.data.sources import Source
from unimedvl.imaging import ReadImage
from unimedvl.infer.tasks import Call, InferSettings

_TASKS: dict[Family, str] = {
    "understanding": "vqa",
    "text": "vqa",
    "t2i": "t2i",
    "edit": "edit",
    "counterfactual": "counterfactual",
    "reconstruction": "reconstruct",
}
LETTERS = ascii_uppercase


@dataclass(frozen=True)
class Row:
    """One item. Images are read when they are asked for, for a benchmark may have a hundred thousand.

    Attributes:
        name: of the item, unlike all others of its benchmark.
        task: of :data:`unimedvl.infer.tasks.TASKS`.
        kind: what is asked, a category of the scores: ``modality``, ``super-resolution``, ``Organ``, ...
        prompt: the question or instruction; the task's own wording if empty.
        asked: the prompt in the wording in which the model is asked; the prompt itself if empty.
        truths: answers of which each is right; none where no text is wanted.
        options: of a multiple-choice question, A first; its only truth is the text of one of them.
        closed: a question with a fixed small set of answers, such as yes or no; None where the benchmark does not say.
        images: that are shown; ``wanted``: the one that should be made.
        root: folder of relative image paths.
    """

    name: str
    task: str
    kind: str = ""
    modality: str = ""
    prompt: str = ""
    truths: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    closed: bool | None = None
    images: tuple[ImageRef, ...] = ()
    wanted: ImageRef | None = None
    root: Path | None = None
    asked: str = ""

    @property
    def truth(self) -> str:
        """The first right answer; empty without one."""
        return self.truths[0] if self.truths else ""

    @property
    def inputs(self) -> tuple[Image.Image, ...]:
        """RGB images that are shown.

        Raises:
            RecordError: one is missing or damaged.
        """
        return tuple(image.read(self.root) for image in self.images)

    @property
    def target(self) -> Image.Image | None:
        """The RGB image that should be made.

        Raises:
            RecordError: it is missing or damaged.
        """
        return None if self.wanted is None else self.wanted.read(self.root)

    @property
    def listed(self) -> str:
        """The options, one a line, behind their letters."""
        return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, self.options, strict=False))

    def call(self, settings: InferSettings) -> Call:
        """The row as a person would ask for it."""
        shown = tuple(ReadImage(image, self.name, ()) for image in self.inputs)
        return Call(self.task, shown, self.asked or self.prompt or None, settings)

    def worded(self, wording: str) -> Row:
        """Asked in a wording: ``{question}``, and ``{options}`` one a line."""
        parts = {"{question}": self.prompt, "{options}": self.listed}
        return replace(self, asked=re.sub("|".join(parts), lambda found: parts[found[0]], wording))

    def digest(self, *, here: bool = False) -> str:
        """Of what is asked, shown and right, 16 hexadecimal digits; of image files the name and the size.

        Args:
            here: also of where the files lie and when they were changed, which differs between machines.
        """
        own = (self.name, self.task, self.asked or self.prompt, self.truths, self.options)
        images = [_digest(image, self.root, here) for image in (*self.images, self.wanted) if image is not None]
        return hashlib.sha256(repr((own, images)).encode()).hexdigest()[:16]


def _digest(image: ImageRef, root: Path | None, here: bool) -> tuple[Any, ...]:
    if image.data is not None:
        return (hashlib.sha256(image.data).hexdigest(),)
    path = image.location(root)
    try:
        found = path.stat()
    except OSError:  # a row without its file fails when it is asked
        return (image.path, None)
    return (str(path.resolve()), found.st_size, found.st_mtime_ns) if here else (image.path, found.st_size)


def target_of(row: Row) -> Image.Image:
    """The picture that should come out.

    Raises:
        RecordError: it cannot be read.
    """
    target = row.target
    assert target is not None, f"{row.name} has no target"
    return target


def read_rows(path: Path, limit: int | None = None) -> list[Row]:
    """The rows of a file of records, or ``limit`` of them, spread evenly.

    Raises:
        DataError: the file or one of its rows cannot be used.
    """
    source = Source(path.stem, [path])
    return [
        _row(f"{path.stem}-{number:05d}", source.record(number), source.root(number))
        for number in spread(len(source), limit)
    ]


def spread(count: int, limit: int | None) -> list[int]:
    """``limit`` of the numbers below ``count``, evenly; all of them without a limit."""
    kept = count if limit is None else min(count, limit)
    return [number * count // kept for number in range(kept)]


def _row(name: str, record: Record, root: Path) -> Row:
    said = {speaker: [turn.text for turn in record.turns if turn.speaker == speaker] for speaker in ("human", "gpt")}
    prompts: Sequence[str] = said["human"] or record.captions or ("",)
    return Row(
        name,
        _TASKS[cast(Family, record.family)],
        record.subtask,
        record.modality,
        prompts[0].replace(IMAGE_MARK, "").strip(),
        tuple(said["gpt"][:1]),
        images=record.inputs,
        wanted=record.outputs[0] if record.outputs else None,
        root=root,
    )
