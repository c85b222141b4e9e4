"""From a checkpoint of a run to a directory in the published layout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from unimedvl.config import ModelConfig
from unimedvl.data.tasks import TrainTransforms
from unimedvl.errors import CheckpointError
from unimedvl.infer.defaults import Defaults
from unimedvl.model.weights import open_autoencoder, save_checkpoint
from unimedvl.processor import ImageTransforms
from unimedvl.settings import build, override
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
    autoencoder_dtype: torch.dtype | None = None,
    settings: Path | None = None,
    max_shard_size: str | None = None,
) -> Checkpoint:
    """Write the weights of a run's newest checkpoint, or of one checkpoint, so that inference can load them.

    Args:
        source: the output folder of a run, or the folder of a checkpoint.
        autoencoder, tokenizer: folders; those that the run used by default.
        autoencoder_dtype: of the stored autoencoder; as it is if None.
        settings: YAML file of :class:`unimedvl.infer.defaults.Defaults` for these weights; their image sizes are
            those of the run.

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
    seen = build(TrainTransforms, manifest["recipe"]["transforms"], str(checkpoint.folder))
    transforms = ImageTransforms(understand=seen.vit, condition=seen.vae, condition_vit=seen.vit)
    defaults = override(Defaults(transforms), file=settings)  # refused before anything is written
    models = {kind: model_of(checkpoint, config, averaged=kind == "ema").to(dtype) for kind in kinds}
    save_checkpoint(
        out,
        models[kinds[0]],
        None if folder is None else open_autoencoder(folder, config.vae, dtype=autoencoder_dtype),
        weights={kind: model.state_dict() for kind, model in models.items()},
        tokenizer_from=codec,
        max_shard_size=max_shard_size,
        also=defaults.files(),
    )
    return checkpoint


def _folder(named: str | None) -> Path | None:
    return None if named is None else Path(named)
