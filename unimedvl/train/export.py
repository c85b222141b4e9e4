"""From a checkpoint of a run to a directory in the published layout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from unimedvl.config import ModelConfig
from unimedvl.errors import CheckpointError
from unimedvl.model.weights import open_autoencoder, save_checkpoint
from unimedvl.train.build import model_of
from unimedvl.train.checkpoint import MANIFEST, Checkpoint, newest


def export(
    source: Path,
    out: Path,
    *,
    weights: Literal["ema", "model", "both"] = "ema",
    dtype: torch.dtype = torch.float32,
    autoencoder: Path | None = None,
    tokenizer: Path | None = None,
    max_shard_size: str | None = None,
) -> Checkpoint:
    """Write the weights of a run's newest checkpoint, or of one checkpoint, so that inference can load them.

    Args:
        source: the output folder of a run, or the folder of a checkpoint.
        autoencoder, tokenizer: folders; those that the run used by default.

    Raises:
        CheckpointError: there is no checkpoint, something of it is missing, or ``out`` holds something.
    """
    checkpoint = Checkpoint(source) if (source / MANIFEST).is_file() else newest(source)
    if checkpoint is None:
        raise CheckpointError("no checkpoint", where=str(source), remedy="give the output folder of a run")
    manifest = checkpoint.manifest
    config = ModelConfig.from_dict(manifest["model"], str(checkpoint.folder))
    folder = autoencoder or _folder(manifest["sources"]["autoencoder"])
    codec = tokenizer or _folder(manifest["sources"]["tokenizer"])
    kinds = ("ema", "model") if weights == "both" else (weights,)
    models = {kind: model_of(checkpoint, config, averaged=kind == "ema").to(dtype) for kind in kinds}
    save_checkpoint(
        out,
        models[kinds[0]],
        None if folder is None else open_autoencoder(folder, config.vae),
        weights={kind: model.state_dict() for kind, model in models.items()},
        tokenizer_from=codec,
        max_shard_size=max_shard_size,
    )
    return checkpoint


def _folder(named: str | None) -> Path | None:
    return None if named is None else Path(named)
