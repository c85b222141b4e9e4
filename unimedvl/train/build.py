"""From settings to a model under training: weights, autoencoder, tokenizer, sharded where that is wanted."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unimedvl.config import ModelConfig, VaeConfig
from unimedvl.errors import CheckpointError, ConfigError
from unimedvl.model.directory import OWN_CONFIG, files_of, read_json, resolve_directory
from unimedvl.model.flow import PositionTable
from unimedvl.model.meta import on_meta
from unimedvl.model.mot import MoTLayer
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.model.vae import Autoencoder
from unimedvl.model.weights import load_model, open_autoencoder, save_checkpoint
from unimedvl.processor import TextCodec
from unimedvl.settings import build
from unimedvl.train.backend import Backend, Plain, Zero, partition, start_processes
from unimedvl.train.checkpoint import Checkpoint, piece_of
from unimedvl.train.parts import freeze
from unimedvl.train.settings import ModelSettings, TrainSettings, pick_device

VAE_CONFIG = "vae_config.json"


def model_config(settings: ModelSettings) -> ModelConfig:
    """The model's sizes, with the autoencoder's as its folder tells them."""
    folder = autoencoder_folder(settings)
    if folder is None:
        return settings.config
    for name in (VAE_CONFIG, OWN_CONFIG):
        if (path := folder / name).is_file():
            values = read_json(path)
            vae = build(VaeConfig, values.get("vae", values) if name == OWN_CONFIG else values, str(path))
            return replace(settings.config, vae=vae)
    return settings.config


def autoencoder_folder(settings: ModelSettings) -> Path | None:
    """Folder that holds ``ae.safetensors``, if one is named."""
    named = settings.autoencoder or settings.init
    return None if named is None else resolve_directory(named)


def open_frozen_autoencoder(settings: ModelSettings, config: ModelConfig, device: torch.device) -> Autoencoder | None:
    """The autoencoder, float32; None if none is named."""
    folder = autoencoder_folder(settings)
    return None if folder is None else open_autoencoder(folder, config.vae, dtype=torch.float32, device=device)


def autoencoder_name(settings: ModelSettings) -> str:
    """Identifies the autoencoder's weights, for caches of what it makes."""
    folder = autoencoder_folder(settings)
    digest = hashlib.sha256()
    for path in files_of(folder, "ae") if folder else ():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def open_codec(settings: ModelSettings, config: ModelConfig) -> TextCodec:
    """The tokenizer.

    Raises:
        ConfigError: none is named, or it has more tokens than the model has rows.
    """
    named = settings.tokenizer or settings.init
    if named is None:
        raise ConfigError("no tokenizer", where="model.tokenizer", remedy="name a folder of tokenizer files")
    codec = TextCodec.from_directory(resolve_directory(named))
    if len(codec.tokenizer) > config.llm.vocab_size:
        raise ConfigError(
            f"the tokenizer has {len(codec.tokenizer)} tokens, the model {config.llm.vocab_size} rows",
            where="model.tokenizer",
            remedy="use another tokenizer, or raise model.config.llm.vocab_size",
        )
    return codec


def build_backend(settings: TrainSettings, config: ModelConfig, checkpoint: Checkpoint | None) -> Backend:
    """The model under training, from a checkpoint, a directory, or fresh.

    Under ZeRO-3 every rank maps the files and keeps its piece of one unit after the other: none holds all weights.

    Raises:
        CheckpointError, ConfigError: the weights do not fit.
    """
    if not settings.runtime.zero and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"{os.environ['WORLD_SIZE']} processes without ZeRO", where="runtime.zero", remedy="use runtime=zero3"
        )
    if settings.runtime.zero:
        start_processes(pick_device(settings.runtime.device))
        model = _mapped(settings, config, checkpoint)
        backend: Backend = _sharded(model, settings, checkpoint)
    else:
        model = _filled(settings, config, checkpoint)
        freeze(model, settings.frozen)
        backend = Plain(model, settings.runtime, settings.optimizer)
    if checkpoint is not None:
        _restore(backend, checkpoint)
    return backend


def units(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The model cut where weights are taken one at a time: decoder layers, and other modules with own parameters."""
    inside = ""
    for name, module in model.named_modules():
        if inside and name.startswith(inside):
            continue
        if isinstance(module, MoTLayer):
            inside = f"{name}."
        elif not any(True for _ in module.parameters(recurse=False)):
            continue
        yield name, module


def _filled(settings: TrainSettings, config: ModelConfig, checkpoint: Checkpoint | None) -> UniMedVL:
    """The model whole, on the host or mapped from files."""
    attention = settings.runtime.attention
    if checkpoint is not None:
        return model_of(checkpoint, config, attention)
    if settings.model.init is not None:
        return load_model(settings.model.init, attention=attention, **_fields(config))
    pick_device(settings.runtime.device)  # refuse an absent one before weights are made
    return UniMedVL.initialized(config, seed=settings.seed, attention=attention)


def model_of(checkpoint: Checkpoint, config: ModelConfig, attention: str = "auto", averaged: bool = False) -> UniMedVL:
    """A model with a checkpoint's weights, or with their averages where there are any."""
    model = _empty(config, attention)
    averages = checkpoint.kinds.get("ema", set()) if averaged else set()
    state = {
        name: checkpoint.whole("ema", name, parameter.shape)
        if name in averages
        else checkpoint.weight(name, parameter.shape)
        for name, parameter in model.named_parameters()
    }
    model.load_state_dict(state, strict=False, assign=True)
    return model


def _empty(config: ModelConfig, attention: str) -> UniMedVL:
    """The model with its position tables, and no storage for parameters."""
    with on_meta():
        model = UniMedVL(config, attention)
    for module in model.modules():
        if isinstance(module, PositionTable):
            module.reset(torch.device("cpu"), torch.float32)
    return model


def _mapped(settings: TrainSettings, config: ModelConfig, checkpoint: Checkpoint | None) -> UniMedVL:
    """The model mapped from files by every rank; empty for a checkpoint, whose pieces are put together unit by unit.

    Fresh weights are written by the first rank, then mapped.
    """
    import torch.distributed as dist

    if checkpoint is not None:
        return _empty(config, settings.runtime.attention)
    if settings.model.init is not None:
        return _filled(settings, config, None)
    folder = settings.output / ".fresh"
    if dist.get_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        save_checkpoint(folder, UniMedVL.initialized(config, seed=settings.seed))
    dist.barrier()
    model = load_model(folder, attention=settings.runtime.attention)
    dist.barrier()  # mapped files outlive their names
    if dist.get_rank() == 0:
        shutil.rmtree(folder)
    return model


def _sharded(model: UniMedVL, settings: TrainSettings, checkpoint: Checkpoint | None) -> Zero:
    """Pieces of the model on every rank, and float32 masters as exact as the weights were."""
    import torch.distributed as dist

    rank, world = dist.get_rank(), dist.get_world_size()
    dtype = torch.bfloat16 if settings.runtime.precision == "bf16" else torch.float32
    exact: dict[str, Tensor] = {}
    frozen: dict[str, Tensor] = {}
    for module in model.modules():
        if isinstance(module, PositionTable):
            module.reset(torch.device("cpu"), dtype)

    def cast() -> Iterator[tuple[str, nn.Module]]:
        for prefix, unit in units(model):
            if checkpoint is not None:
                own = {name: checkpoint.weight(f"{prefix}.{name}", p.shape) for name, p in unit.named_parameters()}
                unit.load_state_dict(own, strict=False, assign=True)
            for name, parameter in unit.named_parameters(prefix):
                if parameter.dtype != dtype:
                    kept = exact if parameter.requires_grad else frozen
                    kept[name] = piece_of(parameter.detach().float(), rank, world)
            unit.to(dtype)
            yield prefix, unit

    freeze(model, settings.frozen)
    model.train()
    partition(cast(), settings.runtime, settings.optimizer.clip)
    backend = Zero(model, settings.runtime, settings.optimizer, frozen)
    if exact and checkpoint is None:  # a checkpoint is restored as a whole
        rest = {name: piece for name, piece in backend.local_master().items() if name not in exact}
        backend.restore({**rest, **exact}, {}, 0)
    return backend


def _restore(backend: Backend, checkpoint: Checkpoint) -> None:
    """Optimizer and exact weights."""
    stored, trained = checkpoint.kinds.get("master", set()), set(backend.trained)
    if stored != trained:
        some = sorted(stored ^ trained)[0]
        raise CheckpointError(
            f"other weights were trained: {some} among {len(stored ^ trained)}",
            where=str(checkpoint.folder),
            remedy="resume with the same parts frozen, or start a new run from its export",
        )
    shapes = shapes_of(backend.trained)
    pieces = {
        kind: dict(checkpoint.pieces(kind, shapes, backend.rank, backend.world))
        for kind in ("master", "exp_avg", "exp_avg_sq")
        if kind in checkpoint.kinds
    }
    master = pieces.pop("master")
    backend.restore(master, pieces, checkpoint.manifest["updates"])


def shapes_of(parameters: dict[str, nn.Parameter]) -> dict[str, torch.Size]:
    """Whole shapes, of partitioned parameters too."""
    return {name: getattr(parameter, "ds_shape", parameter.shape) for name, parameter in parameters.items()}


def _fields(config: ModelConfig) -> dict[str, Any]:
    return {item.name: getattr(config, item.name) for item in fields(config)}
