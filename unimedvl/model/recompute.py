"""What the backward recomputes instead of keeping it: a trade of time for memory, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

Checkpointing = Literal["none", "selective", "full"]

# The results worth their memory: everything that costs a matrix product. By name, since a backend's operators exist
# only where it is installed.
_KEPT = frozenset(
    {
        "aten.mm",
        "aten.addmm",
        "aten._scaled_dot_product_flash_attention",
        "aten._scaled_dot_product_flash_attention_for_cpu",
        "aten._scaled_dot_product_efficient_attention",
        "aten._scaled_dot_product_cudnn_attention",
        "flash_attn._flash_attn_varlen_forward",
        "torch_attn._varlen_attn",
        "flex_attention",
    }
)


def _policy(ctx: object, op: object, *args: object, **kwargs: object) -> CheckpointPolicy:
    kept = str(getattr(op, "overloadpacket", op)) in _KEPT
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def layer_runner(kind: Checkpointing) -> Callable[..., Any]:
    """A function that calls a layer with its arguments.

    ``selective`` keeps the results of matrix products and attention and recomputes the rest in the backward, ``full``
    keeps only the arguments.
    """
    if kind == "none":
        return _direct
    context_fn = partial(create_selective_checkpoint_contexts, _policy) if kind == "selective" else noop_context_fn
    return partial(checkpoint, use_reentrant=False, context_fn=context_fn)


def _direct(layer: nn.Module, *arguments: Any) -> Any:
    return layer(*arguments)
