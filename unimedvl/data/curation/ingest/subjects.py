"""Slices of the volumes of one subject, alone or as pairs of two contrasts; the reader of NIfTI files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from unimedvl.data.curation.ingest.files import files_under, save_once
from unimedvl.data.curation.ingest.settings import Reader, ReaderSettings, Skipped, one_image
from unimedvl.data.curation.ingest.volumes import (
    PLANES,
    VOLUMES,
    Render,
    Volume,
    cut,
    filled,
    opened,
    render,
    render_labels,
    slice_numbers,
)
from unimedvl.data.curation.pairs import Pair, pair_id
from unimedvl.errors import ConfigError, DataError

VOLUME_SETTINGS = ("images_out", "axes", "step", "spacing", "window", "percentiles", "least_filled")


@dataclass(frozen=True)
class Subject:
    """What belongs together.

    Attributes:
        name: that the source has for it, of one visit where there are several (``more`` then names the ``subject``).
        files: volumes by contrast.
        modality: of each contrast, where it is not the one of the pair.
        spoken: how sentences name each contrast, such as "T1-weighted MRI"; of masks what they mark.
        windows: of contrasts that have a scale of their own, such as Hounsfield units; the others use percentiles.
        labels: highest class number of contrasts that are class numbers.
        regions: those of these numbers that are drawn white, all others black; else they are drawn as grays.
        split: where the source says it.
        more: facts for :attr:`Pair.more`.
        told: what it is called in what is kept of things left out, where its name may be a patient's.
    """

    name: str
    files: Mapping[str, Path]
    modality: Mapping[str, str] = field(default_factory=dict)
    spoken: Mapping[str, str] = field(default_factory=dict)
    windows: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    split: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    told: str = ""

    @property
    def place(self) -> str:
        """Where something was left out, for the record."""
        return self.told or self.name


def contrasts_of(
    settings: ReaderSettings, known: tuple[str, ...], masks: Collection[str] = ()
) -> list[tuple[str, ...]]:
    """What the setting asks for: one contrast, or the one to show and the one to make.

    Args:
        masks: further ones, of which no image can be made.

    Raises:
        ConfigError: a contrast is unknown, there are more than two, or the one to show is a mask.
    """
    found = [tuple(words.split("-")) for words in settings.contrasts]
    for names in found:
        if len(names) == 2 and names[0] in masks:
            remedy = "give the image first and the mask second"
            raise ConfigError(f"contrasts {'-'.join(names)!r} begin with a mask", where="reader", remedy=remedy)
        if len(names) > 2 or not set(names) <= {*known, *masks} or len(set(names)) < len(names):
            remedy = f"give one of {', '.join((*known, *masks))}, or two of them as a-b"
            raise ConfigError(f"contrasts {'-'.join(names)!r}", where="reader", remedy=remedy)
    return found


def read_subject(
    subject: Subject, wanted: list[tuple[str, ...]], settings: ReaderSettings, skipped: Skipped
) -> Iterator[Pair]:
    """The slices of a subject, with its contrasts as ``wanted``.

    Raises:
        DataError: a volume is absent or damaged, or two do not lie on one grid, and are not to be skipped.
    """
    with ExitStack() as stack:
        cuts = _Cuts(subject, settings, stack)
        for names in wanted:
            if absent := [name for name in names if name not in subject.files]:
                remedy = "add it, or choose other contrasts"
                skipped.missing(settings, f"no volume {absent[0]}", subject.name, remedy, subject.place)
                continue
            try:
                yield from _slices(cuts, names, settings, skipped)
            except DataError as error:
                skipped.failed(settings, error, subject.place)


class _Cuts:
    """Slices of one subject's volumes; each volume is opened once, and each slice drawn and written once."""

    def __init__(self, subject: Subject, settings: ReaderSettings, stack: ExitStack) -> None:
        self.subject = subject
        self._settings = settings
        self._stack = stack
        self._folder = settings.out() / pair_id(settings.source, subject.name)
        self._opened: dict[str, tuple[Volume, Render]] = {}
        self._done: dict[tuple[str, str], _Slice] = {}

    def volume(self, name: str) -> Volume:
        """The volume of a contrast."""
        return self._open(name)[0]

    def slice(self, name: str, axis: int, index: int, least: float) -> _Slice | None:
        """A slice, or nothing if it is filled less than ``least`` or has no values."""
        place = _place(axis, index)
        if (name, place) not in self._done:
            volume, draw = self._open(name)
            read = cut(volume, axis, index, draw, labels=name in self.subject.labels)
            if read is None or (share := filled(read.image)) < least:
                return None
            file = self._folder / f"{name}-{place}.png"
            save_once(read.image, file)
            self._done[name, place] = _Slice(str(file), read.steps, share)
        found = self._done[name, place]
        return found if found.share >= least else None

    def _open(self, name: str) -> tuple[Volume, Render]:
        if name not in self._opened:
            volume = self._stack.enter_context(opened(self.subject.files[name]))
            if name in self.subject.labels:
                draw = render_labels(volume, self.subject.labels[name], self.subject.regions.get(name, ()))
            else:
                draw = render(volume, self._settings, self.subject.windows.get(name))
            self._opened[name] = volume, draw
        return self._opened[name]


@dataclass(frozen=True)
class _Slice:
    """A slice as a file; ``share`` of its pixels is not nearly black."""

    file: str
    steps: tuple[str, ...]
    share: float


def _place(axis: int, index: int) -> str:
    return f"{PLANES[axis]}-{index:04d}"


def _slices(cuts: _Cuts, names: tuple[str, ...], settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
    volumes = [cuts.volume(name) for name in names]
    _check_grids(volumes)
    for axis in settings.axes:
        for index in slice_numbers(volumes[0].shape[axis], volumes[0].spacing[axis], settings):
            # Only what is shown must be filled: of what is to be made, nothing may be the right answer.
            first = cuts.slice(names[0], axis, index, settings.least_filled)
            rest = [cuts.slice(name, axis, index, 0) for name in names[1:]] if first else []
            shown = [each for each in (first, *rest) if each]
            place = _place(axis, index)
            if len(shown) < len(names):
                skipped.add("a slice with too little in it", f"{cuts.subject.place}, {'-'.join(names)}, {place}")
            else:
                yield _pair(cuts.subject, names, place, shown, settings)


def _pair(subject: Subject, names: tuple[str, ...], place: str, shown: list[_Slice], settings: ReaderSettings) -> Pair:
    about: dict[str, Any] = {"subject": subject.name, "slice": place, **_words(subject, names), **subject.more}
    if len(names) == 1:
        steps = shown[0].steps
        about["contrast"] = names[0]
        images = one_image(shown[0].file, settings.family)
    else:
        steps = tuple(f"{name}: {step}" for name, each in zip(names, shown, strict=True) for step in each.steps)
        about |= {"from": names[0], "to": names[1]}
        subtask = "segmentation" if names[1] in subject.labels else "cross-modal"
        images = {"subtask": subtask, "images": (shown[0].file,), "target": shown[1].file}
        settings = replace(settings, family="edit")  # whatever slices alone are
    modality = subject.modality.get(names[0], "")  # of what is shown
    about = {"modality": modality, "split": subject.split, "steps": steps, "more": about}
    return settings.pair(subject.name, "-".join(names), place, **about, **images)


def _words(subject: Subject, names: tuple[str, ...]) -> dict[str, str]:
    """How the contrasts are called, under the names of the slots that they fill in wordings."""
    return {
        "finding" if name in subject.labels else slot: subject.spoken[name]
        for slot, name in zip(("modality", "target_modality"), names, strict=False)
        if name in subject.spoken
    }


def _check_grids(volumes: list[Volume]) -> None:
    first, *rest = volumes
    for other in rest:
        # A tenth of a millimeter: headers of one grid differ by rounding.
        if other.shape != first.shape or not np.allclose(other.affine, first.affine, atol=0.1):
            shapes = " and ".join(" x ".join(map(str, volume.shape)) for volume in (first, other))
            problem = "two volumes do not lie on one grid"
            raise DataError(problem, where=f"{first.name}, {other.name}: {shapes}", remedy="register them first")


def _read(root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
    for number, path in enumerate([root] if root.is_file() else files_under(root, VOLUMES), 1):
        name = path.name if root.is_file() else path.relative_to(root).as_posix()
        windows = {} if settings.window is None else {"volume": settings.window}
        labels = {"volume": settings.highest_label} if settings.highest_label else {}
        # Such files are often named after patients.
        more, told = {"subject": pair_id(settings.source, name)}, f"file {number} in the order of names"
        subject = Subject(name, {"volume": path}, windows=windows, labels=labels, more=more, told=told)
        yield from read_subject(subject, [("volume",)], settings, skipped)


read = Reader(_read, layout="volumes (.nii, .nii.gz)", uses=(*VOLUME_SETTINGS, "highest_label"))
