"""Between people's inputs and the model's: text to token ids, images to normalized pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unimedvl.errors import CheckpointError
from unimedvl.geometry import DEFAULT_MAX_PIXELS, resize_size
from unimedvl.types import SpecialTokens, TextSegment

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
        pixels_HWC = torch.from_numpy(np.array(self.resize(image)))
        return (pixels_HWC.permute(2, 0, 1).float() / 255 - 0.5) / 0.5


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB with transparent pixels laid on white."""
    if image.mode == "RGBA" or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, (255, 255, 255))
        canvas.paste(image, mask=image.getchannel("A"))
        return canvas
    return image.convert("RGB")


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

        try:
            return cls(Qwen2Tokenizer.from_pretrained(str(directory), local_files_only=True))
        except (OSError, ValueError) as error:
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
        """Text of token ids."""
        text = self.tokenizer.decode(ids)
        assert isinstance(text, str)  # a list only for a batch of ids
        return text
