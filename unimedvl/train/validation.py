"""Held-out rows while training: their losses, and some of them answered and drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from unimedvl.config import ModelConfig
from unimedvl.data.loader import PackedLoader
from unimedvl.data.moments import MomentCache
from unimedvl.data.stream import Stream
from unimedvl.data.tasks import Drafter
from unimedvl.model.vae import Autoencoder, encode_latents
from unimedvl.processor import TextCodec
from unimedvl.train import showing
from unimedvl.train.backend import Backend
from unimedvl.train.settings import ValidationSettings
from unimedvl.types import PackedBatch


@dataclass(frozen=True)
class Encoder:
    """Moves a batch to the device and encodes what waits for the frozen autoencoder; new moments are kept."""

    autoencoder: Autoencoder | None
    config: ModelConfig
    device: torch.device
    moments: MomentCache | None

    def __call__(self, batch: PackedBatch) -> PackedBatch:
        """The batch with its latents."""
        batch = batch.to(self.device, non_blocking=True)
        if self.autoencoder is None:
            return batch
        return encode_latents(batch, self.autoencoder, self.config, None if self.moments is None else self.moments.put)


class HeldOut:
    """The held-out rows of a run: the same ones, with the same noise, every time. All ranks call it alike.

    Args:
        settings: with data.
    """

    def __init__(self, settings: ValidationSettings, codec: TextCodec, backend: Backend, encode: Encoder) -> None:
        own = settings.data
        assert own is not None  # the settings refuse validation without
        drafter = Drafter(codec, encode.config, own.transforms, own.dropout, shift=own.shift)
        self.settings, self.backend, self.encode = settings, backend, encode
        self.stream = Stream(replace(own, workers=0), drafter, encode.moments)

    @torch.no_grad()
    def losses(self) -> dict[str, float]:
        """Mean ce and mse over the held-out batches of all ranks."""
        backend = self.backend
        totals = torch.zeros(4, dtype=torch.float64)
        for number, loaded in enumerate(PackedLoader(self.stream, rank=backend.rank, world=backend.world), start=1):
            batch = loaded.batch
            ce, mse = backend.losses(self.encode(batch))
            counts = [float(ce), float(batch.ce_weights.sum()), float(mse), float(len(batch.velocity_index))]
            totals += torch.tensor(counts, dtype=torch.float64)
            if number * backend.world >= self.settings.batches:
                break
        ce, ce_count, mse, mse_count = backend.summed(totals).tolist()
        return {"ce": ce / max(ce_count, 1e-30), "mse": mse / max(mse_count, 1e-30)}

    def show(self, folder: Path) -> list[Path]:
        """Answer and draw fixed rows; the pictures that the first rank has written into ``folder``."""
        settings = self.settings
        if not settings.prompts:
            return []
        transforms, codec = self.stream.settings.transforms, self.stream.drafter.codec
        rows = showing.chosen_rows(self.stream, settings.prompts, transforms, settings.steps, settings.new_tokens)
        results = showing.answer(rows, self.backend.model, codec, self.encode.autoencoder, transforms)
        return showing.save(rows, results, folder) if self.backend.rank == 0 else []
