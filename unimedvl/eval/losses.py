"""Cross-entropy and flow loss on held-out rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from unimedvl.data.loader import PackedLoader
from unimedvl.data.mixture import FamilyWeights
from unimedvl.data.settings import DataSettings, SourceSettings
from unimedvl.data.stream import Stream
from unimedvl.data.tasks import Drafter, Dropout, TrainTransforms
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.model.vae import Autoencoder, encode_latents
from unimedvl.processor import ImageTransforms, TextCodec

_TOKENS = 2048


@torch.inference_mode()
def held_out_losses(
    model: UniMedVL,
    codec: TextCodec,
    autoencoder: Autoencoder,
    transforms: ImageTransforms,
    files: Mapping[str, tuple[str, Path]],
    weights: FamilyWeights,
    batches: int,
) -> dict[str, float]:
    """Mean ce (nats per answer token) and mse (per latent value): the same rows, noise and timesteps for every model.

    Args:
        files: family and file of each source.
        weights: shares of the families, in samples.
        batches: packed batches of 2,048 tokens.
    """
    settings = DataSettings(
        sources=tuple(SourceSettings(name, family, (str(path),)) for name, (family, path) in files.items()),
        weights=weights,
        transforms=TrainTransforms(vit=transforms.understand, vae=transforms.condition),
        dropout=Dropout(0.0, 0.0, 0.0),
        max_tokens=_TOKENS,
        seed=1,
        workers=0,
    )
    drafter = Drafter(codec, model.config, settings.transforms, settings.dropout, shift=settings.shift)
    ce, ce_count, mse, mse_count = 0.0, 0.0, 0.0, 0
    for number, loaded in enumerate(PackedLoader(Stream(settings, drafter)), start=1):
        batch = loaded.batch.to(model.device)
        output = model(encode_latents(batch, autoencoder, model.config))
        ce, ce_count = ce + float(output.ce_sum), ce_count + float(output.ce_count)
        mse, mse_count = mse + float(output.mse_sum), mse_count + output.mse_count
        if number >= batches:
            break
    return {"ce": ce / max(ce_count, 1e-30), "mse": mse / max(mse_count, 1)}
