"""Building modules without memory, and without the time to initialize what will be replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def on_meta() -> Iterator[None]:
    """Modules built here have shapes but no storage, and their initializers do not run.

    On the meta device a random initializer would change nothing, yet cost a second: it imports the compiler.
    """
    with torch.device("meta"), _NoInitializers():
        yield


class _NoInitializers(TorchFunctionMode):
    """Pass over the functions of ``torch.nn.init``."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
