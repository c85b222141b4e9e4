"""A fresh UniMedVL from its three parents: Qwen2.5, SigLIP, and the FLUX autoencoder (paper section 3.3)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from unimedvl.config import ModelConfig, VaeConfig
from unimedvl.errors import CheckpointError
from unimedvl.model.directory import (
    files_of,
    llm_from_published,
    open_safetensors,
    read_json,
    resolve_directory,
    vit_from_published,
)
from unimedvl.model.meta import on_meta
from unimedvl.model.mot import GEN
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.model.vae import Autoencoder
from unimedvl.model.weights import assign_tensors, open_autoencoder

logger = logging.getLogger(__name__)

_POSITIONS = "embeddings.position_embedding.weight"
_OWN_NORMS = ("q_norm", "k_norm")


def from_qwen(
    qwen: str | Path,
    siglip: str | Path,
    flux: str | Path,
    *,
    vae: VaeConfig | None = None,
    vit_side: int = 70,
    max_latent_size: int = 64,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[UniMedVL, Autoencoder]:
    """A model whose und expert is Qwen2.5, whose gen expert is a copy of it, and whose eyes are SigLIP.

    Connector, flow head and per-head norms are fresh. SigLIP's last layer is left out, as published; its position
    table is resized (bicubic) when it has another side than ``vit_side``.

    Args:
        qwen, siglip: directories or hub ids in transformers' layout. ``flux``: one that holds ``ae.safetensors``.
        vae: sizes of the autoencoder, FLUX's by default.

    Raises:
        CheckpointError: a file is absent or damaged, or its tensors do not fit its config.
    """
    qwen, siglip, flux = (resolve_directory(path) for path in (qwen, siglip, flux))
    vit_values = read_json(siglip / "config.json")
    config = ModelConfig(
        llm=llm_from_published(read_json(qwen / "config.json"), qwen / "config.json"),
        vit=vit_from_published(vit_values.get("vision_config", vit_values), siglip / "config.json", vit_side),
        vae=vae or VaeConfig(),
        max_latent_size=max_latent_size,
    )
    with on_meta():
        model = UniMedVL(config)
    _take_qwen(model, _weights_of(qwen), dtype)
    _take_siglip(model, _weights_of(siglip), dtype)
    model.init_missing(torch.Generator().manual_seed(seed), dtype)
    return model, open_autoencoder(flux, config.vae)


def _weights_of(directory: Path) -> list[Path]:
    if files := files_of(directory, "model"):
        return files
    raise CheckpointError(
        "model.safetensors is missing", where=str(directory), remedy="give a directory in transformers' layout"
    )


def _names_in(files: Iterable[Path]) -> list[str]:
    names = []
    for path in files:
        with open_safetensors(path) as file:
            names += file.keys()
    return names


def _take_qwen(model: UniMedVL, files: list[Path], dtype: torch.dtype) -> None:
    language_model = model.language_model
    wanted = {
        name: name
        for name in language_model.state_dict()
        if GEN not in name and not any(norm in name for norm in _OWN_NORMS)
    }
    tied = "lm_head.weight" not in _names_in(files)
    if tied:
        del wanted["lm_head.weight"]
    assign_tensors(language_model, files, wanted, dtype=dtype)
    if tied:  # small Qwen2.5 models use the embedding as output head; here the two are trained apart
        head = language_model.model.embed_tokens.weight.detach().clone()
        language_model.lm_head.weight = torch.nn.Parameter(head)


def _take_siglip(model: UniMedVL, files: list[Path], dtype: torch.dtype) -> None:
    vision = model.vit_model.vision_model
    stored = _names_in(files)
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in stored) else ""
    wanted = {prefix + name: name for name in vision.state_dict()}
    dropped = f"{prefix}encoder.layers.{len(vision.encoder.layers)}."
    # The pooling head, the text tower, and the layer that is never used.
    ignored = {name for name in stored if name.startswith((dropped, f"{prefix}head.", "text_model.", "logit_"))}
    ignored |= {name for name in stored if prefix and not name.startswith(prefix)}
    positions = _resized_positions(files, prefix + _POSITIONS, model.config.vit.max_side)
    if positions is not None:
        ignored.add(prefix + _POSITIONS)
        del wanted[prefix + _POSITIONS]
        vision.embeddings.position_embedding.weight = torch.nn.Parameter(positions.to(dtype))
    assign_tensors(vision, files, wanted, ignored=ignored, dtype=dtype)


def _resized_positions(files: Iterable[Path], name: str, side: int) -> Tensor | None:
    """The learned table (side*side, width) at its new side; None if it has it already, or is not there."""
    for path in files:
        with open_safetensors(path) as file:
            if name not in file.keys():  # noqa: SIM118 (not a dict)
                continue
            table = file.get_tensor(name)
            old = round(table.shape[0] ** 0.5)
            if old == side:
                return None
            logger.info("SigLIP's position table goes from %d x %d to %d x %d (bicubic)", old, old, side, side)
            grid = table.float().T.reshape(1, -1, old, old)
            resized = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
            return resized.flatten(2)[0].T.contiguous()
    return None
