"""What data files hold: counts by kind, and how long, large and costly their samples are."""

from __future__ import annotations

import io
import math
import warnings
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from unimedvl.data.figures import short
from unimedvl.data.records import IMAGE_MARK, ImageRef, Record, Turn
from unimedvl.data.sources import Source
from unimedvl.data.tasks import TASKS, Maker, TrainTransforms
from unimedvl.data.validate import Report, SizeCache, examined, in_chunks, rows_of
from unimedvl.geometry import resize_size
from unimedvl.processor import ImageTransform, TextCodec

KINDS = ("family", "subtask", "modality", "dataset")
NONE = "(none)"
ESTIMATED = "tokens per sample (estimate)"
COUNTED = "tokens per sample"
MEASURES = (
    *(f"{speaker} text, {unit}" for unit in ("characters", "tokens") for speaker in ("human", "gpt")),
    "image width, pixels",
    "image height, pixels",
    ESTIMATED,
    COUNTED,
)
_LETTERS_PER_TOKEN = 4  # where there is no tokenizer
_ROWS_SHOWN = 15


@dataclass
class Stats:
    """Counts and measures of the good rows.

    Attributes:
        counts: rows by family, subtask, modality and dataset.
        measures: what was measured, as it is called in the table, with all its values.
        report: the rows, and those that could not be used.
    """

    counts: dict[str, Counter[str]] = field(default_factory=lambda: {kind: Counter() for kind in KINDS})
    measures: dict[str, array[int]] = field(default_factory=dict)
    report: Report = field(default_factory=Report)

    def add(self, other: Stats) -> None:
        """Add what other rows hold."""
        self.report.add(other.report)
        for kind, counts in other.counts.items():
            self.counts[kind].update(counts)
        merged = {name: self.measures.get(name, array("q")) for name in MEASURES}
        for name, values in other.measures.items():
            merged[name].extend(values)
        self.measures = {name: values for name, values in merged.items() if values}

    def values(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "rows": self.report.values(),
            "counts": {kind: dict(_ranked(self.counts[kind])) for kind in KINDS},
            "distributions": {name: summary(values) for name, values in self.measures.items()},
        }

    def __str__(self) -> str:
        parts = [str(self.report), *(_count_table(kind, self.counts[kind]) for kind in KINDS if self.report.good)]
        return "\n\n".join([*parts, _measure_table(self.measures)] if self.measures else parts)


def summary(values: Sequence[int]) -> dict[str, float]:
    """``n``, ``min``, ``median``, ``mean``, ``p95`` and ``max`` of at least one number."""
    numbers = np.asarray(values)
    median, p95 = (float(each) for each in np.percentile(numbers, (50, 95)))
    least, most, mean = int(numbers.min()), int(numbers.max()), float(numbers.mean())
    return {"n": len(numbers), "min": least, "median": median, "mean": mean, "p95": p95, "max": most}


def collect(
    source: Source,
    transforms: TrainTransforms | None = None,
    codec: TextCodec | None = None,
    *,
    jobs: int = 1,
    limit: int | None = None,
    quiet: bool = False,
) -> Stats:
    """Measure every row, or the first ``limit``; rows that cannot be used are counted and passed over.

    Of images only the headers are read where that tells their size, so damage further on is not seen.

    Args:
        transforms: how images reach the model; as in training by default.
        codec: counts the tokens of texts; without it they are estimated from the characters.

    Raises:
        DataError, ConfigError: as :func:`unimedvl.data.validate.in_chunks`.
    """
    stats = Stats()
    measurer = _Measurer(source, transforms or TrainTransforms(), codec)
    for found in in_chunks(measurer, rows_of(source, limit), jobs=jobs, quiet=quiet):
        stats.add(found)
    return stats


def image_size(ref: ImageRef, root: Path) -> tuple[int, int]:
    """(width, height) of the upright image, from its header where Pillow can.

    Raises:
        RecordError: the image is missing, too large, or its header damaged.
    """
    try:
        with io.BytesIO(ref.data) if ref.data is not None else ref.location(root).open("rb") as file:
            size = _header_size(file)
    except Exception:  # Pillow's parsers raise anything
        size = None
    # The reader of all formats knows the size, or says what is wrong.
    return size or ref.read(root).size


def _header_size(file: IO[bytes]) -> tuple[int, int] | None:
    """(width, height) by Pillow, which raises what it does; nothing of DICOM and of images that lie on their side."""
    if file.read(132)[128:] == b"DICM":  # some are TIFF as well
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file) as image:
            # Pillow would decode the whole of a PNG to look for EXIF at its end.
            headed = image.format != "PNG" or "exif" in image.info
            turned = headed and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return None if turned else image.size


class _Measurer:
    """Measures some rows of a source."""

    def __init__(self, source: Source, transforms: TrainTransforms, codec: TextCodec | None) -> None:
        self._source, self._transforms, self._codec = source, transforms, codec
        self._size = SizeCache(image_size)

    def __call__(self, rows: range) -> Stats:
        stats = Stats(report=Report(rows=len(rows)))
        for row in rows:
            if (found := examined(self._source, row, self._size, stats.report)) is not None:
                self._measure(*found, stats)
        return stats

    def _measure(self, record: Record, sizes: Mapping[ImageRef, tuple[int, int]], stats: Stats) -> None:
        for kind in KINDS:
            stats.counts[kind][getattr(record, kind) or NONE] += 1
        measured = self._texts(record)
        for ref in record.inputs + record.outputs:
            measured += zip(("image width, pixels", "image height, pixels"), sizes[ref], strict=True)
        name = ESTIMATED if self._codec is None else COUNTED
        measured.append((name, tokens_of(record, sizes, self._transforms, self._codec)))
        for name, value in measured:
            stats.measures.setdefault(name, array("q")).append(value)

    def _texts(self, record: Record) -> list[tuple[str, int]]:
        """Lengths of all texts, marks of images left out; every alternative caption is a human text."""
        turns = record.turns + tuple(Turn("human", caption) for caption in record.captions)
        texts = [(turn.speaker, turn.text.replace(IMAGE_MARK, "").strip()) for turn in turns]
        lengths = [(f"{speaker} text, characters", len(text)) for speaker, text in texts]
        if self._codec is not None:
            lengths += [(f"{speaker} text, tokens", len(self._codec.encode(text))) for speaker, text in texts]
        return lengths


def tokens_of(
    record: Record, sizes: Mapping[ImageRef, tuple[int, int]], transforms: TrainTransforms, codec: TextCodec | None
) -> int:
    """Tokens of a record in the packed sequence, nothing dropped; of alternative captions, with the longest.

    Args:
        sizes: (width, height) of its images.
        codec: without it, the tokens of texts are estimated from their characters.
    """
    if record.captions:
        longest = max(record.captions, key=len)
        record = replace(record, turns=(Turn("human", longest),), captions=())
    counter = _Counter(sizes, transforms, codec)
    TASKS[record.family](record, counter)
    return counter.tokens


class _Counter(Maker):
    """Counts the tokens of the pieces of a record where :class:`unimedvl.data.tasks._Maker` would make them."""

    def __init__(
        self, sizes: Mapping[ImageRef, tuple[int, int]], transforms: TrainTransforms, codec: TextCodec | None
    ) -> None:
        self.transforms, self.drop_edits, self.tokens = transforms, False, 0
        self._sizes, self._codec = sizes, codec

    def text(self, text: str, *, loss: bool = False, droppable: bool = False) -> None:
        """Count a text between bos and eos."""
        text = text.replace(IMAGE_MARK, "").strip()
        if text:
            estimate = math.ceil(len(text) / _LETTERS_PER_TOKEN)
            self.tokens += 2 + (estimate if self._codec is None else len(self._codec.encode(text)))

    def vit(self, ref: ImageRef, *, share: int = 1, droppable: bool = False, changed: bool = False) -> None:
        """Count the patches and two markers."""
        limit = self.transforms.vit.max_pixels // share
        self._image(ref, replace(self.transforms.vit, max_pixels=limit))

    def vae(self, ref: ImageRef, *, target: bool, droppable: bool = False) -> None:
        """Count the patches and two markers."""
        self._image(ref, self.transforms.vae)

    def _image(self, ref: ImageRef, transform: ImageTransform) -> None:
        stride = transform.stride
        size = resize_size(*self._sizes[ref], transform.max_side, transform.min_side, stride, transform.max_pixels)
        self.tokens += (size[0] // stride) * (size[1] // stride) + 2


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def few(counts: Counter[str], shown: int) -> list[tuple[str, int]]:
    """The most frequent, and all others as one."""
    ranked = _ranked(counts)
    if len(ranked) <= shown:
        return ranked
    rest = ranked[shown - 1 :]
    return [*ranked[: shown - 1], (f"({len(rest)} others)", sum(count for _, count in rest))]


def _count_table(kind: str, counts: Counter[str]) -> str:
    total = counts.total()
    rows = [(short(name), f"{count:,}", f"{100 * count / total:.1f}%") for name, count in few(counts, _ROWS_SHOWN)]
    return _aligned([(kind, "rows", "share"), *rows])


def _measure_table(measures: Mapping[str, Sequence[int]]) -> str:
    rows = [("", "n", "min", "median", "mean", "p95", "max")]
    for name, values in measures.items():
        n, least, median, mean, p95, most = summary(values).values()
        rows.append((name, f"{n:,}", f"{least:,}", f"{median:,.0f}", f"{mean:,.1f}", f"{p95:,.0f}", f"{most:,}"))
    return _aligned(rows)


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns under a line of headings: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
