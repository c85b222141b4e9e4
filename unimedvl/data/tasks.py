"""Records to drafts: one function per task family says which segments it makes (paper, appendix).

A draft knows its length in tokens but holds images as 8-bit pixels, so that many can wait to be packed; ``realize``
makes the sample of a draft that was chosen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unimedvl.config import ModelConfig
from unimedvl.data.augment import Augment
from unimedvl.data.records import IMAGE_MARK, Family, ImageRef, Record, Speaker, Turn
from unimedvl.errors import ConfigError
from unimedvl.processor import ImageTransform, TextCodec, normalized
from unimedvl.schedules import shift_timesteps
from unimedvl.types import DroppedImage, Sample, Segment, TextSegment, VaeSegment, VitSegment


@dataclass(frozen=True)
class Dropout:
    """Chances to leave out a condition in training, one draw a segment (for guidance; paper, appendix).

    They act on the human text of text-to-image and on the images of understanding; with ``edits``, as in BAGEL, on
    every condition of edits and counterfactuals too.
    """

    text: float = 0.3
    vit: float = 0.05
    vae: float = 0.05
    edits: bool = False

    def __post_init__(self) -> None:
        for name in ("text", "vit", "vae"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"chance {getattr(self, name)}", where=f"dropout.{name}", remedy="give 0 to below 1")


@dataclass(frozen=True)
class TrainTransforms:
    """How images reach the model in training: both start from the original image.

    ``vit.max_pixels`` is shared by the images of one understanding record.
    """

    vit: ImageTransform = field(default_factory=lambda: ImageTransform(980, 378, 14, 2_007_040))
    vae: ImageTransform = field(default_factory=lambda: ImageTransform(1024, 512, 16))


@dataclass(frozen=True)
class TextPiece:
    """A text between bos and eos."""

    ids: tuple[int, ...]
    loss: bool = False
    droppable: bool = False


@dataclass(frozen=True)
class ImagePiece:
    """An image for the vision encoder (``kind`` vit), or the autoencoder (clean or target).

    ``pixels`` is an RGB image at its final size; ``key`` names its file and size for a cache of moments.
    """

    kind: Literal["vit", "clean", "target"]
    pixels: Image.Image
    droppable: bool = False
    key: str = ""


Piece = TextPiece | ImagePiece


@dataclass(frozen=True)
class Draft:
    """What a record makes at one position of the stream, conditions already dropped; ``tokens`` is its length."""

    pieces: tuple[Piece | DroppedImage, ...]
    tokens: int


@dataclass
class Maker:
    """Makes the pieces of one record."""

    codec: TextCodec
    transforms: TrainTransforms
    read: Callable[[ImageRef], tuple[Image.Image, str]]
    drop_edits: bool
    augment: Callable[[Image.Image], Image.Image] = lambda image: image
    pieces: list[Piece] = field(default_factory=list)
    images: dict[ImageRef, tuple[Image.Image, str]] = field(default_factory=dict)

    def image(self, ref: ImageRef) -> tuple[Image.Image, str]:
        """An image and its key, read once."""
        if ref not in self.images:
            self.images[ref] = self.read(ref)
        return self.images[ref]

    def text(self, text: str, *, loss: bool = False, droppable: bool = False) -> None:
        """A text without marks; nothing if it is empty."""
        text = text.replace(IMAGE_MARK, "").strip()
        if text:
            special = self.codec.special
            self.pieces.append(TextPiece((special.bos, *self.codec.encode(text), special.eos), loss, droppable))

    def vit(self, ref: ImageRef, *, share: int = 1, droppable: bool = False, changed: bool = False) -> None:
        """An image for the vision encoder, one of ``share`` among which the pixel limit is divided.

        Args:
            changed: augmented first.
        """
        image, key = self.image(ref)
        image = self.augment(image) if changed else image
        transform = replace(self.transforms.vit, max_pixels=self.transforms.vit.max_pixels // share)
        self.pieces.append(ImagePiece("vit", transform.resize(image), droppable, key))

    def vae(self, ref: ImageRef, *, target: bool, droppable: bool = False) -> None:
        """An image for the autoencoder."""
        image, key = self.image(ref)
        resized = self.transforms.vae.resize(image)
        self.pieces.append(ImagePiece("target" if target else "clean", resized, droppable, key))

    def conditions(self, refs: Iterable[ImageRef]) -> None:
        """Inputs of an edit, each for both encoders."""
        for ref in refs:
            self.vae(ref, target=False, droppable=self.drop_edits)
            self.vit(ref, droppable=self.drop_edits)

    def dialogue(self, record: Record, speakers: tuple[Speaker, ...] = ("human", "gpt")) -> None:
        """Turns of some speakers, answers with loss."""
        for turn in record.turns:
            if turn.speaker in speakers:
                human = turn.speaker == "human"
                self.text(turn.text, loss=not human, droppable=human and self.drop_edits)


def _understanding(record: Record, maker: Maker) -> None:
    """Images where their marks stand, human text, answer with loss; many images and turns."""
    images = iter(record.inputs)
    for turn in record.turns:
        if turn.speaker == "gpt":
            maker.text(turn.text, loss=True)
            continue
        for part in re.split(f"({re.escape(IMAGE_MARK)})", turn.text):
            if part == IMAGE_MARK:
                maker.vit(next(images), share=len(record.inputs), droppable=True, changed=True)
            else:
                maker.text(part)


def _text_only(record: Record, maker: Maker) -> None:
    """Human text, answer with loss; marks removed."""
    for turn in record.turns:
        maker.text(turn.text, loss=turn.speaker == "gpt")


def _text_to_image(record: Record, maker: Maker) -> None:
    """Human text, droppable; a plan with loss, if there is one; the target."""
    for turn in record.turns:
        maker.text(turn.text, loss=turn.speaker == "gpt", droppable=turn.speaker == "human")
    maker.vae(record.outputs[0], target=True)


def _edit(record: Record, maker: Maker) -> None:
    """The inputs for both encoders, human text, answer with loss, the target."""
    maker.conditions(record.inputs)
    maker.dialogue(record)
    maker.vae(record.outputs[0], target=True)


def _counterfactual(record: Record, maker: Maker) -> None:
    """As an edit, with the target before the explanation, which does not see it."""
    maker.conditions(record.inputs)
    maker.dialogue(record, ("human",))
    maker.vae(record.outputs[0], target=True)
    maker.dialogue(record, ("gpt",))


def _reconstruction(record: Record, maker: Maker) -> None:
    """The inputs for both encoders, human text, answer with loss, each input as a target."""
    maker.conditions(record.inputs)
    maker.dialogue(record)
    for ref in record.inputs:
        maker.vae(ref, target=True)


TASKS: Mapping[Family, Callable[[Record, Maker], None]] = {
    "understanding": _understanding,
    "text": _text_only,
    "t2i": _text_to_image,
    "edit": _edit,
    "counterfactual": _counterfactual,
    "reconstruction": _reconstruction,
}


class Drafter:
    """Records to drafts, and drafts to samples, for one model.

    Args:
        augment: of the images of understanding records.
        shift: sigma of the training timesteps: t <- sigma t / (1 + (sigma - 1) t).

    Raises:
        ConfigError: a transform makes images that the model's position tables cannot hold.
    """

    def __init__(
        self,
        codec: TextCodec,
        config: ModelConfig,
        transforms: TrainTransforms,
        dropout: Dropout,
        *,
        shift: float = 1.0,
        augment: Augment | None = None,
    ) -> None:
        self.codec, self.config, self.transforms, self.dropout, self.shift = codec, config, transforms, dropout, shift
        self.augment = augment or Augment()
        if not shift > 0:
            raise ConfigError(
                f"timestep shift {shift}", where="shift", remedy="give a positive number; 1 shifts nothing"
            )
        for name, transform, stride, side in (
            ("vit", transforms.vit, config.vit.patch_size, config.vit.max_side),
            ("vae", transforms.vae, config.latent_stride, config.max_latent_size),
        ):
            if transform.stride != stride or not 0 < transform.min_side <= transform.max_side <= stride * side:
                raise ConfigError(
                    f"sides {transform.min_side} to {transform.max_side}, stride {transform.stride}",
                    where=f"transforms.{name}",
                    remedy=f"this model takes sides up to {stride * side} in steps of {stride}",
                )

    def draft(
        self, record: Record, read: Callable[[ImageRef], tuple[Image.Image, str]], seeds: np.random.SeedSequence
    ) -> Draft:
        """The draft of a record.

        Args:
            read: an image by its reference, with a key of its file or an empty one.
            seeds: of this position; the caption, the dropout and the augmentation draw from children of their own.

        Raises:
            RecordError: an image cannot be read.
        """
        choice, drops, _, changes = (np.random.default_rng(child) for child in _children(seeds))
        if record.captions:
            drawn = record.captions[int(choice.integers(len(record.captions)))]
            record = replace(record, turns=(Turn("human", drawn),), captions=())
        augment = partial(self.augment, generator=changes)
        maker = Maker(self.codec, self.transforms, read, self.dropout.edits, augment)
        TASKS[record.family](record, maker)
        pieces = tuple(left for piece in maker.pieces if (left := self._dropped(piece, drops)) is not None)
        return Draft(pieces, sum(self.tokens(piece) for piece in pieces))

    def _dropped(self, piece: Piece, generator: np.random.Generator) -> Piece | DroppedImage | None:
        """The piece, or what is left of it: nothing of a text, a position of an image."""
        if not piece.droppable:
            return piece
        if isinstance(piece, TextPiece):
            return None if generator.random() < self.dropout.text else piece
        chance = self.dropout.vit if piece.kind == "vit" else self.dropout.vae
        return DroppedImage() if generator.random() < chance else piece

    def tokens(self, piece: Piece | DroppedImage) -> int:
        """Tokens of a piece in the packed sequence, vision markers included."""
        if isinstance(piece, DroppedImage):
            return 0
        if isinstance(piece, TextPiece):
            return len(piece.ids)
        width, height = piece.pixels.size
        stride = self.config.vit.patch_size if piece.kind == "vit" else self.config.latent_stride
        return (width // stride) * (height // stride) + 2

    def realize(
        self,
        draft: Draft,
        seeds: np.random.SeedSequence,
        cached: Callable[[str], tuple[Tensor, Tensor] | None] | None = None,
    ) -> Sample:
        """The sample of a draft: pixels normalized; timesteps, noise and posterior draws from the position's seeds.

        Args:
            cached: mean and standard deviation of the moments kept under a key, or None.
        """
        generator = torch.Generator().manual_seed(int(_children(seeds)[2].generate_state(1, np.uint64)[0] >> 1))
        return tuple(self._segment(piece, generator, cached) for piece in draft.pieces)

    def _segment(
        self,
        piece: Piece | DroppedImage,
        generator: torch.Generator,
        cached: Callable[[str], tuple[Tensor, Tensor] | None] | None,
    ) -> Segment:
        if isinstance(piece, DroppedImage):
            return piece
        if isinstance(piece, TextPiece):
            return TextSegment(piece.ids, piece.loss)
        if piece.kind == "vit":
            return VitSegment(normalized(piece.pixels))
        vae, (width, height) = self.config.vae, piece.pixels.size
        shape = (vae.latent_channels, height // vae.downsample, width // vae.downsample)
        eps = torch.randn(shape, generator=generator)
        timestep, noise = 0.0, None
        if piece.kind == "target":
            timestep = float(shift_timesteps(torch.randn((), generator=generator).sigmoid(), self.shift))
            noise = torch.randn(shape, generator=generator)
        target = piece.kind == "target"
        key = f"{piece.key}-{width}x{height}" if piece.key else ""
        if key and cached is not None and (moments := cached(key)) is not None:
            latent = vae.scaled(moments[0] + moments[1] * eps)
            return VaeSegment(latent=latent, noised=target, timestep=timestep, noise=noise)
        return VaeSegment(normalized(piece.pixels), None, target, timestep, noise, eps, key)


def _children(seeds: np.random.SeedSequence) -> list[np.random.SeedSequence]:
    """Streams of their own for caption, dropout, flow and augmentation; calling again gives the same."""
    return [np.random.SeedSequence(seeds.entropy, spawn_key=(*seeds.spawn_key, number)) for number in range(4)]
