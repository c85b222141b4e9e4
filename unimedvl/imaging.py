"""Images as people have them, read to 8-bit RGB with a record of what was done to the pixels.

PNG, JPEG, TIFF and the other formats of Pillow, DICOM and NIfTI. Nothing is clipped in silence: deeper pixels are
windowed or scaled, and the result says how.
"""

from __future__ import annotations

import gzip
import io
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from unimedvl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

IMAGE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".tif",
    ".tiff",
    ".bmp",
    ".webp",
    ".gif",
    ".dcm",
    ".dicom",
    ".nii",
    ".nii.gz",
)


class ImageMissingError(DataError):
    """No file is there, or it cannot be opened."""


class ImageTooLargeError(DataError):
    """An image of so many pixels that opening it could exhaust the memory."""


_MOST_BYTES = 4 * 2**30  # of an unpacked volume
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class ReadOptions:
    """Choices that a file leaves open.

    Attributes:
        window: (center, width) in the units of the modality (Hounsfield for CT); replaces the file's own.
        frame: of a multi-frame file, from 0.
        slice: (axis, index) of a volume in canonical (right, anterior, superior) axes; axial middle by default.
    """

    window: tuple[float, float] | None = None
    frame: int = 0
    slice: tuple[int, int] | None = None


@dataclass(frozen=True)
class ReadImage:
    """An RGB image, where it came from, and the steps that made it."""

    image: Image.Image
    source: str
    steps: tuple[str, ...]


def read_image(source: str | Path | bytes | Image.Image, options: ReadOptions | None = None) -> ReadImage:
    """Read one image.

    Args:
        source: a path, the bytes of a file, or a Pillow image.

    Raises:
        DataError: it does not exist, is damaged, is too large to open safely, or needs a library that is absent.
    """
    options = options or ReadOptions()
    if isinstance(source, Image.Image):
        return _from_pillow(source, "memory", options)
    name = f"{len(source)} bytes" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else _file_bytes(Path(source))
    try:
        return _decoded(data, name, options)
    except DataError:
        raise
    except MemoryError as error:
        raise ImageTooLargeError("no memory for the image", where=name, remedy="crop or shrink it first") from error
    except Exception as error:  # the libraries raise whatever their parsers stumble over
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(
            f"the image is damaged: {reason}", where=name, remedy="copy it again from its source"
        ) from error


def _decoded(data: bytes, name: str, options: ReadOptions) -> ReadImage:
    """The image of a file's bytes; damage shows as any exception."""
    if data[128:132] == b"DICM" or name.lower().endswith((".dcm", ".dicom")):
        from unimedvl.dicom import from_dicom

        return from_dicom(data, name, options)
    if name.lower().endswith((".nii", ".nii.gz")) or data[344:348] == b"n+1\0" or data[:2] == b"\x1f\x8b":
        return _from_nifti(data, name, options)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            image.seek(frame_in(getattr(image, "n_frames", 1), options.frame, name))
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(str(error), where=name, remedy="crop or shrink the image first") from error
    except UnidentifiedImageError as error:
        raise DataError("not an image", where=name, remedy="give a PNG, JPEG, TIFF, DICOM or NIfTI file") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"the image is damaged: {error}", where=name, remedy="copy it again from its source") from error
    return _from_pillow(image, name, options)


def find_images(pattern: str | Path) -> list[Path]:
    """The images of a folder or glob, or the file itself, sorted.

    Raises:
        DataError: nothing is there.
    """
    path = Path(pattern)
    if path.is_file():
        return [path]
    anchor = Path(path.anchor) if path.is_absolute() else Path()
    candidates = path.iterdir() if path.is_dir() else anchor.glob(str(path.relative_to(path.anchor)))
    found = sorted(file for file in candidates if file.name.lower().endswith(IMAGE_SUFFIXES))
    if not found:
        raise DataError("no image found", where=str(pattern), remedy="give a file, a folder of images, or a glob")
    return found


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB with transparent pixels laid on white.

    Raises:
        DataError: the pixels are deeper than 8 bits, and Pillow would clip them.
    """
    if image.mode in _DEEP_MODES:
        raise DataError(
            f"an image of mode {image.mode} is deeper than 8 bits",
            where="to_rgb",
            remedy="read it with unimedvl.imaging.read_image, which scales it",
        )
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, (255, 255, 255))
        canvas.paste(image, mask=image.getchannel("A"))
        return canvas
    return image.convert("RGB")


def _file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageMissingError("no such file", where=str(path), remedy="check the path") from error
    except ValueError as error:  # a null character, or one that no file name can hold
        raise ImageMissingError("no file can have this name", where=repr(str(path)), remedy="mend the path") from error
    except OSError as error:
        raise ImageMissingError(
            f"cannot be read: {error.strerror}", where=str(path), remedy="check the path"
        ) from error


def _from_pillow(image: Image.Image, name: str, options: ReadOptions) -> ReadImage:
    steps: list[str] = []
    try:
        lying = image.getexif().get(0x0112, 1) != 1
        image = ImageOps.exif_transpose(image) if lying else image
        steps += ["turned upright by its EXIF orientation"] if lying else []
    except Exception:  # the parser raises anything; the pixels are good all the same
        steps.append("broken EXIF left out")
    if image.mode in _DEEP_MODES or options.window:
        deep = np.asarray(image if image.mode in _DEEP_MODES else image.convert("L"), dtype=np.float64)
        deep_image = gray(deep, options.window, steps)
        return ReadImage(deep_image, name, tuple(steps))
    if image.mode != "RGB":
        steps.append(f"{image.mode} to RGB" + (", transparency on white" if "A" in image.mode.upper() else ""))
    return ReadImage(to_rgb(image), name, tuple(steps))


def gray(values: NDArray[Any], window: tuple[float, float] | None, steps: list[str]) -> Image.Image:
    """8-bit RGB of one gray plane, by window or by its own range; appends what it did to ``steps``.

    Undefined values become the lowest.

    Raises:
        DataError: the window has no width, or no value is defined.
    """
    defined = np.isfinite(values)
    if not defined.any():
        raise DataError("no pixel has a value", where="image", remedy="choose another slice or file")
    if not defined.all():
        steps.append(f"{values.size - int(defined.sum())} undefined values set to the lowest")
        values = np.where(defined, values, values[defined].min())
    if window is not None:
        center, width = window
        if not (0 < width < np.inf and np.isfinite(center)):
            raise DataError(f"window width {width:g}", where="window", remedy="give center,width with a positive width")
        low, high = center - width / 2, center + width / 2
        steps.append(f"window center {center:g}, width {width:g}")
    else:
        low, high = float(values.min()), float(values.max())
        steps.append(f"range {low:g} to {high:g} scaled to 8 bits")
    return spread(values, low, high)


def spread(values: NDArray[Any], low: float, high: float) -> Image.Image:
    """8-bit RGB of one gray plane, ``low`` black and ``high`` white."""
    scaled = np.clip((values - low) / ((high - low) or 1.0), 0, 1) * 255
    return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")


def frame_in(count: int, frame: int, name: str) -> int:
    """``frame``, if there are so many.

    Raises:
        DataError: there are not.
    """
    if not 0 <= frame < count:
        raise DataError(f"frame {frame} of {count}", where=name, remedy=f"choose a frame from 0 to {count - 1}")
    return frame


def _from_nifti(data: bytes, name: str, options: ReadOptions) -> ReadImage:
    try:
        import nibabel
    except ImportError as error:
        raise DataError("NIfTI needs nibabel", where=name, remedy="pip install 'unimedvl[io]'") from error
    try:
        raw = _unzipped(data, name) if data[:2] == b"\x1f\x8b" else data
        kind = nibabel.Nifti2Image if raw[4:7] == b"n+2" else nibabel.Nifti1Image
        image = kind.from_bytes(raw)
        check_pixels(max(image.shape[:3], default=0) * sorted((1, *image.shape[:3]))[-2], name)
        values = np.asanyarray(nibabel.as_closest_canonical(image).dataobj)
    except _nifti_errors() as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"the NIfTI file is damaged: {reason}", where=name, remedy="copy it again") from error
    steps = []
    if values.ndim > 3:
        values = values.reshape(*values.shape[:3], -1)
        steps.append(f"volume {frame_in(values.shape[3], options.frame, name)} of {values.shape[3]}")
        values = values[..., options.frame]
    plane, what = _slice_of(values, options.slice, name)
    steps.append(what)
    # Canonical axes run to the right, front and top; a picture's rows run down.
    shown = gray(np.rot90(plane.astype(np.float64)), options.window, steps)
    return ReadImage(shown, name, tuple(steps))


def check_pixels(count: int, name: str) -> None:
    """Refuse an image of more pixels than Pillow opens without a warning.

    Raises:
        ImageTooLargeError: it has.
    """
    if Image.MAX_IMAGE_PIXELS and count > Image.MAX_IMAGE_PIXELS:
        raise ImageTooLargeError(f"{count} pixels", where=name, remedy="crop or shrink the image first")


def _unzipped(data: bytes, name: str) -> bytes:
    """What a gzip file holds, if it is no bomb."""
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        raw = file.read(_MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES:
        raise ImageTooLargeError(f"over {_MOST_BYTES} bytes unpacked", where=name, remedy="cut the volume first")
    return raw


def _nifti_errors() -> tuple[type[Exception], ...]:
    """What nibabel and gzip raise on damaged data."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    ours = (EOFError, OSError, ValueError, TypeError, zlib.error)
    return (ImageFileError, HeaderDataError, WrapStructError, *ours)


def _slice_of(values: NDArray[Any], choice: Sequence[int] | None, name: str) -> tuple[NDArray[Any], str]:
    axis, index = choice if choice is not None else (2, values.shape[min(2, values.ndim - 1)] // 2)
    if values.ndim < 3:
        return values.reshape(values.shape[0], -1), "single slice"
    if not 0 <= axis < 3 or not 0 <= index < values.shape[axis]:
        raise DataError(
            f"slice {axis},{index} of a volume of {' x '.join(map(str, values.shape))}",
            where=name,
            remedy="give axis 0 (sagittal), 1 (coronal) or 2 (axial) and an index within it",
        )
    plane = ("sagittal", "coronal", "axial")[axis]
    return values.take(index, axis), f"{plane} slice {index} of {values.shape[axis]}"
