"""Does a drawn image fit its caption? BiomedCLIP's similarity."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from unimedvl.errors import ConfigError, DataError
from unimedvl.imaging import to_rgb
from unimedvl.infer.placement import as_device

MODEL = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
_CONFIG = "open_clip_config.json"
_INSTALL = "pip install open_clip_torch timm torchvision (the one of this torch)"


@dataclass(frozen=True)
class Clip:
    """A model of images and texts that open_clip reads.

    Attributes:
        prepare: image to float (3, H, W), as the model's directory says.
        tokenize: texts to token ids (B, T), cut at the model's length.
        batch: pairs at once.
    """

    model: nn.Module
    prepare: Callable[[Image.Image], Tensor]
    tokenize: Callable[[list[str]], Tensor]
    device: torch.device
    batch: int = 32

    @torch.inference_mode()
    def similarities(self, images: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        """Cosine of each image and its caption, from -1 to 1; the BiomedCLIP score is their mean.

        Raises:
            DataError: the captions do not match the images.
        """
        if len(images) != len(captions) or not images:
            raise DataError(
                f"{len(images)} images for {len(captions)} captions",
                where="text-image similarity",
                remedy="give one caption for each image, and at least one",
            )
        model: Any = self.model
        cosines: list[float] = []
        for start in range(0, len(images), self.batch):
            part = slice(start, start + self.batch)
            pixels = torch.stack([self.prepare(to_rgb(image)) for image in images[part]]).to(self.device)
            seen_BD = model.encode_image(pixels, normalize=True)
            read_BD = model.encode_text(self.tokenize(list(captions[part])).to(self.device), normalize=True)
            cosines += (seen_BD.float() * read_BD.float()).sum(dim=1).tolist()
        return cosines


def load_clip(path: str | Path, device: str | torch.device | None = None) -> Clip:
    """BiomedCLIP, or another model of open_clip, from a local directory; nothing is downloaded.

    Args:
        path: folder of ``open_clip_config.json``, the weights and the tokenizer, as in the hub repository
            :data:`MODEL`. The text tower's own config, which the repository only names, must be local too: put it
            into a folder, and that folder's path in place of the name under ``hf_model_name``.
        device: the first GPU, or else the CPU, if None.

    Raises:
        ConfigError: a file or a package is absent, or the directory cannot be read.
    """
    directory = Path(path).expanduser()
    _check_local(directory)
    try:
        import open_clip  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"the BiomedCLIP score needs open_clip: {error}".splitlines()[0],
            where=str(directory),
            remedy=_INSTALL,
        ) from error
    chosen = as_device(device)
    name = f"local-dir:{directory.resolve()}"
    try:
        model, prepare = open_clip.create_model_from_pretrained(name, device=str(chosen))
        tokenize = open_clip.get_tokenizer(name)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(
            f"open_clip cannot read it: {error}".splitlines()[0], where=str(directory), remedy=f"copy {MODEL} again"
        ) from error
    return Clip(model.eval(), prepare, tokenize, chosen)


def _check_local(directory: Path) -> None:
    """Refuse what open_clip would fetch from the hub."""
    file = directory / _CONFIG
    if not file.is_file():
        raise ConfigError(f"no {_CONFIG}", where=str(directory), remedy=f"put the files of {MODEL} there")
    try:
        text = json.loads(file.read_text(encoding="utf-8"))["model_cfg"]["text_cfg"]
        name = text.get("hf_model_name")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError("no config of open_clip", where=str(file), remedy=f"copy that of {MODEL}") from error
    if name and not (Path(name) / "config.json").is_file():
        raise ConfigError(
            f"its text tower is {name!r}, which is no local folder with a config.json",
            where=str(file),
            remedy=f"save the config.json of {name} in a folder and write the folder's path as hf_model_name",
        )
