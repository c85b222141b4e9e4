"""Checkpoints of a run: complete, atomic, pruned, and readable by any number of ranks.

A checkpoint is a folder ``step-00001000``: for each rank a file with its pieces of the weights (float32), the
optimizer's averages and the EMA, and a manifest, written last, with everything else. A piece is flat, and the pieces of
all ranks one after the other, cut to size, are the parameter: another number of ranks cuts them anew.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unimedvl.errors import CheckpointError
from unimedvl.model.directory import open_safetensors, read_json

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Pieces:
    """What one rank owns.

    Attributes:
        tensors: flat float32 (frozen weights: as they are) under ``kind.parameter``; kinds are master, ema, frozen,
            exp_avg and exp_avg_sq.
    """

    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, kinds: Mapping[str, Mapping[str, Tensor]]) -> Pieces:
        """From tensors by kind and parameter."""
        return cls({f"{kind}.{name}": tensor for kind, own in kinds.items() for name, tensor in own.items()})


def folder_of(output: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` updates lies."""
    return output / "checkpoints" / f"step-{step:08d}"


def write_pieces(output: Path, step: int, rank: int, world: int, pieces: Pieces) -> None:
    """Write a rank's file aside; the checkpoint does not count before :func:`finish`."""
    aside = _aside(folder_of(output, step))
    aside.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in pieces.tensors.items()}
    path = aside / _file(rank, world)
    save_file(tensors, path)
    _flush(path)


def clear(output: Path, step: int) -> None:
    """Remove what a save that was killed had left of this step."""
    shutil.rmtree(_aside(folder_of(output, step)), ignore_errors=True)


def finish(output: Path, step: int, world: int, values: Mapping[str, Any], keep: int) -> Path:
    """Write the manifest, give the checkpoint its name, and remove all but the newest ``keep``."""
    folder, aside = folder_of(output, step), _aside(folder_of(output, step))
    files = {_file(rank, world): (aside / _file(rank, world)).stat().st_size for rank in range(world)}
    manifest = {"format": FORMAT, "step": step, "ranks": world, "files": files, **values}
    (aside / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    _flush(aside / MANIFEST)
    if folder.exists():  # of an earlier try, whose steps were done again
        shutil.rmtree(folder)
    aside.replace(folder)
    _prune(output, folder, keep)
    for left in folder.parent.glob(".step-*"):
        shutil.rmtree(left)
    return folder


def _prune(output: Path, folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` up to a checkpoint; those of later steps, which were left, are set aside."""
    found = checkpoints(output)
    here = found.index(folder)
    for old in found[: max(0, here + 1 - keep)]:
        shutil.rmtree(old)
    for later in found[here + 1 :]:
        aside = later.with_name(f"left-{later.name}")
        shutil.rmtree(aside, ignore_errors=True)
        later.replace(aside)
        log.warning("set aside, the run went on from before it: %s", aside)


def checkpoints(output: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(path.parent for path in (output / "checkpoints").glob(f"step-*/{MANIFEST}"))


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint to read.

    Raises:
        CheckpointError: on the first look, if a file is missing or cut off.
    """

    folder: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Everything that is no tensor."""
        values = read_json(self.folder / MANIFEST)
        if values.get("format") != FORMAT:
            raise CheckpointError(
                f"format {values.get('format')}", where=str(self.folder), remedy=f"this version reads format {FORMAT}"
            )
        for name, size in values["files"].items():
            path = self.folder / name
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                raise CheckpointError(
                    f"{name} is missing" if found is None else f"{name} has {found} bytes of {size}",
                    where=str(self.folder),
                    remedy="restore the file, or resume from an earlier checkpoint",
                )
        return values

    @property
    def step(self) -> int:
        """Updates that were done."""
        return int(self.manifest["step"])

    @cached_property
    def _files(self) -> list[Any]:
        return [open_safetensors(self.folder / name) for name in sorted(self.manifest["files"])]

    @cached_property
    def kinds(self) -> dict[str, set[str]]:
        """Parameters by kind."""
        found: dict[str, set[str]] = {}
        for key in self._files[0].keys():  # noqa: SIM118 (not a dict)
            kind, _, name = key.partition(".")
            found.setdefault(kind, set()).add(name)
        return found

    def whole(self, kind: str, name: str, shape: torch.Size) -> Tensor:
        """A whole parameter, from the pieces of all ranks.

        Raises:
            CheckpointError: it is not there, or has another size.
        """
        pieces = [file.get_tensor(self._key(kind, name)) for file in self._files]
        flat = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        if not 0 <= flat.numel() - shape.numel() < max(len(pieces), 1):
            raise CheckpointError(
                f"{name} has {flat.numel()} values for a shape of {tuple(shape)}",
                where=str(self.folder),
                remedy="resume with the model's own config",
            )
        return flat[: shape.numel()].view(shape)

    def weight(self, name: str, shape: torch.Size) -> Tensor:
        """A parameter as it trains, or as it is frozen."""
        kind = "master" if name in self.kinds.get("master", ()) else "frozen"
        return self.whole(kind, name, shape)

    def pieces(
        self, kind: str, shapes: Mapping[str, torch.Size], rank: int, world: int
    ) -> Iterator[tuple[str, Tensor]]:
        """The pieces of a rank, by parameter."""
        return ((name, piece_of(self.whole(kind, name, shape), rank, world)) for name, shape in shapes.items())

    def _key(self, kind: str, name: str) -> str:
        if name not in self.kinds.get(kind, ()):
            raise CheckpointError(
                f"no {kind} of {name}", where=str(self.folder), remedy="resume with the same parts frozen"
            )
        return f"{kind}.{name}"


def piece_of(tensor: Tensor, rank: int, world: int) -> Tensor:
    """A rank's flat piece of a parameter, padded with zeros as ZeRO-3 pads it."""
    flat = tensor.reshape(-1)
    size = -(-flat.numel() // world)
    piece = flat[rank * size : (rank + 1) * size]
    return torch.nn.functional.pad(piece, (0, size - piece.numel())).clone()


def newest(output: Path) -> Checkpoint | None:
    """The newest checkpoint of a run whose files are all there; damaged ones are named and passed over.

    Raises:
        CheckpointError: there are checkpoints, and none is whole.
    """
    found = checkpoints(output)
    for folder in reversed(found):
        checkpoint = Checkpoint(folder)
        try:
            checkpoint.manifest  # noqa: B018 - looks at the files
        except CheckpointError as error:
            log.warning("passed over: %s", error)
            continue
        return checkpoint
    if found:
        raise CheckpointError("no checkpoint is whole", where=str(output), remedy="restore one, or use another output")
    return None


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}")


def _file(rank: int, world: int) -> str:
    return f"rank-{rank:05d}-of-{world:05d}.safetensors"


def _flush(path: Path) -> None:
    """To the disk, so that a name never stands for bytes that are not there."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
