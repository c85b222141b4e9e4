"""Images for training an autoencoder: read from records, and cropped."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unimedvl.config import VaeConfig
from unimedvl.data.faults import Tally
from unimedvl.data.records import ImageRef, Record, RecordError
from unimedvl.data.sources import Source
from unimedvl.errors import ConfigError, DataError
from unimedvl.processor import ImageTransform

log = logging.getLogger(__name__)

# Streams of random numbers under one seed.
_ORDER, _CROPS, _NOISE = 1, 2, 3


@dataclass(frozen=True)
class Pixels:
    """Images in memory, in the order of their first mention.

    Attributes:
        images: uint8 (3, H, W), sides multiples of the autoencoder's stride.
        modalities: of the record that mentions the image first; empty where it says none.
        digest: hash of all pixels.
    """

    images: tuple[Tensor, ...]
    modalities: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.images)

    def some(self, most: int) -> Pixels:
        """At most so many of them, spread evenly over all."""
        numbers = spread(len(self), most)
        images = tuple(self.images[number] for number in numbers)
        return Pixels(images, tuple(self.modalities[number] for number in numbers), self.digest)


def read_pixels(
    files: Sequence[str], config: VaeConfig, *, what: str, max_side: int, min_side: int, max_gib: float, max_bad: float
) -> Pixels:
    """Every image that the records of ``files`` refer to, inputs and targets, each once.

    Args:
        what: the name of the setting that gives the files, for errors.
        max_side: larger images are shrunk, by the rule of :func:`unimedvl.geometry.resize_size`.
        min_side: images with a shorter side are enlarged, or passed over as "narrow image" where ``max_side`` forbids.
        max_gib: memory that the pixels may take, in GiB.
        max_bad: fraction of unusable rows and images that is borne.

    Raises:
        ConfigError: there is no file, no image, or they take more memory than allowed.
        DataError: a file is absent or damaged, or too many rows or images are.
    """
    if not files:
        raise ConfigError("no data files", where=what, remedy="give files of records")
    source, tally, digest = Source(what, files), Tally(), hashlib.sha256()
    transform = ImageTransform(max_side, min_side, config.downsample, max_side**2)
    images: list[Tensor] = []
    modalities: list[str] = []
    taken = 0
    for number, record, ref in _references(source, tally):
        try:
            image = transform.resize(ref.read(source.root(number)))
            if min(image.size) < min_side:
                raise RecordError("narrow image", f"{image.width} x {image.height} pixels after resizing")
        except RecordError as error:
            tally.fault(error.reason, f"{source.location(number)}: {error}")
            continue
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        tally.use(record.family, what)
        taken += pixels.numel()
        if taken > max_gib * 2**30:
            raise ConfigError(
                f"the images take over {max_gib:g} GiB", where=what, remedy="give fewer files, or allow more memory"
            )
        digest.update(f"{tuple(pixels.shape)}".encode() + pixels.numpy().tobytes())
        images.append(pixels)
        modalities.append(record.modality)
    _check(tally, max_bad, what)
    if not images:
        raise ConfigError("the records hold no usable image", where=what, remedy="give files of records with images")
    return Pixels(tuple(images), tuple(modalities), digest.hexdigest())


def _check(tally: Tally, max_bad: float, what: str) -> None:
    """Tell of rows and images that cannot be used; refuse more than the fraction ``max_bad`` of them."""
    if not tally.bad:
        return
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(tally.faults.items()))
    problem = f"{tally.bad} of {tally.seen} rows and images cannot be used: {counts}; the first: "
    problem += next(iter(tally.first.values()))
    if tally.bad > max_bad * tally.seen:
        raise DataError(problem, where=what, remedy="mend them, or raise max_bad_fraction")
    log.warning("%s", problem)


def _references(source: Source, tally: Tally) -> Iterator[tuple[int, Record, ImageRef]]:
    """Row number, record and reference of each image at its first mention."""
    seen: set[str] = set()
    for number in range(len(source)):
        try:
            record = source.record(number)
        except RecordError as error:
            tally.fault(error.reason, str(error))
            continue
        for ref in (*record.inputs, *record.outputs):
            root = source.root(number)
            name = str(ref.location(root).resolve()) if ref.data is None else hashlib.sha256(ref.data).hexdigest()
            if name not in seen:
                seen.add(name)
                yield number, record, ref


class Crops:
    """Random crops; those of a step are a function of (seed, step) alone.

    Images come in the order of a new permutation each epoch, so each is used once an epoch; windows are uniform, and
    mirrored left to right and upside down half of the time each.

    Args:
        side: of the crops, in pixels; no image may be smaller.
    """

    def __init__(self, pixels: Pixels, side: int, batch_size: int, seed: int) -> None:
        self.pixels, self.side, self.batch_size, self.seed = pixels, side, batch_size, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def batch(self, step: int) -> Tensor:
        """float32 (B, 3, side, side) in [-1, 1] of a step, counted from 0."""
        rng = np.random.default_rng([self.seed, _CROPS, step])
        crops = [self._crop(self._image(step * self.batch_size + place), rng) for place in range(self.batch_size)]
        return torch.stack(crops).float() / 127.5 - 1

    def eps(self, step: int, shape: Sequence[int]) -> Tensor:
        """float32 standard normal noise of a step, drawn on the CPU."""
        (seed,) = np.random.SeedSequence([self.seed, _NOISE, step]).generate_state(1, np.uint64)
        return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(int(seed)))

    def _image(self, position: int) -> Tensor:
        epoch, place = divmod(position, len(self.pixels))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, _ORDER, epoch]).permutation(len(self.pixels))
        return self.pixels.images[self._order[place]]

    def _crop(self, image_CHW: Tensor, rng: np.random.Generator) -> Tensor:
        top, left = (int(rng.integers(length - self.side + 1)) for length in image_CHW.shape[1:])
        crop = image_CHW[:, top : top + self.side, left : left + self.side]
        mirrored = [axis for axis, yes in ((1, rng.random() < 0.5), (2, rng.random() < 0.5)) if yes]
        return crop.flip(mirrored)


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` numbers, evenly over those below ``count``."""
    chosen = min(count, most)
    return [place * count // chosen for place in range(chosen)]
