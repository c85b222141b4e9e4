"""Between people's inputs and the model's: text to token ids, images to normalized pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unimedvl.config import ModelConfig
from unimedvl.errors import CheckpointError, DataError
from unimedvl.geometry import DEFAULT_MAX_PIXELS, resize_size
from unimedvl.imaging import to_rgb
from unimedvl.types import SpecialTokens, TextSegment, VitSegment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")


@dataclass(frozen=True)
class ImageTransform:
    """Resize to the published rule (see :func:`unimedvl.geometry.resize_size`) and normalize to [-1, 1].

    ``stride`` is 16 for the autoencoder and 14 for the vision encoder.
    """

    max_side: int
    min_side: int
    stride: int
    max_pixels: int = DEFAULT_MAX_PIXELS

    def resize(self, image: Image.Image) -> Image.Image:
        """RGB image at its target size, bicubic; transparency is laid on white."""
        image = to_rgb(image)
        size = resize_size(*image.size, self.max_side, self.min_side, self.stride, self.max_pixels)
        return image.resize(size, Image.Resampling.BICUBIC)

    def __call__(self, image: Image.Image) -> Tensor:
        """float32 (3, H, W) in [-1, 1]."""
        return normalized(self.resize(image))


def normalized(image: Image.Image) -> Tensor:
    """float32 (3, H, W) in [-1, 1] of an RGB image."""
    pixels_HWC = torch.from_numpy(np.array(image))
    return (pixels_HWC.permute(2, 0, 1).float() / 255 - 0.5) / 0.5


def to_pillow(pixels_CHW: Tensor, *, truncate: bool = False) -> Image.Image:
    """RGB image of pixels in [-1, 1], values outside clamped; rounded, or truncated as the published code does."""
    values = (pixels_CHW.float() * 0.5 + 0.5).clamp(0, 1) * 255
    values = values if truncate else values.round()
    return Image.fromarray(values.to(torch.uint8).permute(1, 2, 0).cpu().numpy())


class TextCodec:
    """The tokenizer with the four control tokens that frame text and images.

    Control tokens that the tokenizer lacks are added to it; their ids never come from a model config.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        missing = [token for token in _SPECIAL if token not in tokenizer.get_vocab()]
        tokenizer.add_tokens(missing, special_tokens=True)
        bos, eos, start, end = (int(tokenizer.get_vocab()[token]) for token in _SPECIAL)
        self.special = SpecialTokens(bos, eos, start, end)

    @classmethod
    def from_directory(cls, directory: str | Path) -> TextCodec:
        """Read the tokenizer files of a checkpoint directory.

        Raises:
            CheckpointError: they are absent or damaged.
        """
        from transformers import Qwen2Tokenizer

        present = {path.name for path in Path(directory).iterdir()}
        if "tokenizer.json" not in present and not {"vocab.json", "merges.txt"} <= present:
            # transformers would give a tokenizer without words.
            raise CheckpointError(
                "no tokenizer files", where=str(directory), remedy="put vocab.json and merges.txt there"
            )
        try:
            return cls(Qwen2Tokenizer.from_pretrained(str(directory), local_files_only=True))
        except Exception as error:  # the tokenizers library raises nothing more specific
            raise CheckpointError(
                f"the tokenizer cannot be read: {error}".splitlines()[0],
                where=str(directory),
                remedy="put vocab.json, merges.txt and tokenizer_config.json there",
            ) from error

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; control tokens written in the text are not special."""
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def segment(self, text: str, *, loss: bool = False) -> TextSegment:
        """The text as a segment, between bos and eos."""
        return TextSegment((self.special.bos, *self.encode(text), self.special.eos), loss)

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, control tokens left out."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        assert isinstance(text, str)  # a list only for a batch of ids
        return text


@dataclass(frozen=True)
class ImageTransforms:
    """How images reach the model (paper, appendix; the published scripts).

    Attributes:
        understand: for the vision encoder alone; ``max_pixels`` is shared by the images of one question.
        condition: for the autoencoder, of images that are edited.
        condition_vit: for the vision encoder, of images that ``condition`` has resized.
    """

    understand: ImageTransform = ImageTransform(980, 378, 14, 2_007_040)
    condition: ImageTransform = ImageTransform(1024, 32, 16)
    condition_vit: ImageTransform = ImageTransform(980, 387, 14)

    def fitted(self, config: ModelConfig) -> ImageTransforms:
        """The same, with sides that the model's position tables hold."""
        vit, vae = config.vit, config.latent_stride

        def fit(transform: ImageTransform, stride: int, side: int) -> ImageTransform:
            limit = side * stride
            largest = min(transform.max_side, limit) // stride * stride
            return replace(transform, max_side=largest, min_side=min(transform.min_side, largest), stride=stride)

        return ImageTransforms(
            fit(self.understand, vit.patch_size, vit.max_side),
            fit(self.condition, vae, config.max_latent_size),
            fit(self.condition_vit, vit.patch_size, vit.max_side),
        )


class Processor:
    """Text and images to segments.

    Args:
        transforms: used as they are; see :meth:`ImageTransforms.fitted`.
    """

    def __init__(self, codec: TextCodec, transforms: ImageTransforms) -> None:
        self.codec = codec
        self.transforms = transforms

    def text(self, text: str) -> TextSegment:
        """A text between bos and eos.

        Raises:
            DataError: it is empty.
        """
        if not text.strip():
            raise DataError("the text is empty", where="prompt", remedy="say what you want")
        return self.codec.segment(text)

    def to_understand(self, image: Image.Image, count: int = 1) -> VitSegment:
        """An image to be read, one of ``count`` that share the pixel limit."""
        transform = self.transforms.understand
        return VitSegment(replace(transform, max_pixels=transform.max_pixels // count)(image))

    def to_condition(self, image: Image.Image) -> tuple[Tensor, VitSegment]:
        """An image to be edited: float32 (3, H, W) for the autoencoder, and what the vision encoder sees of it."""
        resized = self.transforms.condition.resize(image)
        return normalized(resized), VitSegment(self.transforms.condition_vit(resized))
