"""What is asked of the model in one go, and what comes back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from unimedvl import NOTICE
from unimedvl.files import aside
from unimedvl.imaging import ReadImage
from unimedvl.infer.decoding import TextOptions
from unimedvl.infer.sampling import ImageOptions

Output = Literal["text", "image"]


@dataclass(frozen=True)
class Request:
    """One context and what to make from it.

    Attributes:
        inputs: texts and images in the order in which the model sees them.
        outputs: in the order of making. A text before an image joins the image's context (a plan, an answer); a
            text after it is decoded from the context before the image, which it does not see (an explanation).
        images_as: ``vit`` to be read only, ``vae+vit`` to be edited.
        system: a text before the inputs, in the full context and in the one without images.
        size: (width, height) of the image; that of the last input image, resized, if None, or 512 x 512 (the position
            table's size, if that is smaller) without one.
        latent: noise to start from, float32 (C, h, w), in place of the seed's.
    """

    inputs: tuple[str | ReadImage, ...]
    outputs: tuple[Output, ...]
    images_as: Literal["vit", "vae+vit"] = "vit"
    system: str | None = None
    text: TextOptions = field(default_factory=TextOptions)
    image: ImageOptions = field(default_factory=ImageOptions)
    size: tuple[int, int] | None = None
    latent: Tensor | None = None

    def settings(self) -> dict[str, Any]:
        """Everything that shaped the result, ready for JSON."""
        values: dict[str, Any] = {
            "inputs": [
                item if isinstance(item, str) else {"image": item.source, "steps": list(item.steps)}
                for item in self.inputs
            ],
            "images_as": self.images_as,
            "system": self.system,
        }
        if "text" in self.outputs:
            values["text"] = asdict(self.text)
        if "image" in self.outputs:
            values["image"] = {**asdict(self.image), "own_noise": self.latent is not None}
        return values


@dataclass
class Result:
    """What one request gave.

    Attributes:
        text: the answer, plan or explanation.
        image: RGB.
        settings: what shaped it: task, model, inputs and what was done to their pixels, options, seed.
        timings: seconds by phase, of the whole batch that the request was part of.
        token_ids: ids of ``text``; ``finish`` tells why it ended: eos, stop, or length.
    """

    text: str | None = None
    image: Image.Image | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    token_ids: list[int] | None = None
    finish: str | None = None

    def save_image(self, path: str | Path) -> None:
        """Write the image as PNG, its settings in the metadata; aside first, then renamed."""
        assert self.image is not None, "the request made no image"
        info = PngInfo()
        info.add_itxt("unimedvl", json.dumps(self.settings, ensure_ascii=False))
        info.add_itxt("Comment", NOTICE)
        with aside(Path(path)) as part:
            self.image.save(part, format="PNG", pnginfo=info)

    def record(self, image_path: str | Path | None = None) -> dict[str, Any]:
        """The result as one JSON object, the image by its path."""
        return {
            "text": self.text,
            "finish": self.finish,
            "image": None if image_path is None else str(image_path),
            "settings": self.settings,
            "timings": {name: round(seconds, 4) for name, seconds in self.timings.items()},
            "notice": NOTICE,
        }
