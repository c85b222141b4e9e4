"""NIfTI volumes, one slice in memory at a time, in canonical axes (to the right, front and top)."""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from unimedvl.data.curation.ingest.pairs_of_folders import drawn_labels
from unimedvl.data.curation.ingest.settings import ReaderSettings
from unimedvl.errors import ConfigError, DataError
from unimedvl.imaging import ReadImage, check_pixels, gray

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLANES = ("sagittal", "coronal", "axial")
VOLUMES = (".nii", ".nii.gz")
_MOST_PLANES = 64  # that percentiles are taken from, so that a volume is never held whole
_MOST_BYTES = 16 * 2**30  # of an unpacked volume
_NEARLY_BLACK = 5

Render = Callable[["NDArray[Any]"], tuple[Image.Image, tuple[str, ...]]]


@dataclass(frozen=True)
class Volume:
    """A volume on disk.

    Attributes:
        name: of its file, for errors.
        shape: voxels along the canonical axes; ``spacing`` their distances in mm.
        affine: 4 x 4, from stored voxel numbers to mm.
        steps: what is always done, such as taking the first of several volumes.
    """

    name: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    affine: NDArray[np.float64]
    steps: tuple[str, ...]
    _stored: NDArray[Any]
    _scale: tuple[float, float]
    _orientation: NDArray[Any]

    def plane(self, axis: int, index: int) -> NDArray[np.float64]:
        """The values of a slice; its rows and columns run along the two other axes, the lower one first.

        Raises:
            DataError: the file is damaged.
        """
        stored = int(np.flatnonzero(self._orientation[:, 0] == axis)[0])
        at = index if self._orientation[stored, 1] > 0 else self.shape[axis] - 1 - index
        rest = [number for number in range(3) if number != stored]
        key = [slice(None)] * 3 + [0] * (len(self._stored.shape) - 3)
        with readable(self.name):
            values = np.asarray(self._stored[(*key[:stored], at, *key[stored + 1 :])], dtype=np.float64)
        values = values * self._scale[0] + self._scale[1]
        for place, number in enumerate(rest):
            values = values if self._orientation[number, 1] > 0 else np.flip(values, place)
        return values if self._orientation[rest[0], 0] < self._orientation[rest[1], 0] else values.T

    def percentiles(self, low: float, high: float) -> tuple[float, float]:
        """Two percentiles of the values, from up to 64 slices that are spread evenly.

        Raises:
            DataError: no value is defined, or all are the same.
        """
        axis = int(np.argmax(self.shape))
        chosen = np.unique(np.linspace(0, self.shape[axis] - 1, _MOST_PLANES).round().astype(int))
        values = np.concatenate([self.plane(axis, int(index)).astype(np.float32).ravel() for index in chosen])
        values = values[np.isfinite(values)]
        if not values.size or values.min() == values.max():
            raise DataError("a volume of one value", where=self.name, remedy="remove the file")
        first, last = np.percentile(values, [low, high]).tolist()
        return (first, last) if first < last else (float(values.min()), float(values.max()))


@contextmanager
def opened(path: Path) -> Iterator[Volume]:
    """A volume; a compressed one is unpacked to a temporary file first, for slices out of order cannot be read else.

    Raises:
        ConfigError: nibabel is absent.
        DataError: the file is absent, damaged or too large.
    """
    try:
        import nibabel
    except ImportError as error:
        raise ConfigError("NIfTI needs nibabel", where=str(path), remedy="pip install 'unimedvl[io]'") from error
    with tempfile.TemporaryDirectory() as folder:
        with readable(str(path)):
            image: Any = nibabel.load(_unpacked(path, Path(folder)), mmap=True)
            yielded = _volume(image, path)
        yield yielded


def _volume(image: Any, path: Path) -> Volume:
    from nibabel.orientations import io_orientation

    if len(image.shape) < 3:
        raise DataError(f"{len(image.shape)} axes", where=str(path), remedy="give a volume of three axes")
    orientation = io_orientation(image.affine)
    if np.isnan(orientation).any():
        raise DataError("the header does not say how the volume lies", where=str(path), remedy="mend its affine")
    order = [int(np.flatnonzero(orientation[:, 0] == axis)[0]) for axis in range(3)]
    shape: Any = tuple(int(image.shape[stored]) for stored in order)
    spacing: Any = tuple(float(image.header.get_zooms()[stored]) for stored in order)
    for axis in range(3):
        check_pixels(int(np.prod([side for number, side in enumerate(shape) if number != axis])), str(path))
    count = int(np.prod(image.shape[3:]))
    steps = (f"volume 0 of {count}",) if count > 1 else ()
    scale = (float(image.dataobj.slope), float(image.dataobj.inter))
    # A memory map: the proxy of nibabel itself would read sagittal slices value by value.
    stored = image.dataobj.get_unscaled()
    return Volume(str(path), shape, spacing, np.asarray(image.affine), steps, stored, scale, orientation)


def _unpacked(path: Path, folder: Path) -> Path:
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return path
    out = folder / "volume.nii"
    left = _MOST_BYTES
    with gzip.open(path) as packed, out.open("wb") as file:
        while chunk := packed.read(1 << 20):
            left -= file.write(chunk)
            if left < 0:
                problem = f"over {_MOST_BYTES} bytes unpacked"
                raise DataError(problem, where=str(path), remedy="cut the volume first")
    return out


@contextmanager
def readable(name: str) -> Iterator[None]:
    """What nibabel and gzip raise on damaged data, as one clear line."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    ours = (EOFError, OSError, ValueError, TypeError, zlib.error)
    try:
        yield
    except (ImageFileError, HeaderDataError, WrapStructError, *ours) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"the volume cannot be read: {reason}", where=name, remedy="check it, or copy it again"
        ) from error


def slice_numbers(count: int, spacing: float, settings: ReaderSettings) -> range:
    """Which of ``count`` slices that lie ``spacing`` mm apart; those at the two ends are as far from the edge."""
    step = max(1, round(settings.spacing / spacing)) if settings.spacing and spacing > 0 else settings.step or 1
    return range((count - 1) % step // 2, count, step)


def render(volume: Volume, settings: ReaderSettings, window: tuple[float, float] | None) -> Render:
    """Slices of a volume as 8-bit gray, by a window, or by percentiles of the whole volume, so that slices compare.

    Raises:
        DataError: the volume has one value only.
    """
    steps = list(volume.steps)
    if window is None:
        low, high = volume.percentiles(*settings.percentiles)
        steps.append(f"percentiles {settings.percentiles[0]:g} and {settings.percentiles[1]:g} of the volume")
        window = ((low + high) / 2, high - low)

    def draw(plane: NDArray[Any]) -> tuple[Image.Image, tuple[str, ...]]:
        done = list(steps)
        image = gray(np.rot90(plane), window, done)  # a picture's rows run down
        return image, tuple(done)

    return draw


def render_labels(volume: Volume, highest: int, region: tuple[int, ...] = ()) -> Render:
    """Slices of class numbers as grays, the highest one white; or those of a region white, all others black."""

    def draw(plane: NDArray[Any]) -> tuple[Image.Image, tuple[str, ...]]:
        image, step = drawn_labels(np.rint(np.rot90(plane)).astype(np.int64), highest, volume.name, region)
        return image, (*volume.steps, step)

    return draw


def cut(volume: Volume, axis: int, index: int, draw: Render, *, labels: bool = False) -> ReadImage | None:
    """A slice as a picture with square pixels; None where no voxel has a value.

    Args:
        labels: keep to the values that are there.
    """
    plane = volume.plane(axis, index)
    if not np.isfinite(plane).any():
        return None
    image, steps = draw(plane)
    across, down = (volume.spacing[number] for number in range(3) if number != axis)
    steps = (f"{PLANES[axis]} slice {index} of {volume.shape[axis]}", *steps)
    fine = min(across, down)
    if fine > 0 and max(across, down) > 1.01 * fine:  # else rounding in the header
        size = (max(1, round(image.width * across / fine)), max(1, round(image.height * down / fine)))
        check_pixels(size[0] * size[1], volume.name)
        steps = (*steps, f"{image.width} x {image.height} to {size[0]} x {size[1]} for square pixels of {fine:g} mm")
        image = image.resize(size, Image.Resampling.NEAREST if labels else Image.Resampling.BILINEAR)
    return ReadImage(image, volume.name, steps)


def filled(image: Image.Image) -> float:
    """The share of pixels that are brighter than nearly black."""
    return float((np.asarray(image.convert("L")) > _NEARLY_BLACK).mean())
