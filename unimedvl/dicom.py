"""One frame of a DICOM file as a picture, by the rules of the standard (PS3.3 C.7.6.3, C.11.1, C.11.2)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from unimedvl.errors import DataError
from unimedvl.imaging import ReadImage, ReadOptions, check_pixels, frame_in, gray, spread

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom import Dataset


def from_dicom(data: bytes, name: str, options: ReadOptions) -> ReadImage:
    """Modality LUT, window (the caller's, else the file's, else the range), MONOCHROME1 inverted; color as it is.

    Raises:
        DataError: the file is damaged, has no pixels, or a decoder or pydicom itself is absent.
    """
    try:
        import pydicom
    except ImportError as error:
        raise DataError("DICOM needs pydicom", where=name, remedy="pip install 'unimedvl[io]'") from error
    from pydicom.errors import InvalidDicomError
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=data[128:132] != b"DICM")
        check_pixels(int(dataset.get("Rows") or 0) * int(dataset.get("Columns") or 0), name)
        frames = int(getattr(dataset, "NumberOfFrames", 1) or 1)
        steps = [f"DICOM frame {frame_in(frames, options.frame, name)} of {frames}"]
        pixels = pixel_array(dataset, index=options.frame)
        palette = dataset.get("PhotometricInterpretation") == "PALETTE COLOR"
        # The palette's bytes are read in the file's order, which only the data set as it was read knows.
        values = apply_color_lut(pixels, dataset) if palette else pixels
        dataset = _of_frame(dataset, options.frame)
        values = values if values.ndim == 3 else apply_modality_lut(values, dataset).astype(np.float64)
    except (InvalidDicomError, AttributeError, EOFError, ValueError, KeyError, TypeError) as error:
        reason = _first_line(error)
        raise DataError(f"the DICOM file is damaged: {reason}", where=name, remedy="copy it again") from error
    except RuntimeError as error:  # no decoder for the transfer syntax
        remedy = "pip install 'unimedvl[io]' for more decoders"
        raise DataError(_first_line(error), where=name, remedy=remedy) from error
    if palette:
        steps.append("palette to RGB")
    if values.ndim == 3:
        color = _eight_bits(values, steps)
        return ReadImage(Image.fromarray(color), name, tuple(steps))
    if "RescaleSlope" in dataset or "ModalityLUTSequence" in dataset:
        steps.append("modality LUT")
    if (padding := dataset.get("PixelPaddingValue")) is not None:
        values = np.where(pixels == padding, np.nan, values)  # no measurement: it must not count in the range
    image = gray(values, options.window, steps) if options.window else _shown(values, dataset, steps)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        image = ImageOps.invert(image)
        steps.append("MONOCHROME1 inverted")
    return ReadImage(image, name, tuple(steps))


def _of_frame(dataset: Dataset, frame: int) -> Dataset:
    """The data set with what an enhanced file says of one frame (or of all) lifted to the top."""
    from pydicom.dataset import Dataset as NewDataset

    merged = NewDataset()
    merged.update(dataset)
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    groups = [*(dataset.get("SharedFunctionalGroupsSequence") or [])[:1], *per_frame[frame : frame + 1]]
    for group in groups:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in (group.get(name) or [])[:1]:
                merged.update(item)
    return merged


def _shown(values: NDArray[Any], dataset: Dataset, steps: list[str]) -> Image.Image:
    """As the file itself wants to be shown: its first VOI LUT or window, else its range."""
    from pydicom.pixels import apply_voi_lut

    if dataset.get("VOILUTSequence"):
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        steps.append("VOI LUT of the file")
        defined = np.nan_to_num(values, nan=float(np.nanmin(values)))
        return spread(apply_voi_lut(np.rint(defined).astype(np.int32), dataset), 0, 2**bits - 1)
    center, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if center is None or width is None or width < 1:
        return gray(values, None, steps)
    function = dataset.get("VOILUTFunction", "LINEAR")
    steps.append(f"window of the file, center {center:g}, width {width:g}, {function.lower().replace('_', ' ')}")
    values = np.nan_to_num(values, nan=-np.inf)
    if function == "SIGMOID":
        return spread(1 / (1 + np.exp(-4 * (values - center) / width)), 0, 1)
    if function == "LINEAR":  # the standard's: half a unit lower and one narrower
        center, width = center - 0.5, width - 1
    return spread(values, center - width / 2, center + width / 2)


def _first(value: Any) -> float | None:
    """The first of one or several numbers."""
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _eight_bits(pixels: NDArray[Any], steps: list[str]) -> NDArray[np.uint8]:
    """Color planes as 8 bits."""
    if pixels.dtype == np.uint8:
        return pixels
    steps.append(f"{pixels.dtype} color scaled to 8 bits")
    return np.rint(pixels / max(float(pixels.max()), 1.0) * 255).astype(np.uint8)
