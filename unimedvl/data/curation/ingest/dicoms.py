"""DICOM series to slices. Of the tags only codes that the standard defines leave a file: never words of a person.

Names of folders and files may be names of patients too. A series is therefore known by a hash of its identifier.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unimedvl.data.curation.ingest.files import files_under, save_once
from unimedvl.data.curation.ingest.modalities import of_dicom
from unimedvl.data.curation.ingest.settings import Reader, ReaderSettings, Skipped, one_image
from unimedvl.data.curation.ingest.volumes import slice_numbers
from unimedvl.data.curation.pairs import Pair, pair_id
from unimedvl.errors import ConfigError, DataError, UniMedVLError
from unimedvl.imaging import ReadOptions, read_image

if TYPE_CHECKING:
    from pydicom import Dataset

_TAGS = [
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "Modality",
    "BodyPartExamined",
    "Laterality",
    "ImageLaterality",
    "Rows",
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
# The function's name comes from a tag, so only the standard's are let through.
_FUNCTION = re.compile(r"^(window of the file, center \S+, width \S+), (?!(?:linear|linear exact|sigmoid)$).*", re.S)


@dataclass(frozen=True)
class _Frame:
    """One slice on disk.

    Attributes:
        where: (orientation, distance along its normal in mm); None where the file does not say.
        number: of the instance; ``frame`` in a file of several.
        study: a hash, by which a split can keep together what belongs together; empty where the file has none.
    """

    path: Path
    frame: int
    number: int
    where: tuple[tuple[float, ...], float] | None
    modality: str
    anatomy: str
    side: str
    study: str


def _read(root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
    for series, found in sorted(_series(root, settings, skipped).items()):
        frames = _in_order(found)
        for index in slice_numbers(len(frames), 0, settings):
            try:
                yield _pair(series, frames[index], index, len(frames), settings)
            except DataError as error:
                skipped.failed(settings, error, f"series {series}, slice {index}")


def _pair(series: str, frame: _Frame, index: int, count: int, settings: ReaderSettings) -> Pair:
    read = read_image(frame.path, ReadOptions(window=settings.window, frame=frame.frame))
    path = settings.out() / series / f"slice-{index:04d}.png"
    save_once(read.image, path)
    more: dict[str, Any] = {"series": series, "study": frame.study, "slice": index}
    more |= {name: said for name, said in (("anatomy", frame.anatomy), ("side", frame.side)) if said}
    order = "position" if frame.where is not None else "instance number"
    steps = (f"slice {index} of {count} by {order}", *(_FUNCTION.sub(r"\1", step) for step in read.steps))
    images = one_image(str(path), settings.family)
    return settings.pair(series, str(index), modality=frame.modality, steps=steps, more=more, **images)


def _series(root: Path, settings: ReaderSettings, skipped: Skipped) -> dict[str, list[_Frame]]:
    """The frames of each series by its hash: only headers are read."""
    found: dict[str, list[_Frame]] = defaultdict(list)
    seen: set[str] = set()
    for number, path in enumerate([root] if root.is_file() else files_under(root), 1):
        noted = f"file {number} in the order of names"
        try:
            with _damage_told(path):
                header = _header(path)
                frames = _frames(path, header, settings.source) if header is not None and header.get("Rows") else []
        except DataError as error:
            skipped.failed(settings, error, noted)
            continue
        if header is None:
            continue
        instance, series = (str(header.get(tag) or "") for tag in ("SOPInstanceUID", "SeriesInstanceUID"))
        if not frames:
            skipped.add("no pixels, such as a report", noted)
        elif not series:
            skipped.missing(settings, "no SeriesInstanceUID", str(path), "mend or remove the file", noted)
        elif instance and instance in seen:
            skipped.add("an instance that came before", noted)
        else:
            seen.add(instance)
            found[pair_id(settings.source, series)].extend(frames)
    return found


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """One clear line for damage in a header."""
    try:
        yield
    except UniMedVLError:
        raise
    except Exception as error:  # the parser raises whatever it stumbles over, when a value is asked for
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"the DICOM file is damaged: {reason}", where=str(path), remedy="copy it again") from error


def _header(path: Path) -> Dataset | None:
    """The tags that are needed; None of a file of another kind."""
    try:
        import pydicom
    except ImportError as error:
        raise ConfigError("DICOM needs pydicom", where=str(path), remedy="pip install 'unimedvl[io]'") from error
    with path.open("rb") as file:
        begin = file.read(132)
        known = begin[128:] == b"DICM"
        if path.name == "DICOMDIR" or not (known or path.suffix.lower() in (".dcm", ".dicom")):
            return None
        file.seek(0)
        return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[*_TAGS], force=not known)


def _frames(path: Path, header: Dataset, source: str) -> list[_Frame]:
    laterality = header.get("ImageLaterality") or header.get("Laterality")
    codes = of_dicom(header.get("Modality"), header.get("BodyPartExamined"), laterality)
    count, number = int(header.get("NumberOfFrames") or 1), int(header.get("InstanceNumber") or 0)
    shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
    each = list(header.get("PerFrameFunctionalGroupsSequence") or [])
    study = str(header.get("StudyInstanceUID") or "")
    about = (*codes, pair_id(source, study) if study else "")
    return [
        _Frame(path, frame, number, _where(header, shared, each[frame] if frame < len(each) else None), *about)
        for frame in range(count)
    ]


def _where(header: Dataset, *groups: Dataset | None) -> tuple[tuple[float, ...], float] | None:
    """Orientation and distance along its normal, from the file or, of an enhanced one, from the frame."""
    position, orientation = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    for group in groups:
        for item in (group.get("PlanePositionSequence") or [])[:1] if group is not None else ():
            position = item.get("ImagePositionPatient", position)
        for item in (group.get("PlaneOrientationSequence") or [])[:1] if group is not None else ():
            orientation = item.get("ImageOrientationPatient", orientation)
    if position is None or orientation is None or len(position) != 3 or len(orientation) != 6:
        return None
    axes = np.asarray([float(value) for value in orientation])
    normal = np.cross(axes[:3], axes[3:])
    along = float(normal @ np.asarray([float(value) for value in position]))
    # Rounded: slices of one stack differ in the last digits.
    return tuple(float(value) + 0.0 for value in axes.round(2)), round(along, 3)


def _in_order(frames: list[_Frame]) -> list[_Frame]:
    """By orientation and position where all say them, else by the number of the instance."""
    if any(frame.where is None for frame in frames):
        frames = [replace(frame, where=None) for frame in frames]
    nowhere = ((), 0.0)
    return sorted(frames, key=lambda one: (one.where or nowhere, one.number, one.path, one.frame))


read = Reader(_read, layout="DICOM files", uses=("images_out", "step", "window"))
