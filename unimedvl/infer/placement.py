"""Where and in which precision a model runs; one that is larger than a GPU is spread, or brought in layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from unimedvl.errors import ConfigError
from unimedvl.model.unimedvl import UniMedVL

DeviceMap = str | Mapping[int, str | int]


def place(model: UniMedVL, device_map: DeviceMap, main: torch.device) -> None:
    """Put a model that lies in CPU memory where it will run, through accelerate's hooks.

    Args:
        device_map: ``offload`` keeps the weights in CPU memory and brings each module to ``main`` while it runs;
            ``auto`` spreads the decoder layers evenly over all GPUs; a mapping gives the device of each layer.
            Everything but the layers runs on ``main``.

    Raises:
        ConfigError: the map is not one of these, misses a layer, or accelerate is absent.
    """
    try:
        from accelerate import cpu_offload, dispatch_model
    except ImportError as error:
        raise ConfigError("device maps need accelerate", where="device_map", remedy="pip install accelerate") from error
    layers = model.config.llm.num_hidden_layers
    if device_map == "offload":
        cpu_offload(model, execution_device=main)
        return
    if device_map == "auto":
        gpus = max(1, torch.cuda.device_count())
        device_map = {layer: layer * gpus // layers if torch.cuda.is_available() else "cpu" for layer in range(layers)}
    if isinstance(device_map, str):
        raise ConfigError(f"device map {device_map!r}", where="device_map", remedy="use auto, offload, or a mapping")
    if missing := [layer for layer in range(layers) if layer not in device_map]:
        raise ConfigError(
            f"the device map misses layer {missing[0]}", where="device_map", remedy=f"name layers 0 to {layers - 1}"
        )
    modules: dict[str, str | int | torch.device] = dict.fromkeys(_all_but_layers(model), main)
    modules.update({f"{_LAYERS}.{layer}": device for layer, device in device_map.items()})
    dispatch_model(model, modules, main_device=main, force_hooks=True)


_LAYERS = "language_model.model.layers"


def _all_but_layers(model: UniMedVL) -> list[str]:
    """The smallest list of modules that together with the decoder layers are the model."""
    parents = ("", "language_model", "language_model.model")
    names = [name for name, _ in model.named_modules() if name.rpartition(".")[0] in parents]
    return [name for name in names if name not in (*parents, _LAYERS)]


def as_device(name: str | torch.device | None) -> torch.device:
    """A device by its name; the first GPU, or else the CPU, if None.

    Raises:
        ConfigError: there is no such device here.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        return torch.empty(0, device=device).device  # with its index
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device {name!r}: {reason}", where="device", remedy="use cpu, or a GPU that is here"
        ) from error


def as_dtype(name: str | torch.dtype | None) -> torch.dtype | None:
    """A torch dtype by its name.

    Raises:
        ConfigError: it is none that the model can run in.
    """
    if name is None or isinstance(name, torch.dtype):
        return name
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise ConfigError(f"dtype is {name!r}", where="dtype", remedy=f"use {', '.join(known)}")
    return known[name]
