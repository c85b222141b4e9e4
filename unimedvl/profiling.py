"""Counting what a forward costs, rather than guessing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operators whose result the host must wait for on an asynchronous device.
_SYNCHRONIZING = frozenset(
    {
        "aten._local_scalar_dense",
        "aten.equal",
        "aten.is_nonzero",
        "aten.masked_select",
        "aten.nonzero",
        "aten.unique_dim",
        "aten._unique2",
        "aten.unique_consecutive",
    }
)
# Metadata only, though not marked as views.
_FREE = frozenset({"aten._unsafe_view", "aten.lift_fresh", "aten.detach", "aten.alias"})


class OpCounter(TorchDispatchMode):
    """Count tensor operators while active.

    Attributes:
        ops: calls by operator name, views left out.
        syncs: calls by operator name that would stop the host until the device has caught up.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ops: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operator and count it."""
        name = str(getattr(func, "overloadpacket", func))
        if not getattr(func, "is_view", False) and name not in _FREE:
            self.ops[name] += 1
        if name in _SYNCHRONIZING or _reads_back(name, args, kwargs) or _has_unknown_length(name, args, kwargs):
            self.syncs[name] += 1
        return func(*args, **(kwargs or {}))


def _reads_back(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> bool:
    """A copy from a device to the host."""
    if name != "aten._to_copy" or not kwargs or kwargs.get("device") is None:
        return False
    return torch.device(kwargs["device"]).type == "cpu" and args[0].device.type != "cpu"


def _has_unknown_length(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> bool:
    """An operator whose result's length is data: repeats without their sum, a boolean mask as index."""
    if name == "aten.repeat_interleave":
        return (kwargs or {}).get("output_size") is None
    if name in ("aten.index", "aten.index_put", "aten.index_put_"):
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    return False
