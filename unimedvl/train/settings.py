"""What a training run is, as checked dataclasses; the files in ``configs/`` fill them."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unimedvl.config import ModelConfig
from unimedvl.data.settings import DataSettings
from unimedvl.errors import ConfigError
from unimedvl.model.recompute import Checkpointing
from unimedvl.train.parts import PARTS

if TYPE_CHECKING:
    import torch


def _require(owner: object, **least: float) -> None:
    """Every named field at least so much."""
    for name, bound in least.items():
        if not getattr(owner, name) >= bound:
            raise ConfigError(
                f"{name} is {getattr(owner, name)}", where=type(owner).__name__, remedy=f"give {bound:g} or more"
            )


@dataclass(frozen=True)
class ModelSettings:
    """The model and where its weights come from.

    Attributes:
        preset: named sizes, see :data:`unimedvl.config.PRESETS`; ``config`` holds them, with changes.
        init: checkpoint directory (published layout or ours) to start from; fresh weights without.
        autoencoder: directory that holds ``ae.safetensors``; ``init`` by default.
        tokenizer: directory of tokenizer files; ``init`` by default.
    """

    preset: str
    config: ModelConfig
    init: Path | None = None
    autoencoder: Path | None = None
    tokenizer: Path | None = None


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and its schedule (paper, Table 12)."""

    learning_rate: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-15
    weight_decay: float = 0.0
    clip: float = 1.0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 2000
    final_ratio: float = 0.0

    def __post_init__(self) -> None:
        _require(self, learning_rate=0, eps=0, weight_decay=0, warmup=0, final_ratio=0)
        if not self.clip > 0:
            raise ConfigError(f"clip is {self.clip}", where="optimizer", remedy="give a positive norm")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas are {self.betas}", where="optimizer", remedy="give two values from 0 to below 1")


@dataclass(frozen=True)
class LossSettings:
    """Weights of the two terms (paper equation 4)."""

    ce: float = 0.25
    mse: float = 1.0

    def __post_init__(self) -> None:
        _require(self, ce=0, mse=0)
        if not self.ce + self.mse > 0:
            raise ConfigError("both loss weights are 0", where="loss", remedy="give one of them weight")


@dataclass(frozen=True)
class RuntimeSettings:
    """Where and how it runs.

    Attributes:
        device: ``auto`` takes CUDA if there is any.
        precision: ``bf16`` computes in bfloat16, with float32 master weights, reductions and EMA.
        zero: DeepSpeed ZeRO-3 over all processes; without it there is one process.
        offload_optimizer, offload_parameters: keep them in the memory of the CPU (ZeRO only).
        checkpointing: what the backward recomputes, see :func:`unimedvl.model.recompute.layer_runner`.
        attention: backend, ``auto`` chooses.
        deterministic: ask torch for deterministic kernels.
        threads: of torch on the CPU; torch's own choice without.
        peak_tflops: of one device, for the MFU; known for common GPUs.
        gpu_memory_gib, mfu: of one device, and the part of its peak that is reached, for a dry run.
    """

    device: str = "auto"
    precision: Literal["bf16", "fp32"] = "bf16"
    zero: bool = False
    offload_optimizer: bool = False
    offload_parameters: bool = False
    checkpointing: Checkpointing = "full"
    attention: str = "auto"
    deterministic: bool = False
    threads: int | None = None
    peak_tflops: float | None = None
    gpu_memory_gib: float = 80.0
    mfu: float = 0.4

    def __post_init__(self) -> None:
        if (self.offload_optimizer or self.offload_parameters) and not self.zero:
            raise ConfigError("offload without ZeRO", where="runtime", remedy="use runtime=zero3, or do not offload")
        if self.offload_parameters and not self.offload_optimizer:
            raise ConfigError(
                "offload_parameters without offload_optimizer", where="runtime", remedy="offload the optimizer too"
            )


@dataclass(frozen=True)
class CheckpointSettings:
    """When the run is saved, and from where it goes on.

    Attributes:
        every: steps; the last step and SIGTERM save too.
        keep: newest checkpoints that are kept.
        stop_file: once this file exists, the run is saved and ends as on SIGTERM; launchers give that little time.
        resume: ``auto`` goes on from the newest checkpoint in ``output`` if there is one; ``never`` refuses a folder
            that has some; or the folder of a checkpoint, or of a run.
    """

    every: int = 1000
    keep: int = 3
    resume: str = "auto"
    stop_file: Path | None = None

    def __post_init__(self) -> None:
        _require(self, every=1, keep=1)


@dataclass(frozen=True)
class LogSettings:
    """What is reported. JSON lines are always written.

    Attributes:
        every: steps.
        wandb: ``auto`` is online with a key and offline without.
    """

    every: int = 10
    wandb: Literal["off", "auto", "online", "offline"] = "off"
    tensorboard: bool = False
    project: str = "unimedvl"

    def __post_init__(self) -> None:
        _require(self, every=1)


@dataclass(frozen=True)
class ValidationSettings:
    """Losses on held-out rows, and fixed prompts answered and drawn.

    Attributes:
        every: steps; the start and the end are validated too; 0 never.
        batches: packed batches of held-out rows, the same ones every time.
        data: held-out sources and their weights; everything else as in training, without dropout.
        prompts: held-out rows of each family that are answered or drawn.
        steps: of the solver for a picture; ``new_tokens``: longest answer.
    """

    every: int = 0
    batches: int = 8
    data: DataSettings | None = None
    prompts: int = 2
    steps: int = 25
    new_tokens: int = 48

    def __post_init__(self) -> None:
        _require(self, every=0, batches=1, prompts=0, steps=2, new_tokens=1)
        if self.every and self.data is None:
            raise ConfigError("validation without data", where="validation", remedy="name sources, or set every to 0")


@dataclass(frozen=True)
class TrainSettings:
    """One stage of training.

    Attributes:
        stage: its name, for people.
        output: folder of checkpoints, metrics and pictures.
        steps: optimizer steps; ``accumulation``: packed batches of each rank per step.
        frozen: parts that are not trained, of und, gen, vit, connector, flow.
        ema: decay of the averaged weights each step.
        max_non_finite: steps with a loss or gradient that is not finite that are skipped before the run stops.
    """

    stage: str
    model: ModelSettings
    data: DataSettings
    output: Path
    steps: int = 85_000
    accumulation: int = 1
    seed: int = 0
    frozen: tuple[str, ...] = ()
    ema: float = 0.995
    max_non_finite: int = 10
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    log: LogSettings = field(default_factory=LogSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings)

    def __post_init__(self) -> None:
        _require(self, steps=1, accumulation=1, seed=0, max_non_finite=0)
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema is {self.ema}", where="train", remedy="give a decay from 0 to below 1")
        if unknown := sorted(set(self.frozen) - set(PARTS)):
            raise ConfigError(f"unknown part {unknown[0]}", where="frozen", remedy=f"use {', '.join(PARTS)}")
        self._check_mix()
        self._check_budget()

    def _check_mix(self) -> None:
        """A stage needs the data that it mixes, and the half of the model that they train."""
        families = {source.family for source in self.data.sources if source.weight != 0}
        weights = self.data.weights
        for family in ("text", "t2i", "i2t", "interleaved"):
            if getattr(weights, family) and family not in families:
                raise ConfigError(
                    f"the mix wants {getattr(weights, family):g} of {family}, and no source has any",
                    where=f"data.weights.{family}",
                    remedy=f"add a source of family {family}, or set the weight to 0",
                )
        config = self.model.config
        for half, present, needing in (
            ("visual_und", config.visual_und, ("i2t", "interleaved")),
            ("visual_gen", config.visual_gen, ("t2i", "interleaved")),
        ):
            if not present and (used := _used(weights, needing)):
                raise ConfigError(
                    f"the mix has {used[0]}, and the model no {half}",
                    where="data.weights",
                    remedy=f"set the weight of {used[0]} to 0, or model.config.{half}=true",
                )

    def _check_budget(self) -> None:
        """Every family that is mixed must fit at its smallest size."""
        transforms, weights = self.data.transforms, self.data.weights
        vit = (transforms.vit.min_side // transforms.vit.stride) ** 2 + 2
        vae = (transforms.vae.min_side // transforms.vae.stride) ** 2 + 2
        smallest = {"t2i": vae, "i2t": vit, "interleaved": vit + 2 * vae}
        for family, tokens in smallest.items():
            if getattr(weights, family) and tokens > self.data.sample_limit:
                raise ConfigError(
                    f"the smallest sample of {family} has {tokens} tokens, the limit is {self.data.sample_limit}",
                    where="data.max_sample_tokens",
                    remedy="raise the limit, or lower data.transforms.*.min_side",
                )


def _used(weights: object, families: Collection[str]) -> list[str]:
    return [family for family in families if getattr(weights, family)]


def pick_device(name: str) -> torch.device:
    """The device of this process; ``auto`` takes the CUDA device of its local rank if there is any."""
    import torch

    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{name} is not there", where="runtime.device", remedy="use runtime=cpu")
    return device
