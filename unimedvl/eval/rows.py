"""Rows of a benchmark: what is asked, and the truth beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from PIL import Image

from unimedvl.data.records import IMAGE_MARK, Family, Record
from unimedvl.data.sources import Source
from unimedvl.imaging import ReadImage
from unimedvl.infer.tasks import Call, InferSettings

_TASKS: dict[Family, str] = {
    "understanding": "vqa",
    "text": "vqa",
    "t2i": "t2i",
    "edit": "edit",
    "counterfactual": "counterfactual",
}


@dataclass(frozen=True)
class Row:
    """One item.

    Attributes:
        name: of the item, unlike all others of its file.
        kind: what is asked: ``modality``, ``caption``, ``super-resolution``, ...
        inputs: RGB images that are shown; ``target``: the one that should be made.
        truth: the answer that should come, empty where none is wanted.
    """

    name: str
    task: str
    kind: str
    modality: str
    prompt: str
    truth: str
    inputs: tuple[Image.Image, ...] = ()
    target: Image.Image | None = None

    def call(self, settings: InferSettings) -> Call:
        """The row as a person would ask for it."""
        return Call(self.task, tuple(ReadImage(image, self.name, ()) for image in self.inputs), self.prompt, settings)


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
    prompts: Sequence[str] = said["human"] or record.captions
    target = record.outputs[0].read(root) if record.outputs else None
    return Row(
        name,
        _TASKS[cast(Family, record.family)],
        record.subtask,
        record.modality,
        prompts[0].replace(IMAGE_MARK, "").strip(),
        said["gpt"][0] if said["gpt"] else "",
        tuple(ref.read(root) for ref in record.inputs),
        target,
    )
