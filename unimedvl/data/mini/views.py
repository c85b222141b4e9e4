"""Views: the pictures of UniMed-Mini, each cut from a public image that a Python package ships.

Splits are blocks of slices, of frames or of bands with gaps between them: no pixel of a test view is in training.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from unimedvl.errors import DataError
from unimedvl.imaging import ReadOptions, read_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

Split = Literal["train", "validation", "test"]
Box = tuple[int, int, int, int]  # left, top, right, bottom

SIDE = 128  # pixels of a view

# Bands across the longer side of a picture, in parts of it: training stands on both sides of the test band.
_BANDS: tuple[tuple[Split, float, float], ...] = (
    ("train", 0.0, 0.27),
    ("test", 0.29, 0.49),
    ("train", 0.51, 0.78),
    ("validation", 0.80, 1.0),
)
_PLAINEST = 12.0  # gray levels of standard deviation under which a crop shows nothing
_COUNTS: dict[Split, float] = {"train": 1.0, "validation": 0.17, "test": 0.17}


@dataclass(frozen=True)
class View:
    """One picture and what is true of it.

    Attributes:
        image: RGB, 128 x 128.
        region: where in the source: an axis and index of a volume, a frame, a box in pixels.
        layers: pictures of the same region and size, such as the gray matter of a slice.
    """

    image: Image.Image
    source: str
    split: Split
    modality: str
    body: str
    region: dict[str, Any]
    plane: str = ""
    level: str = ""
    side: str = ""
    detail: str = ""
    steps: tuple[str, ...] = ()
    layers: dict[str, Image.Image] = field(default_factory=dict)


@dataclass(frozen=True)
class Still:
    """A single picture from which views are cut.

    Attributes:
        module: package that ships it; ``file``: where in the package.
        box: the part without burned-in text, markers and empty background; everything by default.
        count: crops for training.
        flip: turned upside down, because the file's orientation says so.
    """

    name: str
    module: str
    file: str
    modality: str
    body: str
    count: int
    detail: str = ""
    plane: str = ""
    box: Box | None = None
    window: tuple[float, float] | None = None
    frame: int = 0
    flip: bool = False
    lungs: bool = False


_PYDICOM_DATA = "data_store"
STILLS: tuple[Still, ...] = (
    Still("retina", "skimage", "data/retina.jpg", "CFP", "retina", 96, "color", box=(150, 20, 1260, 1390)),
    Still("ihc", "skimage", "data/ihc.png", "HIS", "colon", 96, "DAB and hematoxylin stain"),
    Still("h_and_e", "wsidicom_data", "data/test_tile.png", "HIS", "soft tissue", 40, "H&E stain"),
    Still(
        "chest", _PYDICOM_DATA, "data/RG1_UNCI.dcm", "CXR", "chest", 110, "frontal",
        box=(230, 60, 1570, 1420), window=(9_700, 15_000), lungs=True,
    ),
    Still("leg", _PYDICOM_DATA, "data/RG3_UNCI.dcm", "XR", "leg", 48, "frontal", box=(480, 10, 1160, 1740)),
    Still(
        "ct_abdomen", _PYDICOM_DATA, "data/explicit_VR-UN.dcm", "CT", "abdomen", 48, "soft tissue window",
        "axial", box=(75, 165, 440, 405), window=(40, 400), flip=True,
    ),
    Still(
        "ct_head", "pydicom", "data/test_files/J2K_pixelrep_mismatch.dcm", "CT", "head", 48, "brain window",
        "axial", box=(85, 40, 430, 440),
    ),
    Still(
        "ct_head_bone", _PYDICOM_DATA, "data/693_UNCI.dcm", "CT", "head", 24, "bone window",
        "axial", box=(140, 100, 410, 460), window=(400, 1800),
    ),
    Still(
        "ct_spine", _PYDICOM_DATA, "data/bad_sequence.dcm", "CT", "back", 40, "soft tissue window",
        "axial", box=(60, 170, 450, 480),
    ),
    Still(
        "ct_perfusion", _PYDICOM_DATA, "data/eCT_Supplemental.dcm", "CT", "head", 24, "perfusion map",
        "axial", box=(90, 70, 420, 450),
    ),
    Still(
        "mr_shoulder", _PYDICOM_DATA, "data/MR2_UNCI.dcm", "MRI", "shoulder", 48, "proton density",
        "coronal", box=(120, 60, 980, 900), window=(600, 1500),
    ),
    Still(
        "mr_abdomen", _PYDICOM_DATA, "data/MR-SIEMENS-DICOM-WithOverlays.dcm", "MRI", "abdomen", 48,
        "T1 weighted", "axial", box=(45, 80, 450, 400),
    ),
    Still(
        "us_lymph_node", _PYDICOM_DATA, "data/US1_UNCI.dcm", "US", "lymph node", 24, "power Doppler",
        box=(95, 165, 545, 360),
    ),
    Still(
        "us_heart", _PYDICOM_DATA, "data/JPGLosslessP14SV1_1s_1f_8b.dcm", "US", "heart", 40, "gray scale",
        box=(330, 220, 740, 620),
    ),
    Still(
        "us_pelvis", _PYDICOM_DATA, "data/gdcm-US-ALOKA-16.dcm", "US", "pelvis", 40, "gray scale",
        box=(342, 70, 622, 400),
    ),
    Still(
        "us_vessel", _PYDICOM_DATA, "data/color-pl.dcm", "US", "heart", 16, "color Doppler",
        box=(60, 2, 200, 118),
    ),
)  # fmt: skip

CINE = "us_cine"
CINE_FILE = (_PYDICOM_DATA, "data/color3d_jpeg_baseline.dcm")
_CINE_BOX = (170, 30, 500, 440)
_CINE_FRAMES: tuple[tuple[Split, int, int], ...] = (("train", 0, 78), ("validation", 84, 98), ("test", 104, 120))

VOLUME = "mni152"
VOLUME_FILES = {
    name: ("nilearn", f"datasets/data/mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
    for name in ("t1", "gm", "wm")
}
PLANES = ("sagittal", "coronal", "axial")
_LEVELS = {
    "axial": ("lower", "middle", "upper"),
    "coronal": ("posterior", "middle", "anterior"),
    "sagittal": ("medial", "intermediate", "lateral"),
}
# Each plane cuts a part of the brain of its own, so that slices of different planes never cross: axial the upper part,
# coronal the lower front, sagittal the lower back. The template is symmetric: one half is enough for sagittal slices,
# the other's would be the same pictures.
_REGIONS = {
    "axial": (slice(None), slice(None), slice(84, None)),
    "coronal": (slice(None), slice(120, None), slice(0, 81)),
    "sagittal": (slice(98, None), slice(0, 117), slice(0, 81)),
}
_SQUARES = {"axial": 188, "coronal": 150, "sagittal": 116}  # millimeters
# Slices of a repeating block: training, a gap, validation, a gap, training, a gap, test, a gap.
_SLICES: tuple[tuple[Split | None, int], ...] = (
    ("train", 11), (None, 3), ("validation", 3), (None, 3), ("train", 11), (None, 3), ("test", 3), (None, 3),
)  # fmt: skip
GRAY_MATTER = 0.5  # the lowest threshold at which no voxel is both gray and white matter


def all_views(seed: int) -> Iterator[View]:
    """Every view, in a fixed order.

    Raises:
        DataError: a package of the extra ``mini`` is absent or ships other files.
    """
    for still in STILLS:
        yield from _crops(still, np.random.default_rng([seed, zlib.crc32(still.name.encode())]))
    yield from _frames()
    yield from _slices()


def need_files() -> None:
    """See whether the packages ship every picture, before any work.

    Raises:
        DataError: one is absent.
    """
    for _, module, file in shipped_files():
        package_file(module, file)


def package_file(module: str, file: str) -> Path:
    """A file that a package ships, found without importing the package."""
    from importlib.util import find_spec

    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"the package of {module} is absent", where=file, remedy="pip install 'unimedvl[mini]'")
    path = Path(next(iter(spec.submodule_search_locations))) / file
    if not path.is_file():
        raise DataError("the package does not ship this file", where=str(path), remedy="pip install 'unimedvl[mini]'")
    return path


def bands(length: int) -> list[tuple[Split, int, int]]:
    """Start and stop of each split's bands along a side."""
    return [(split, round(start * length), round(stop * length)) for split, start, stop in _BANDS]


def block_split(index: int) -> Split | None:
    """The split of a slice of a volume; None in a gap."""
    inside = index % sum(count for _, count in _SLICES)
    for split, count in _SLICES:
        if inside < count:
            return split
        inside -= count
    raise AssertionError("unreachable")


def _crops(still: Still, rng: np.random.Generator) -> Iterator[View]:
    """Square crops at random places of each band."""
    read = read_image(package_file(still.module, still.file), ReadOptions(window=still.window, frame=still.frame))
    image, steps = read.image, read.steps
    if still.flip:
        image, steps = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), (*steps, "flipped upright")
    box = still.box or (0, 0, *image.size)
    gray = np.asarray(image.convert("L"))
    for split, share in _COUNTS.items():
        wanted = max(4, round(still.count * share))
        for _ in range(20 * wanted):  # few sources are so plain that fewer crops are found
            x, y, side = _place(box, split, rng)
            if gray[y : y + side, x : x + side].std() < _PLAINEST:
                continue
            yield View(
                image.crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC),
                still.name, split, still.modality, still.body, {"box": [x, y, x + side, y + side]},
                plane=still.plane,
                side=_lung(x + side / 2, box[0], box[2]) if still.lungs else "",
                detail=still.detail,
                steps=(*steps, f"crop {side} x {side} resized"),
            )  # fmt: skip
            wanted -= 1
            if not wanted:
                break


def _place(box: Box, split: Split, rng: np.random.Generator) -> tuple[int, int, int]:
    """Left, top and side of a random square in a band of a split."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    tall = height >= width
    length, across = (height, width) if tall else (width, height)
    own = [(start, stop) for name, start, stop in bands(length) if name == split]
    start, stop = own[int(rng.integers(len(own)))]
    largest = min(stop - start, across)
    side = int(rng.integers(min(round(0.17 * length), largest), largest + 1))
    along, beside = int(rng.integers(start, stop - side + 1)), int(rng.integers(across - side + 1))
    return (left + beside, top + along, side) if tall else (left + along, top + beside, side)


def _lung(center: float, left: int, right: int) -> str:
    """The patient's side at a column of a frontal chest radiograph; neither near the midline."""
    part = (center - left) / (right - left)
    return "right" if part < 0.38 else "left" if part > 0.62 else ""


def _frames() -> Iterator[View]:
    """Frames of an ultrasound loop, without the text at its edges."""
    path = package_file(*CINE_FILE)
    for split, start, stop in _CINE_FRAMES:
        for frame in range(start, stop):
            read = read_image(path, ReadOptions(frame=frame))
            yield View(
                read.image.crop(_CINE_BOX).resize((SIDE, SIDE), Image.Resampling.BICUBIC),
                CINE, split, "US", "heart", {"frame": frame, "box": list(_CINE_BOX)},
                detail="gray scale",
                steps=(*read.steps, "cropped and resized"),
            )  # fmt: skip


def _slices() -> Iterator[View]:
    """Slices of the MNI152 template in three planes, with gray and white matter of the same slice."""
    volumes = {name: _volume(package_file(*file)) for name, file in VOLUME_FILES.items()}
    check_tissues(volumes["t1"], volumes["gm"], volumes["wm"])
    gray_matter = np.where(volumes["gm"] > GRAY_MATTER * 255, np.uint8(255), np.uint8(0))
    for axis, plane in enumerate(PLANES):
        own = _REGIONS[plane]
        brain = np.flatnonzero((volumes["t1"] > 0).any(axis=tuple(other for other in range(3) if other != axis)))
        filled = (volumes["t1"][own] > 0).sum(axis=tuple(other for other in range(3) if other != axis))
        for inside in np.flatnonzero(filled > 1500):
            index = int(inside) + (own[axis].start or 0)
            split = block_split(index)
            if split is None:
                continue
            first, last = (98, brain[-1]) if plane == "sagittal" else (brain[0], brain[-1])
            box = [list(part.indices(size)[:2]) for part, size in zip(own, volumes["t1"].shape, strict=True)]
            yield View(
                _plane(volumes["t1"][own], axis, int(inside)),
                VOLUME, split, "MRI", "brain", {"axis": axis, "slice": index, "voxels": box},
                plane=plane,
                level=_LEVELS[plane][int(3 * (index - first) / (last + 1 - first))],
                detail="T1 weighted",
                steps=("canonical axes", f"{plane} slice {index} of its part", "square resized"),
                layers={
                    "gray matter": _plane(gray_matter[own], axis, int(inside), smooth=False),
                    "white matter": _plane(volumes["wm"][own], axis, int(inside)),
                },
            )  # fmt: skip


def check_tissues(t1: NDArray[Any], gray: NDArray[Any], white: NDArray[Any]) -> None:
    """The threshold makes a mask of gray matter: apart from white matter, darker than it, and of a brain's volume.

    Raises:
        DataError: it does not, because the package ships other volumes.
    """
    gray_mask, white_mask = gray > GRAY_MATTER * 255, white > GRAY_MATTER * 255
    liters = gray_mask.sum() / 1e6  # voxels of 1 mm
    apart = white_mask.any() and not (gray_mask & white_mask).any()
    if not (apart and 0.5 < liters < 1.5 and t1[gray_mask].mean() < t1[white_mask].mean()):
        raise DataError(
            "the tissue maps do not fit the T1 volume", where=VOLUME, remedy="install a nilearn that ships MNI152 1 mm"
        )


def _volume(path: Path) -> NDArray[np.uint8]:
    """uint8 (right, anterior, superior)."""
    import nibabel

    image = nibabel.as_closest_canonical(nibabel.load(path))  # pyright: ignore[reportPrivateImportUsage]
    return np.ascontiguousarray(image.dataobj, dtype=np.uint8)  # pyright: ignore[reportAttributeAccessIssue]


def _plane(volume: NDArray[np.uint8], axis: int, index: int, *, smooth: bool = True) -> Image.Image:
    """One slice as people look at it: the patient's right on the left, front or head up."""
    values = np.moveaxis(volume, axis, 0)[index].T[::-1]
    if axis:  # of a sagittal slice the front is on the right already
        values = values[:, ::-1]
    height, width = values.shape
    gray = Image.fromarray(np.ascontiguousarray(values))
    side = _SQUARES[PLANES[axis]]
    left, top = (width - side) // 2, (height - side) // 2
    square = gray.crop((left, top, left + side, top + side))  # what lies outside is black
    resampling = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return square.resize((SIDE, SIDE), resampling).convert("RGB")


def shipped_files() -> Sequence[tuple[str, str, str]]:
    """Name, package module and file of every source."""
    stills = [(still.name, still.module, still.file) for still in STILLS]
    volumes = [(f"{VOLUME} {name}", *file) for name, file in VOLUME_FILES.items()]
    return [*stills, (CINE, *CINE_FILE), *volumes]
