"""What a run that trains an autoencoder is told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from unimedvl.errors import ConfigError

Schedule = Literal["constant", "cosine"]
Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class AutoencoderSettings:
    """How an autoencoder is trained.

    Attributes:
        files: paths or globs of records; every image that they refer to, input or target, is used, each once an epoch.
        validation_files: records whose whole images are held out; nothing is validated without.
        crop: side of the training crops in pixels; smaller images are enlarged.
        max_side: larger images are shrunk, in pixels.
        warmup: steps in which the learning rate rises from 0.
        schedule: of the learning rate after it: held, or a cosine to 0 at the last step.
        clip: largest norm of the gradient.
        l1_weight, l2_weight: of the mean absolute and squared errors of pixels in [-1, 1].
        edge_weight: of the mean absolute error of the differences between neighboring pixels.
        kl_weight: of the KL divergence of the posterior from the standard normal, in nats per latent value.
        precision: of the forward; weights and their averages are float32.
        ema_decay: of the averaged weights, which are validated and kept; it rises to this value.
        validation_images: are validated, evenly spread over those there are.
        scale_images: tell the scale of the latents at the end, evenly spread over those there are.
        max_skips: steps with a loss or gradient that is not finite, which change nothing, before the run stops.
        max_gib: memory that the images may take, in GiB.
        max_bad_fraction: more unusable rows and images than this stop the run.
    """

    files: tuple[str, ...] = ()
    validation_files: tuple[str, ...] = ()
    steps: int = 1000
    batch_size: int = 16
    crop: int = 64
    max_side: int = 1024
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 50
    schedule: Schedule = "cosine"
    clip: float = 1.0
    l1_weight: float = 1.0
    l2_weight: float = 0.0
    edge_weight: float = 0.0
    kl_weight: float = 1e-6
    precision: Precision = "bf16"
    ema_decay: float = 0.99
    log_every: int = 20
    save_every: int = 200
    validate_every: int = 500
    validation_images: int = 128
    scale_images: int = 512
    max_skips: int = 20
    seed: int = 0
    max_gib: float = 8.0
    max_bad_fraction: float = 0.05

    def __post_init__(self) -> None:
        for name in ("files", "validation_files", "betas"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        whole = ("steps", "batch_size", "crop", "max_side", "log_every", "save_every", "validate_every")
        for name in (*whole, "validation_images", "scale_images"):
            self._require(name, getattr(self, name) >= 1, "give 1 or more")
        for name in ("warmup", "seed", "max_skips", "l1_weight", "l2_weight", "edge_weight", "kl_weight"):
            self._require(name, 0 <= getattr(self, name) < math.inf, "give 0 or more")
        for name in ("learning_rate", "clip", "max_gib"):
            self._require(name, 0 < getattr(self, name) < math.inf, "give a positive number")
        for name in ("ema_decay", "max_bad_fraction"):
            self._require(name, 0 <= getattr(self, name) < 1, "give 0 to below 1")
        self._require("betas", len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas), "give two below 1")
        self._require("schedule", self.schedule in get_args(Schedule), f"use one of {', '.join(get_args(Schedule))}")
        self._require("precision", self.precision in get_args(Precision), "use one of bf16, fp32")
        self._require("l1_weight", self.l1_weight + self.l2_weight > 0, "weigh l1 or l2, or nothing is reconstructed")
        self._require("crop", self.crop <= self.max_side, "give at most max_side")

    def _require(self, name: str, fits: bool, remedy: str) -> None:
        if not fits:
            raise ConfigError(f"{name} is {getattr(self, name)!r}", where="autoencoder", remedy=remedy)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.learning_rate
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
