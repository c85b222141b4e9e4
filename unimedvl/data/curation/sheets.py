"""Contact sheets of a corpus: random pairs of each modality and of each task."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from unimedvl.data.curation.coarse import said
from unimedvl.data.curation.counts import PairCounts
from unimedvl.data.curation.pairs import SPLITS, Pair
from unimedvl.errors import DataError
from unimedvl.files import aside
from unimedvl.imaging import read_image
from unimedvl.sheets import Entry, contact_sheet

FOLDER = "sheets"
_MOST = 30  # sheets of modalities, and as many of tasks
_SHOWN = 24  # pairs of a sheet
_SIDE = 160  # pixels of a picture
_PICTURES = 3  # of one pair
_TEXT = 400  # characters, more than there is room for
_MARGIN = "#e4e4e4"


@dataclass(frozen=True)
class Sheet:
    """What was drawn.

    Attributes:
        kind: ``modality`` or ``task``, and its ``name``.
        note: how many pairs are shown, of how many, and which were passed over.
        file: from the folder of the corpus; empty where no pair can be shown.
    """

    kind: str
    name: str
    note: str
    file: str


def write_sheets(folder: Path, counts: PairCounts, private: Collection[str]) -> list[Sheet]:
    """A sheet for each of the most frequent modalities and tasks; other ones of an earlier run are taken away.

    Args:
        folder: of the corpus.
        private: ids of pairs that must not be shown.
    """
    sheets: list[Sheet] = []
    for kind in ("modality", "task"):
        own = [(-count, name) for (of, name), count in counts.pictured.items() if of == kind]
        for count, name in sorted(own)[:_MOST]:
            entries, note = _entries(kind, counts.samples[kind, name], private, -count)
            file = _file(kind, name, [sheet.file for sheet in sheets]) if entries else ""
            if entries:
                with aside(folder / file) as part:
                    contact_sheet(_title(kind, name), entries, note).save(part)
            sheets.append(Sheet(kind, name, note, file))
    written = {sheet.file for sheet in sheets}
    for path in [*(folder / FOLDER).glob("modality-*.png"), *(folder / FOLDER).glob("task-*.png")]:
        if f"{FOLDER}/{path.name}" not in written:
            path.unlink()
    return sheets


def _entries(kind: str, sample: Sequence[Pair], private: Collection[str], count: int) -> tuple[list[Entry], str]:
    """What is shown of a sample, like next to like; and in words, how much of how many pairs that is."""
    shown: list[tuple[Pair, Entry]] = []
    passed: Counter[str] = Counter()
    for pair in sample:
        if len(shown) == _SHOWN:
            break
        if pair.id in private:
            passed["flagged for privacy"] += 1
            continue
        try:
            shown.append((pair, _entry(pair, kind)))
        except DataError:
            passed["whose image cannot be read"] += 1
    shown.sort(key=lambda each: _likeness(*each))
    told = ", ".join(f"{number:,} {why}" for why, number in sorted(passed.items()))
    note = f"{len(shown)} of {count:,} pairs"
    return [entry for _, entry in shown], f"{note}; passed over: {told}" if told else note


def _likeness(pair: Pair, entry: Entry) -> tuple[int, str, str, int, str]:
    split = pair.split or "train"
    place = SPLITS.index(split) if split in SPLITS else len(SPLITS)
    return len(entry.images), pair.family, pair.subtask, place, pair.id


def _entry(pair: Pair, kind: str) -> Entry:
    """Its pictures and words.

    Raises:
        DataError: an image cannot be read.
    """
    files = list(pair.images)
    shown = [*files[: _PICTURES - bool(pair.target)], *([pair.target] if pair.target else [])]
    left = len(files) + bool(pair.target) - len(shown)
    words = " ".join(_words(pair).split())[:_TEXT]
    what = pair.modality if kind == "task" else pair.subtask or pair.family
    label = ", ".join(filter(None, (pair.split or "train", what)))
    more = f"({left} more images) " if left else ""
    return Entry(tuple(_picture(file) for file in shown), f"{more}{words}", label)


def _words(pair: Pair) -> str:
    turns = pair.more.get("turns")
    return " ".join(text for _, text in turns) if turns else said(pair)


def _picture(file: str) -> Image.Image:
    return ImageOps.pad(read_image(file).image, (_SIDE, _SIDE), Image.Resampling.BICUBIC, color=_MARGIN)


def _title(kind: str, name: str) -> str:
    return f"{kind} {' '.join(name.split())[:60] or 'not told'}"


def _file(kind: str, name: str, taken: Sequence[str]) -> str:
    """A plain name, unlike those of other sheets."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:60] or "not-told"
    names = (f"{FOLDER}/{kind}-{plain}{number}.png" for number in ("", *(f"-{n}" for n in range(2, len(taken) + 3))))
    lower = {file.lower() for file in taken}  # some file systems do not tell them apart
    return next(file for file in names if file.lower() not in lower)
