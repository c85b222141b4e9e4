"""Our own model in the alignment score: it writes captions, and says how much an image raises a text's likelihood."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from PIL import Image

from unimedvl.bundled import bundled_model

if TYPE_CHECKING:
    from unimedvl.infer.pipeline import UniMedVLPipeline

_AT_ONCE = 16  # captions that are written in step
# Asked in turn; small models answer only what is asked plainly.
_WORDINGS = ("What does this image show?", "Write a short caption for this image.")


def seed_of(seed: int, key: str, number: int) -> int:
    """A seed below 2^62 of one caption: of the run's, the image's key, and the number of the caption."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}\0{number}".encode()).digest()[:8], "big") >> 2


@dataclass(frozen=True)
class OwnModel:
    """Captioner and image-text scorer.

    Attributes:
        place: a checkpoint directory, or ``bundled``.
        temperature: of captions, so that they differ.
        max_new_tokens: of a caption.
    """

    place: str
    temperature: float = 0.7
    max_new_tokens: int = 64

    @property
    def name(self) -> str:
        """Recorded with every score."""
        return f"unimedvl:{self.place}"

    def captions(self, images: Sequence[Image.Image], keys: Sequence[str], count: int, seed: int) -> list[list[str]]:
        """See :class:`unimedvl.data.curation.alignment.Captioner`."""
        from unimedvl.imaging import read_image
        from unimedvl.infer.tasks import Call, with_options

        calls: list[Call] = []
        for image, key in zip(images, keys, strict=True):
            read = (read_image(image),)
            for number in range(count):
                options = {"temperature": self.temperature, "max_new_tokens": self.max_new_tokens}
                settings = with_options(self.pipe.settings, seed=seed_of(seed, key, number), **options)
                calls.append(Call("vqa", read, _WORDINGS[number % len(_WORDINGS)], settings))
        texts: list[str] = []
        for first in range(0, len(calls), _AT_ONCE):
            texts += [(result.text or "").strip() for result in self.pipe.perform(calls[first : first + _AT_ONCE])]
        return [texts[first : first + count] for first in range(0, len(texts), count)]

    def scores(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """Nats per token by which the image raises the log-likelihood of the text.

        The likelihood alone would favor short and common texts; what the text has without the image is taken off.
        """
        return [
            self._log_likelihood(text, image) - self._log_likelihood(text, None)
            for image, text in zip(images, texts, strict=True)
        ]

    def _log_likelihood(self, text: str, image: Image.Image | None) -> float:
        """Mean over the tokens of a text, in nats, as the answer to a question about an image or about none."""
        import torch

        from unimedvl.data.packing import pack

        processor, model = self.pipe.processor, self.pipe.engine.model
        seen = [] if image is None else [processor.to_understand(image)]
        sample = (*seen, processor.text(_WORDINGS[0]), processor.codec.segment(text, loss=True))
        with torch.inference_mode():
            output = model(pack([sample], model.config, self.pipe.engine.special).to(model.device))
        return -float(output.ce_sum / output.ce_count)

    @cached_property
    def pipe(self) -> UniMedVLPipeline:
        """The model, loaded at the first use."""
        from unimedvl.infer.pipeline import UniMedVLPipeline

        directory = str(bundled_model()) if self.place == "bundled" else self.place
        return UniMedVLPipeline.from_pretrained(directory, und_only=True)
