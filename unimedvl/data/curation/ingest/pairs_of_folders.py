"""Two folders whose files belong together by their names: inputs with targets, images with masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from unimedvl.data.curation.ingest.files import PICTURES, files_under, save_once
from unimedvl.data.curation.ingest.settings import Reader, ReaderSettings, Skipped
from unimedvl.data.curation.pairs import Pair, pair_id
from unimedvl.errors import DataError
from unimedvl.imaging import read_image

_DIMMEST = 128  # a mask whose brightest pixel is below shows next to nothing


def _paired(root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
    for key, image, target in partners(root, settings, skipped):
        yield settings.pair(key, images=(str(image),), target=str(target))


def _masks(root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
    for key, image, mask in partners(root, settings, skipped):
        try:
            drawn, steps = _drawn(mask, key, settings)
        except DataError as error:
            skipped.failed(settings, error, str(mask))
            continue
        # Words for a mask of one class, such as "in white", are wrong for several grays.
        more = {"classes": settings.highest_label} if settings.highest_label > 1 else {}
        yield settings.pair(key, images=(str(image),), target=str(drawn), steps=steps, more=more)


def partners(root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[tuple[str, Path, Path]]:
    """(path from the folder without suffix, input, target), sorted.

    Raises:
        DataError: a folder is absent, two files could be meant, or one has no partner and is not to be skipped.
    """
    inputs = _by_stem(root / settings.input_folder, settings.input_suffix)
    targets = _by_stem(root / settings.target_folder, settings.target_suffix)
    for key in sorted(inputs.keys() | targets.keys()):
        if key in inputs and key in targets:
            yield key, inputs[key], targets[key]
            continue
        other = settings.target_folder if key in inputs else settings.input_folder
        alone = inputs.get(key) or targets[key]
        skipped.missing(settings, f"no partner in {other}", str(alone), "add it, or remove the file")


def _by_stem(folder: Path, ending: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError("no such folder", where=str(folder), remedy="set input_folder and target_folder")
    found: dict[str, Path] = {}
    for path in files_under(folder, PICTURES):
        key = path.relative_to(folder).with_suffix("").as_posix()
        if not key.endswith(ending):
            continue
        key = key.removesuffix(ending)
        if key in found:
            raise DataError(f"the same name as {found[key].name}", where=str(path), remedy="rename or remove one")
        found[key] = path
    return found


def _drawn(mask: Path, key: str, settings: ReaderSettings) -> tuple[Path, tuple[str, ...]]:
    """A mask that can be seen: class numbers are spread over the grays."""
    if not settings.highest_label:
        values = np.asarray(read_image(mask).image)
        if values.any() and values.max() < _DIMMEST:
            remedy = "set highest_label and images_out if these are class numbers"
            raise DataError(
                f"a mask of values up to {values.max()} is as good as black", where=str(mask), remedy=remedy
            )
        return mask, ()
    image, step = drawn_labels(_labels(mask), settings.highest_label, str(mask))
    path = settings.out() / "masks" / f"{pair_id(settings.source, key)}.png"
    save_once(image, path)
    return path, (step,)


def _labels(mask: Path) -> np.ndarray:
    """The class numbers of a mask: of a palette its indices, which are not colors."""
    read_image(mask)  # whether it can be read safely
    with Image.open(mask) as image:
        if image.mode not in ("1", "L", "P", "I", "I;16"):
            problem = f"a mask of mode {image.mode} holds colors, not class numbers"
            raise DataError(problem, where=str(mask), remedy="leave highest_label out")
        return np.asarray(image).astype(np.int64)


def drawn_labels(labels: np.ndarray, highest: int, place: str, region: tuple[int, ...] = ()) -> tuple[Image.Image, str]:
    """Class numbers as grays, 0 black and ``highest`` white, and the step that says so.

    Args:
        region: class numbers to be drawn white, all others black.

    Raises:
        DataError: there are others.
    """
    if labels.min() < 0 or labels.max() > highest:
        problem = f"class numbers from {labels.min()} to {labels.max()}"
        raise DataError(problem, where=place, remedy=f"set highest_label, which is {highest}, to the highest of all")
    if region:
        white = np.where(np.isin(labels, region), 255, 0).astype(np.uint8)
        step = f"labels {', '.join(map(str, region))} of 0 to {highest} as white"
        return Image.fromarray(white).convert("RGB"), step
    gray = np.rint(labels * (255 / highest)).astype(np.uint8)
    return Image.fromarray(gray).convert("RGB"), f"labels 0 to {highest} as grays 0 to 255"


_FOLDERS = ("input_folder", "target_folder", "input_suffix", "target_suffix")
paired = Reader(
    _paired,
    layout="folders input and target with pictures of the same names",
    uses=_FOLDERS,
    defaults={"family": "edit", "input_folder": "input", "target_folder": "target"},
)
masks = Reader(
    _masks,
    layout="folders images and masks with pictures of the same names",
    uses=(*_FOLDERS, "highest_label", "images_out"),
    defaults={"family": "edit", "subtask": "segmentation", "input_folder": "images", "target_folder": "masks"},
)
