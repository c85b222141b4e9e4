"""What a run will need, before anything is loaded: memory of each GPU and its host, operations, days.

What is counted as memory is told in :mod:`unimedvl.train.memory`, how activations are found in
:mod:`unimedvl.train.activations`, and which operations count in :mod:`unimedvl.train.flops`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from unimedvl.config import ModelConfig
from unimedvl.errors import ConfigError
from unimedvl.model.meta import on_meta
from unimedvl.model.recompute import Checkpointing
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.model.vae import Autoencoder
from unimedvl.train.activations import encoding_bytes, step_bytes
from unimedvl.train.flops import batch_flops
from unimedvl.train.memory import COMPUTE, FLOAT32, GIB, Budget, Run, plain_budget, zero_budgets
from unimedvl.train.parts import PARTS, freeze, part_of
from unimedvl.train.typical import TokenMix, typical_batch
from unimedvl.types import PackedBatch

Precision = Literal["bf16", "fp32"]

# CUDA context, libraries' workspaces and NCCL's buffers.
_RESERVED = 2 * GIB
_GPUS_OF_A_NODE = 8
# Above this part of the memory the allocator's fragmentation, which is not counted, may be what is too much.
_TIGHT = 0.95
# By tokens: images of I2T (ViT) and T2I (latents) samples at the sizes of the first stage.
_MIX = TokenMix(text=0.1, vit=0.6, latent=0.3)


@dataclass(frozen=True)
class Preflight:
    """The outcome; ``str`` is the report.

    Attributes:
        title: the setup in words.
        trained, frozen: parameters by part; ``tables``: values of the position tables.
        budgets: by choice of offload; the run's own is at ``chosen``.
        tokens: of one packed batch, by kind; ``samples`` of it.
        step_tokens: of all GPUs in one step.
        step_flops: of all GPUs, recomputation included; ``model_flops`` without it.
        peak_tflops: of one GPU, of which ``mfu`` is reached.
    """

    title: str
    gpus: int
    gpu_memory_gib: float
    trained: Mapping[str, int]
    frozen: Mapping[str, int]
    tables: int
    budgets: tuple[Budget, ...]
    chosen: int
    checkpointing: Checkpointing
    tokens: Mapping[str, int]
    samples: int
    step_tokens: int
    steps: int
    step_flops: float
    model_flops: float
    peak_tflops: float
    mfu: float

    @property
    def budget(self) -> Budget:
        """Memory as the run is set up."""
        return self.budgets[self.chosen]

    @property
    def seconds(self) -> float:
        """Of one step."""
        return self.step_flops / (self.gpus * self.peak_tflops * 1e12 * self.mfu)

    @property
    def days(self) -> float:
        """Of the stage."""
        return self.seconds * self.steps / 86400

    def fits(self, budget: Budget) -> bool:
        """Whether a GPU holds it."""
        return budget.gpu <= self.gpu_memory_gib * GIB

    def check(self) -> None:
        """Refuse a run that does not fit.

        Raises:
            ConfigError: names the largest item and what would help.
        """
        if self.fits(self.budget):
            return
        item, size = max(self.budget.items.items(), key=lambda pair: pair[1])
        fitting = [other for other in self.budgets[self.chosen + 1 :] if self.fits(other)]
        offloads = [f"offload the {other.offload} ({other.gpu / GIB:.1f} GiB)" for other in fitting[:1]]
        checkpointing = ["use checkpointing=full"] * (self.checkpointing != "full")
        more = "use more GPUs" if len(self.budgets) > 1 else "use ZeRO-3 on more GPUs"
        raise ConfigError(
            f"a step needs {self.budget.gpu / GIB:.1f} GiB of a GPU's {self.gpu_memory_gib:g}, "
            f"{size / GIB:.1f} of them for {item}",
            where="preflight",
            remedy=", or ".join([*offloads, *checkpointing, more, "lower max_tokens"]),
        )

    def __str__(self) -> str:
        return "\n".join([self.title, "", *self._parameters(), "", *self._memory(), "", *self._work()])

    def _parameters(self) -> Iterator[str]:
        yield f"{'Parameters':<28}{'trained':>18}{'frozen':>18}"
        for part in PARTS:
            if self.trained.get(part) or self.frozen.get(part):
                yield f"  {part:<26}{_count(self.trained.get(part, 0)):>18}{_count(self.frozen.get(part, 0)):>18}"
        yield f"  {'position tables':<26}{'-':>18}{_count(self.tables):>18}"
        frozen = sum(self.frozen.values()) + self.tables
        yield f"  {'all':<26}{_count(sum(self.trained.values())):>18}{_count(frozen):>18}"

    def _memory(self) -> Iterator[str]:
        yield f"{'Memory of each GPU, GiB':<28}" + "".join(f"{name:>18}" for name in self._columns())
        for item in self.budget.lasting:
            yield self._row(item, [budget.lasting[item] for budget in self.budgets])
        for item in self.budget.passing[COMPUTE]:
            yield self._row(item, [budget.passing[COMPUTE][item] for budget in self.budgets])
        for phase in self.budget.passing:
            if phase != COMPUTE:
                totals = [sum(budget.passing[phase].values()) for budget in self.budgets]
                yield self._row(f"({phase})", totals)
        yield self._row("most at any time", [budget.gpu for budget in self.budgets])
        words = [self._verdict(budget) for budget in self.budgets]
        yield f"  {f'fits in {self.gpu_memory_gib:g} GiB':<26}" + "".join(f"{word:>18}" for word in words)
        if self.budget.host:
            node = min(self.gpus, _GPUS_OF_A_NODE)
            yield self._row(f"host of {node} GPU{'s' * (node > 1)}", [node * _total(b.host) for b in self.budgets])
        yield "  * this run; in parentheses: other phases of a step, when activations are gone"

    def _verdict(self, budget: Budget) -> str:
        if not self.fits(budget):
            return "NO"
        return "tight" if budget.gpu > _TIGHT * self.gpu_memory_gib * GIB else "yes"

    def _columns(self) -> list[str]:
        names = ["no offload", "optimizer", "and parameters"][: len(self.budgets)]
        return [f"* {name}" if number == self.chosen else name for number, name in enumerate(names)]

    def _row(self, name: str, sizes: list[int]) -> str:
        return f"  {name:<26}" + "".join(f"{size / GIB:>18.2f}" if size else f"{'-':>18}" for size in sizes)

    def _work(self) -> Iterator[str]:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.tokens.items())
        again = self.step_flops / self.model_flops - 1
        rows = {
            "batch of a GPU": f"{sum(self.tokens.values()):,} tokens ({kinds}) in {self.samples} samples",
            "tokens": f"{self.step_tokens:,} a step, {self.step_tokens * self.steps / 1e9:,.2f} billion in "
            f"{self.steps:,} steps",
            "operations": f"{self.step_flops / 1e15:,.3g} PFLOP a step, {100 * again:.0f} % more than without "
            "recomputation",
            "time": f"{self.seconds:,.3g} s a step, {self.days:,.3g} days, at {100 * self.mfu:g} % of "
            f"{self.peak_tflops:g} TFLOP/s a GPU",
        }
        yield "Work"
        for name, text in rows.items():
            yield f"  {name:<16}{text}"


def preflight(
    config: ModelConfig,
    *,
    frozen: Collection[str] = (),
    gpus: int = 8,
    zero: bool = True,
    precision: Precision = "bf16",
    offload_optimizer: bool = False,
    offload_parameters: bool = False,
    ema: bool = True,
    checkpointing: Checkpointing = "full",
    max_tokens: int = 36_864,
    max_sample_tokens: int | None = None,
    mix: TokenMix = _MIX,
    accumulation: int = 1,
    steps: int = 85_000,
    gpu_memory_gib: float = 80,
    peak_tflops: float = 312.0,
    mfu: float = 0.4,
) -> Preflight:
    """Count what a stage of training needs; the settings are those of :class:`~unimedvl.train.settings.TrainSettings`.

    Args:
        max_sample_tokens: the batch is filled with samples of this length; with one sample by default.
        mix: shares of the kinds of tokens in a batch.
        peak_tflops: of one GPU in the compute dtype; 312 is an A800's in bfloat16.
        mfu: part of the peak that is reached, recomputation counted as work.

    Raises:
        ConfigError: a value cannot work, or two contradict each other.
    """
    _check_choices(precision, checkpointing)
    _check_processes(gpus, zero, offload_optimizer, offload_parameters)
    _check_positive(max_tokens=max_tokens, accumulation=accumulation, steps=steps, gpu_memory_gib=gpu_memory_gib)
    _check_positive(max_sample_tokens=max_sample_tokens or 1, peak_tflops=peak_tflops, mfu=mfu)
    batch = typical_batch(config, max_tokens, min(max_sample_tokens or max_tokens, max_tokens), mix)
    with on_meta():
        model = UniMedVL(config)
    freeze(model, frozen)
    half = precision == "bf16"
    dtype = torch.bfloat16 if half and zero else torch.float32
    run = _run(config, batch, frozen, checkpointing, dtype, autocast=half and not zero)
    if zero:
        budgets = zero_budgets(model, run, gpus=gpus, itemsize=dtype.itemsize, ema=ema)
    else:
        budgets = (plain_budget(model, run, ema=ema),)
    model_flops = batch_flops(config, batch, frozen=frozen) * gpus * accumulation
    step_flops = batch_flops(config, batch, frozen=frozen, recompute=checkpointing) * gpus * accumulation
    setup = f"ZeRO-3 on {gpus} GPU{'s' * (gpus > 1)}" if zero else "One process on one GPU"
    return Preflight(
        title=f"{setup} of {gpu_memory_gib:g} GiB, {precision}, checkpointing {checkpointing}",
        gpus=gpus,
        gpu_memory_gib=gpu_memory_gib,
        trained=_parameters(model, trained=True),
        frozen=_parameters(model, trained=False),
        tables=sum(buffer.numel() for buffer in model.buffers()),
        budgets=budgets,
        chosen=offload_optimizer + offload_parameters,
        checkpointing=checkpointing,
        tokens={"text": len(batch.text_index), "ViT": len(batch.vit_index), "latent": len(batch.latent_index)},
        samples=batch.num_documents,
        step_tokens=batch.length * gpus * accumulation,
        steps=steps,
        step_flops=step_flops,
        model_flops=model_flops,
        peak_tflops=peak_tflops,
        mfu=mfu,
    )


def _run(
    config: ModelConfig,
    batch: PackedBatch,
    frozen: Collection[str],
    checkpointing: Checkpointing,
    dtype: torch.dtype,
    *,
    autocast: bool,
) -> Run:
    """Trace a step and the encoding of its images; the autoencoder is float32."""
    step = step_bytes(config, batch, frozen=frozen, checkpointing=checkpointing, dtype=dtype, autocast=autocast)
    autoencoder = encoding = 0
    if batch.latent_shapes:
        with on_meta():
            autoencoder = FLOAT32 * sum(parameter.numel() for parameter in Autoencoder(config.vae).parameters())
        encoding = encoding_bytes(config, batch.latent_shapes)
    return Run(
        lasting={"autoencoder": autoencoder, "batch": step.batch, "CUDA and NCCL": _RESERVED},
        compute={"activations": step.kept, "backward": step.peak - step.kept},
        encode=encoding,
    )


def _parameters(model: nn.Module, *, trained: bool) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad is trained:
            counts[part_of(name)] += parameter.numel()
    return dict(counts)


def _check_choices(precision: str, checkpointing: str) -> None:
    for name, value, kind in (("precision", precision, Precision), ("checkpointing", checkpointing, Checkpointing)):
        if value not in get_args(kind):
            raise ConfigError(f"{name} is {value!r}", where="preflight", remedy=f"use {', '.join(get_args(kind))}")


def _check_processes(gpus: int, zero: bool, offload_optimizer: bool, offload_parameters: bool) -> None:
    _check_positive(gpus=gpus)
    if not zero and (gpus > 1 or offload_optimizer or offload_parameters):
        what = "offload" if gpus == 1 else f"{gpus} GPUs"
        raise ConfigError(f"{what} without ZeRO", where="preflight", remedy="use zero=True, or one GPU and no offload")
    if offload_parameters and not offload_optimizer:
        raise ConfigError(
            "offload_parameters without offload_optimizer", where="preflight", remedy="offload the optimizer too"
        )


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ConfigError(f"{name} is {value}", where="preflight", remedy="give a positive number")


def _count(number: int) -> str:
    return f"{number:,}" if number else "-"


def _total(items: Mapping[str, int]) -> int:
    return sum(items.values())
