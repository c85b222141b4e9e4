"""Attention over packed documents: three backends behind one call.

A plan is made once per forward from the documents' splits and called in every layer:
``plan(q_THd, k_SKd, v_SKd) -> out_THd``. S is the key pool: the packed sequence itself, or the slots of a KV
cache, in which case each document's keys are runs of slots. Plans are made on the host and sent to the device
without waiting for it.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from unimedvl.errors import ConfigError
from unimedvl.model.cache import Extent
from unimedvl.model.layout import Document, TokenLayout, dense_mask, key_index, sees, token_layout

logger = logging.getLogger(__name__)

Backend = Literal["sdpa", "flex", "varlen"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
AttentionPlan = Callable[[Tensor, Tensor, Tensor], Tensor]
SdpaMask = Tensor | Literal["causal"] | None


def choose_backend(
    name: str, device: torch.device, dtype: torch.dtype, head_dim: int, *, training: bool
) -> tuple[Backend, str]:
    """Resolve ``auto`` and refuse what cannot run.

    Returns:
        the backend and the reason for it.

    Raises:
        ConfigError: the name is unknown, or the backend cannot serve this device, dtype and head size.
    """
    if name == "auto":
        return _pick(device, dtype, head_dim, training)
    if name not in BACKENDS:
        raise ConfigError(
            f"no attention backend is called {name!r}",
            where="attention",
            remedy=f"use auto, {', '.join(BACKENDS)}",
        )
    if name == "varlen":
        _require_varlen(device, dtype)
    if name == "flex" and device.type == "cpu" and training:
        raise ConfigError(
            "flex attention has no backward on the CPU", where="attention", remedy="use sdpa to train on a CPU"
        )
    if name == "flex" and head_dim < _FLEX_HEAD_DIM:
        raise ConfigError(
            f"flex attention needs heads of at least {_FLEX_HEAD_DIM}, the model's are {head_dim}",
            where="attention",
            remedy="use sdpa",
        )
    return BACKENDS[BACKENDS.index(name)], "as asked"


def _pick(device: torch.device, dtype: torch.dtype, head_dim: int, training: bool) -> tuple[Backend, str]:
    if device.type != "cuda":
        return "sdpa", f"the reference serves {device.type}"
    if training and head_dim >= _FLEX_HEAD_DIM:
        return "flex", "block masks skip what packing hides"
    if not training and dtype in _HALF and varlen_kernel() is not None:
        return "varlen", "no mask is stored"
    return "sdpa", f"no other kernel serves {str(dtype).removeprefix('torch.')} heads of {head_dim} here"


_HALF = (torch.float16, torch.bfloat16)
_FLEX_HEAD_DIM = 16  # what its Triton kernels load at least


def _require_varlen(device: torch.device, dtype: torch.dtype) -> None:
    problem = None
    if device.type != "cuda":
        problem = f"varlen attention needs CUDA, the model is on {device.type}"
    elif dtype not in _HALF:
        problem = f"varlen attention needs bfloat16 or float16, the model is {str(dtype).removeprefix('torch.')}"
    elif varlen_kernel() is None:
        problem = "neither flash-attn nor a torch with grouped varlen attention is installed"
    if problem:
        raise ConfigError(problem, where="attention", remedy="use sdpa or flex, which serve it")


def make_plan(backend: Backend, documents: Sequence[Document], device: torch.device) -> AttentionPlan:
    """The plan of ``backend`` for these documents, its tensors on ``device``."""
    if backend == "sdpa":
        return SdpaPlan(documents, device)
    if backend == "flex":
        return FlexPlan(documents, device)
    return VarlenPlan(documents, device)


# --- sdpa -------------------------------------------------------------------------------------------------


class SdpaPlan:
    """Reference: torch's scaled dot product attention, document by document.

    A mask is made only for a document that mixes modes; keys of a context without forks are read in place.
    """

    def __init__(self, documents: Sequence[Document], device: torch.device) -> None:
        self.documents = list(documents) or [Document(0, ((0, "full"),), ((0, 0),))]
        self.masks: list[SdpaMask] = [self._mask(document, device) for document in self.documents]

    @staticmethod
    def _mask(document: Document, device: torch.device) -> SdpaMask:
        modes = {mode for _, mode in document.splits}
        if document.length == 1 or (len(document.splits) == 1 and "causal" not in modes):
            return None
        if modes == {"causal"} and not document.past:
            return "causal"
        return dense_mask(document).to(device, non_blocking=True)

    def __call__(self, q_THd: Tensor, k_SKd: Tensor, v_SKd: Tensor) -> Tensor:
        """Attend; any device, any dtype, any head size."""
        outputs = [
            _sdpa(
                q_THd[document.start : document.start + document.length],
                _keys(k_SKd, document.keys),
                _keys(v_SKd, document.keys),
                mask,
            )
            for document, mask in zip(self.documents, self.masks, strict=True)
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _keys(pool_SKd: Tensor, extents: tuple[Extent, ...]) -> Tensor:
    runs = [pool_SKd[start : start + count] for start, count in extents]
    return runs[0] if len(runs) == 1 else torch.cat(runs)


def _sdpa(q_THd: Tensor, k_SKd: Tensor, v_SKd: Tensor, mask: SdpaMask) -> Tensor:
    queries, heads, head_dim = q_THd.shape
    if queries == 1 and mask is None:
        # The query heads that share a key head become rows of one query: keys are read once, not per head.
        q_KGd = q_THd.view(k_SKd.shape[1], -1, head_dim)
        out = F.scaled_dot_product_attention(q_KGd[None], k_SKd.transpose(0, 1)[None], v_SKd.transpose(0, 1)[None])
        return out.reshape(1, heads, head_dim)
    out_1HTd = F.scaled_dot_product_attention(
        q_THd.transpose(0, 1)[None],
        k_SKd.transpose(0, 1)[None],
        v_SKd.transpose(0, 1)[None],
        attn_mask=mask if isinstance(mask, Tensor) else None,
        is_causal=isinstance(mask, str),
        enable_gqa=heads != k_SKd.shape[1],
    )
    return out_1HTd[0].transpose(0, 1)


# --- flex -------------------------------------------------------------------------------------------------


class FlexPlan:
    """torch's FlexAttention with one block mask for the whole packed sequence; CUDA, and forward only on CPU.

    Queries and keys are padded to whole blocks with tokens that nobody sees: kernels are then compiled for few
    shapes, and the mask never reads beyond its tensors.
    """

    block = 128

    def __init__(self, documents: Sequence[Document], device: torch.device) -> None:
        self.key_index = None
        if any(document.keys != ((document.start, document.length),) for document in documents):
            self.key_index = key_index(documents).to(device, non_blocking=True)
        self.block_mask = None
        if not documents:
            return
        queries = self._padded(token_layout(documents, with_context=False), -1).to(device)
        keys = self._padded(token_layout(documents, with_context=True), -2).to(device)

        def mask_mod(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return sees(queries, keys, i, j)

        lengths = len(queries.order), len(keys.order)
        make = _block_mask_maker(device.type)
        self.block_mask = make(mask_mod, None, None, *lengths, device=str(device), BLOCK_SIZE=self.block)

    def _padded(self, layout: TokenLayout, document: int) -> TokenLayout:
        missing = -len(layout.order) % self.block
        parts = {item.name: F.pad(getattr(layout, item.name), (0, missing)) for item in fields(layout)}
        parts["document"] = F.pad(layout.document, (0, missing), value=document)
        return TokenLayout(**parts)

    def __call__(self, q_THd: Tensor, k_SKd: Tensor, v_SKd: Tensor) -> Tensor:
        """Attend.

        Raises:
            ConfigError: gradients are asked for on a CPU.
        """
        if q_THd.device.type == "cpu" and torch.is_grad_enabled() and q_THd.requires_grad:
            choose_backend("flex", q_THd.device, q_THd.dtype, q_THd.shape[-1], training=True)
        if self.key_index is not None:
            k_SKd, v_SKd = k_SKd.index_select(0, self.key_index), v_SKd.index_select(0, self.key_index)
        if self.block_mask is None:
            return _empty_attention(q_THd, k_SKd, v_SKd)
        out_1HTd = _compiled_flex(q_THd.device.type)(
            *(self._heads_first(x) for x in (q_THd, k_SKd, v_SKd)),
            block_mask=self.block_mask,
            enable_gqa=q_THd.shape[1] != k_SKd.shape[1],
        )
        return out_1HTd[0, :, : len(q_THd)].transpose(0, 1)

    def _heads_first(self, x_THd: Tensor) -> Tensor:
        """(1, heads, T padded to whole blocks, d)."""
        return F.pad(x_THd, (0, 0, 0, 0, 0, -len(x_THd) % self.block)).transpose(0, 1)[None]


@functools.cache
def _block_mask_maker(device_type: str) -> Callable[..., Any]:
    """Compiled, the (queries, keys) mask never exists in full: at 16 k tokens it peaks at 2.6 GB otherwise."""
    from torch.nn.attention.flex_attention import create_block_mask

    return torch.compile(create_block_mask, dynamic=True) if device_type == "cuda" else create_block_mask


@functools.cache
def _compiled_flex(device_type: str) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    # With torch 2.13 the C++ that is generated for dynamic shapes does not compile; Triton's does.
    return torch.compile(flex_attention, dynamic=device_type == "cuda")


def _empty_attention(q_THd: Tensor, k_SKd: Tensor, v_SKd: Tensor) -> Tensor:
    """Attention of no token, connected to all three inputs so that every parameter gets its (zero) gradient."""
    return q_THd + (k_SKd.sum() + v_SKd.sum()) * 0


# --- varlen -----------------------------------------------------------------------------------------------

VarlenKernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int, bool], Tensor]
"""(q, k, v, cumulative query lengths, cumulative key lengths, longest query, longest keys, causal) -> out.

Every sequence's queries are its last keys: causal is aligned bottom-right."""


@functools.cache
def varlen_kernel() -> VarlenKernel | None:
    """flash-attn's variable-length kernel, else torch's own, else None."""
    try:
        from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]
    except ImportError:
        return _torch_varlen_kernel()

    def flash(q, k, v, cu_q, cu_k, max_q, max_k, causal):
        return flash_attn_varlen_func(q, k, v, cu_q, cu_k, max_q, max_k, causal=causal)

    return flash


def _torch_varlen_kernel() -> VarlenKernel | None:
    from torch.nn.attention.varlen import varlen_attn

    if not {"window_size", "enable_gqa"} <= inspect.signature(varlen_attn).parameters.keys():
        return None  # early versions know neither grouped heads nor bottom-right causal masks

    def native(q, k, v, cu_q, cu_k, max_q, max_k, causal):
        window = (-1, 0) if causal else (-1, -1)
        out = varlen_attn(q, k, v, cu_q, cu_k, max_q, max_k, window_size=window, enable_gqa=q.shape[1] != k.shape[1])
        assert isinstance(out, Tensor)  # a tuple only when auxiliary outputs are asked for
        return out

    return native


class VarlenPlan:
    """Each split a sequence of a variable-length kernel: text causal over its keys, an image full over its keys.

    A split's keys are the context, the earlier splits of its document that are not noised, and itself.
    """

    def __init__(self, documents: Sequence[Document], device: torch.device, kernel: VarlenKernel | None = None) -> None:
        self.kernel = kernel or varlen_kernel()
        sequences = [sequence for document in documents for sequence in _sequences(document)]
        kinds = [[s for s in sequences if s.causal is causal] for causal in (True, False)]
        self.groups = [_VarlenGroup(kind, device) for kind in kinds if kind]
        # With one group its queries are the packed sequence as it is.
        self.order = torch.cat([g.queries for g in self.groups]).argsort() if len(self.groups) > 1 else None

    def __call__(self, q_THd: Tensor, k_SKd: Tensor, v_SKd: Tensor) -> Tensor:
        """Attend; half precision on CUDA."""
        if not self.groups:
            return _empty_attention(q_THd, k_SKd, v_SKd)
        assert self.kernel is not None, "choose_backend admits varlen only with a kernel"
        outputs = [
            self.kernel(
                q_THd if self.order is None else q_THd.index_select(0, group.queries),
                k_SKd.index_select(0, group.keys),
                v_SKd.index_select(0, group.keys),
                group.cu_queries,
                group.cu_keys,
                group.max_queries,
                group.max_keys,
                group.causal,
            )
            for group in self.groups
        ]
        return outputs[0] if self.order is None else torch.cat(outputs).index_select(0, self.order)


@dataclass(frozen=True)
class _Sequence:
    """One split: the packed places of its queries and the pool slots of its keys, both int64."""

    queries: Tensor
    keys: Tensor
    causal: bool


def _sequences(document: Document) -> list[_Sequence]:
    sequences = []
    slots = key_index([document])
    visible = [slots[: document.past]]
    done = 0
    for length, mode in document.splits:
        own = slots[document.past + done :][:length]
        queries = torch.arange(document.start + done, document.start + done + length)
        sequences.append(_Sequence(queries, torch.cat([*visible, own]), mode == "causal"))
        if mode != "noise":
            visible.append(own)
        done += length
    return sequences


class _VarlenGroup:
    """The sequences of one kernel call: int64 ``queries`` and ``keys``, int32 cumulative lengths."""

    def __init__(self, sequences: Sequence[_Sequence], device: torch.device) -> None:
        query_counts = [len(s.queries) for s in sequences]
        key_counts = [len(s.keys) for s in sequences]
        self.causal = sequences[0].causal
        self.queries = torch.cat([s.queries for s in sequences]).to(device, non_blocking=True)
        self.keys = torch.cat([s.keys for s in sequences]).to(device, non_blocking=True)
        self.cu_queries = _cumulative(query_counts).to(device, non_blocking=True)
        self.cu_keys = _cumulative(key_counts).to(device, non_blocking=True)
        self.max_queries = max(query_counts)
        self.max_keys = max(key_counts)


def _cumulative(counts: Sequence[int]) -> Tensor:
    return torch.tensor([0, *counts], dtype=torch.int32).cumsum(0, dtype=torch.int32)
