"""Bytes that a training step holds besides weights, gradients and optimizer, from a run without any memory.

The model's own forward and backward run on fake tensors, which have shapes, dtypes and storages but no values, and
every storage is counted from its creation to its release. Nothing is assumed about what autograd keeps: custom
functions, checkpointing, autocast and temporary results count as they would on a device. Two things differ from a run
on the host, as they do on a GPU: attention is one kernel over the packed sequence that keeps queries, keys, values,
output and log-sum-exp but no mask, and RMS norms are fused.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unimedvl.config import ModelConfig
from unimedvl.model.attention import AttentionPlan
from unimedvl.model.layout import Document
from unimedvl.model.meta import on_meta
from unimedvl.model.recompute import Checkpointing
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.model.vae import Autoencoder
from unimedvl.train.parts import freeze
from unimedvl.types import PackedBatch


@dataclass(frozen=True)
class StepBytes:
    """What one forward and backward holds on the device, in bytes.

    Attributes:
        batch: the packed batch.
        kept: made by the forward and alive when the backward starts.
        peak: the most alive at any time, ``kept`` included: recomputed layers, gradients of activations, the chunk of
            logits, and each parameter's gradient until it would be accumulated.
    """

    batch: int
    kept: int
    peak: int


def step_bytes(
    config: ModelConfig,
    batch: PackedBatch,
    *,
    frozen: Collection[str] = (),
    checkpointing: Checkpointing = "none",
    dtype: torch.dtype = torch.float32,
    autocast: bool = False,
    fused_norms: bool = True,
) -> StepBytes:
    """Trace one step.

    Args:
        batch: only its shapes count; any device, meta included; noised images with their noise.
        dtype: of the weights; under ``autocast`` products are computed in bfloat16, and the bfloat16 copies of the
            weights that it keeps for the backward are counted.
        fused_norms: RMS norms as CUDA has them; False counts the host's, which keep more.
    """
    with on_meta():
        model = _Traced(config)
    freeze(model, frozen)
    for module in model.modules() if fused_norms else ():
        if isinstance(module, nn.RMSNorm):
            module.forward = partial(_fused_norm, module)
    with FakeTensorMode():
        _materialize(model, dtype)
        batch = _materialized(batch)
        tensors = [value for item in fields(batch) if isinstance(value := getattr(batch, item.name), Tensor)]
        known = [*model.parameters(), *model.buffers(), *tensors]
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_drop_gradient)
        with LiveBytes(known) as live:
            with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
                loss = _loss(model, batch, checkpointing)
            kept = live.now
            loss.backward()
    return StepBytes(sum(tensor.nbytes for tensor in tensors), kept, live.peak)


def encoding_bytes(config: ModelConfig, shapes: Sequence[tuple[int, int]], dtype: torch.dtype = torch.float32) -> int:
    """Most bytes alive while the autoencoder encodes a batch's images, its weights left out.

    Args:
        shapes: height and width in latent tokens; images of one size run together, as in training.
    """
    with on_meta():
        autoencoder = Autoencoder(config.vae)
    with FakeTensorMode(), torch.no_grad():
        _materialize(autoencoder, dtype)
        stride = config.latent_stride
        with LiveBytes([*autoencoder.parameters(), *autoencoder.buffers()]) as live:
            autoencoder.moments_each([torch.empty(3, stride * h, stride * w) for h, w in shapes])
    return live.peak


class LiveBytes(TorchDispatchMode):
    """Count the bytes of storages made while active, until nothing holds them.

    Args:
        known: tensors whose storages do not count.

    Attributes:
        now: bytes alive; ``peak``: the most of them at any time.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._known = {tensor.untyped_storage()._cdata: tensor for tensor in known}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operator and count the storages it made."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive or key in self._known:
            return

        def released(_: object) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, released)
        self.now += size
        self.peak = max(self.peak, self.now)


def _fused_norm(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    if x.dtype != norm.weight.dtype:  # CUDA does not fuse these either
        return F.rms_norm(x, norm.normalized_shape, norm.weight, norm.eps)
    return _FusedNorm.apply(x, norm.weight)


class _FusedNorm(torch.autograd.Function):
    """The storages of CUDA's fused RMS norm (the host's operator of that name is not fused), without values."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


class _Traced(UniMedVL):
    """The model with attention that keeps what flash kernels keep."""

    def _plan(self, documents: list[Document], device: torch.device, head_dim: int) -> AttentionPlan:
        return _flash


def _flash(q_THd: Tensor, k_SKd: Tensor, v_SKd: Tensor) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        q_THd, k_SKd, v_SKd = (x.to(torch.bfloat16) for x in (q_THd, k_SKd, v_SKd))
    heads_first = (x.transpose(0, 1)[None] for x in (q_THd, k_SKd, v_SKd))
    out_1HTd = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*heads_first)[0]
    return out_1HTd[0].transpose(0, 1)


def _loss(model: UniMedVL, batch: PackedBatch, checkpointing: Checkpointing) -> Tensor:
    output = model(batch, checkpointing=checkpointing)
    return output.ce_sum + output.mse_sum


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _materialize(module: nn.Module, dtype: torch.dtype) -> None:
    """Give a module on the meta device fake weights on the host, in place."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=dtype)
                part._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=dtype)


def _materialized(batch: PackedBatch) -> PackedBatch:
    tensors = {item.name: value for item in fields(batch) if isinstance(value := getattr(batch, item.name), Tensor)}
    fakes = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors.items()}
    return replace(batch, pending=(), **fakes)
