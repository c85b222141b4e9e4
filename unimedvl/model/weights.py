"""Strict, memory-mapped loading and atomic saving of the released checkpoint layout.

A model is built on the meta device and its parameters are then the mapped file itself, so loading costs no
second copy. Whatever does not fit is listed in one error; nothing is skipped in silence.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unimedvl.config import VaeConfig
from unimedvl.errors import CheckpointError
from unimedvl.model.directory import (
    AUTOENCODER,
    TOKENIZER_FILES,
    WeightSet,
    files_of,
    open_safetensors,
    published_configs,
    read_config,
    resolve_directory,
    weight_files,
)
from unimedvl.model.flow import PositionTable
from unimedvl.model.meta import on_meta
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.model.vae import Autoencoder


def load_model(
    path_or_id: str | Path,
    *,
    weights: WeightSet = "auto",
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    attention: str = "auto",
    **changes: Any,
) -> UniMedVL:
    """The model of a checkpoint directory or hub id, published or ours.

    Args:
        weights: ``ema`` or ``model``; ``auto`` prefers the EMA.
        dtype: convert to it; None keeps what is stored.
        changes: fields of :class:`ModelConfig` to replace. ``visual_gen=False`` loads for understanding only,
            without the gen expert; ``visual_und=False`` for generation only, without the vision encoder.

    Raises:
        CheckpointError: a file is absent or damaged, or tensors are missing, unexpected or misshapen.
        ConfigError: a setting cannot work.
    """
    directory = resolve_directory(path_or_id)
    config = read_config(directory, weights, **changes)
    with on_meta():
        model = UniMedVL(config, attention)
        whole = replace(config, visual_und=True, visual_gen=True)
        known = model.state_dict().keys() if config == whole else UniMedVL(whole).state_dict().keys()
    files = weight_files(directory, weights, bfloat16=dtype is torch.bfloat16)
    tables = {f"{name}.pos_embed" for name, module in model.named_modules() if isinstance(module, PositionTable)}
    other_half = known - model.state_dict().keys()
    wanted = {name: name for name in model.state_dict().keys() - tables}
    assign_tensors(model, files, wanted, ignored=other_half | tables, dtype=dtype, device=device)
    for module in model.modules():
        if isinstance(module, PositionTable):
            module.reset(model.device, model.dtype)
    return model.eval()


def load_autoencoder(
    path_or_id: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    **changes: Any,
) -> Autoencoder:
    """The frozen autoencoder of a checkpoint directory or hub id (``ae.safetensors``).

    Args:
        changes: fields of :class:`ModelConfig` to replace; published directories have no file for the
            autoencoder's sizes, which are the FLUX ones unless ``vae=`` says otherwise.

    Raises:
        CheckpointError: the file is absent or damaged, or tensors are missing, unexpected or misshapen.
    """
    directory = resolve_directory(path_or_id)
    config = read_config(directory, **changes)
    return open_autoencoder(directory, config.vae, dtype=dtype, device=device)


def open_autoencoder(
    directory: Path,
    config: VaeConfig,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Autoencoder:
    """The autoencoder of any directory that holds ``ae.safetensors``, its sizes given (see above for errors)."""
    if not (files := files_of(directory, AUTOENCODER)):
        raise CheckpointError(
            "ae.safetensors is missing", where=str(directory), remedy="copy the autoencoder there to make images"
        )
    with on_meta():
        autoencoder = Autoencoder(config)
    assign_tensors(autoencoder, files, autoencoder.published_names(), dtype=dtype, device=device)
    return autoencoder.eval().requires_grad_(False)


def assign_tensors(
    module: nn.Module,
    files: Sequence[Path],
    names: Mapping[str, str],
    *,
    ignored: Container[str] = (),
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Make the tensors of ``files`` those of ``module``, without a copy where device and dtype allow.

    Args:
        names: stored name -> name in the module, of every tensor that must be there.
        ignored: stored names to pass over.

    Raises:
        CheckpointError: lists all tensors that are missing, unexpected or misshapen.
    """
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    state: dict[str, Tensor] = {}
    unexpected, misshapen, doubled = [], [], []
    for stored, read in read_tensors(files, skip=ignored):
        name = names.get(stored)
        if name is None:
            unexpected.append(stored)
            continue
        tensor = _as_linear(read) if len(shapes[name]) == 2 else read
        if tensor.shape != shapes[name]:
            misshapen.append(f"{stored} is {tuple(read.shape)} but the model has {tuple(shapes[name])}")
            continue
        if name in state:
            doubled.append(stored)
        state[name] = tensor.to(device, dtype or tensor.dtype)
    misfit = {stored.split(" ")[0] for stored in misshapen}
    missing = [stored for stored, name in names.items() if name not in state and stored not in misfit]
    _report(files, {"missing": missing, "unexpected": unexpected, "misshapen": misshapen, "doubled": doubled})
    module.load_state_dict(state, strict=False, assign=True)


def _as_linear(tensor: Tensor) -> Tensor:
    """The weight of a linear layer from that of a convolution, patch convolutions flattened as patches are.

    The published autoencoder has 1 x 1 convolutions for attention projections, a plain SigLIP one for its patches.
    """
    return tensor.permute(0, 2, 3, 1).flatten(1) if tensor.ndim == 4 else tensor


def read_tensors(files: Iterable[Path], skip: Container[str] = ()) -> Iterator[tuple[str, Tensor]]:
    """Name and memory-mapped tensor, one after the other."""
    for path in files:
        with open_safetensors(path) as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                if name not in skip:
                    yield name, file.get_tensor(name)


def _report(files: Sequence[Path], kinds: Mapping[str, list[str]]) -> None:
    """Raise one error for everything that does not fit."""
    problems = [f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise CheckpointError(
            f"tensors do not fit the model; {'; '.join(problems)}",
            where=", ".join(path.name for path in files[:3]) + (", ..." if len(files) > 3 else ""),
            remedy="check the config; load half a checkpoint with visual_gen=False or visual_und=False",
        )


def _some(names: list[str], limit: int = 8) -> str:
    shown = sorted(names)[:limit]
    return ", ".join(shown) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def save_checkpoint(
    directory: str | Path,
    model: UniMedVL,
    autoencoder: Autoencoder | None = None,
    *,
    weights: Mapping[str, Mapping[str, Tensor]] | None = None,
    tokenizer_from: str | Path | None = None,
    max_shard_size: str | None = None,
    also: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write a directory in the published layout, all at once.

    Args:
        directory: must not exist yet, or be empty.
        weights: state dicts by file, ``ema`` and ``model``; by default the model's own as ``ema``. Weights that are
            scattered over ranks must be gathered first.
        tokenizer_from: directory whose tokenizer files are copied.
        max_shard_size: such as ``"5GB"``; one file if None, as published.
        also: other JSON files, by name.

    Raises:
        CheckpointError: the directory holds something, tensors do not fit the model, or tokenizer files are absent.
    """
    target = Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError("the target is not empty", where=str(target), remedy="save to a new directory")
    states = {"ema": model.state_dict()} if weights is None else weights
    _check_states(model, states)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for name, state in states.items():
            _write_tensors(aside, name, state, max_shard_size)
        if autoencoder is not None:
            _write_tensors(aside, AUTOENCODER, published_tensors(autoencoder), None)
        for name, values in {**published_configs(model.config), **(also or {})}.items():
            (aside / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        if tokenizer_from is not None:
            _copy_tokenizer(Path(tokenizer_from), aside)
        aside.chmod(0o777 & ~_umask())
        os.replace(aside, target)
    except BaseException:
        shutil.rmtree(aside)
        raise


def _check_states(model: UniMedVL, states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Refuse what could not be loaded again: other names or shapes than the config says, or no storage."""
    with on_meta():
        shapes = {name: tensor.shape for name, tensor in UniMedVL(model.config).state_dict().items()}
    for file, state in states.items():
        if file not in get_args(WeightSet)[1:]:
            raise CheckpointError(f"no weights are called {file!r}", where="weights", remedy="save ema, model or both")
        wrong = list(shapes.keys() ^ state.keys())
        wrong += [name for name, shape in shapes.items() if name in state and state[name].shape != shape]
        wrong += [name for name, tensor in state.items() if tensor.is_meta]
        if wrong:
            raise CheckpointError(
                f"{len(wrong)} tensors are missing, unexpected, misshapen or empty: {_some(wrong)}",
                where=f"{file} weights",
                remedy="gather the full weights of this model's config before saving",
            )


def published_tensors(autoencoder: Autoencoder) -> dict[str, Tensor]:
    """The autoencoder's tensors as ``ae.safetensors`` names and shapes them."""
    state = autoencoder.state_dict()
    tensors = {stored: state[name] for stored, name in autoencoder.published_names().items()}
    return {
        name: tensor[:, :, None, None] if ".attn_1." in name and tensor.ndim == 2 else tensor
        for name, tensor in tensors.items()
    }


def _write_tensors(directory: Path, stem: str, tensors: Mapping[str, Tensor], max_shard_size: str | None) -> None:
    from huggingface_hub import split_torch_state_dict_into_shards

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": "pt"}
    if max_shard_size is None:
        save_file(tensors, directory / f"{stem}.safetensors", metadata)
        return
    plan = split_torch_state_dict_into_shards(
        tensors, filename_pattern=f"{stem}{{suffix}}.safetensors", max_shard_size=max_shard_size
    )
    for file_name, names in plan.filename_to_tensors.items():
        save_file({name: tensors[name] for name in names}, directory / file_name, metadata)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (directory / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _copy_tokenizer(source: Path, target: Path) -> None:
    present = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not {"vocab.json", "tokenizer.json"} & set(present):
        raise CheckpointError(
            "no tokenizer files", where=str(source), remedy="give the directory that holds vocab.json and merges.txt"
        )
    for name in present:
        shutil.copyfile(source / name, target / name)


def _umask() -> int:
    """The process's file mode mask (it can only be read by setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
