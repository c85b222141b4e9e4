"""Files of an autoencoder's run: each is written aside and renamed, so a run that is killed leaves none by halves."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from unimedvl.config import VaeConfig
from unimedvl.errors import CheckpointError
from unimedvl.files import write_text
from unimedvl.model.vae import Autoencoder
from unimedvl.model.weights import published_tensors

CHECKPOINT, METRICS, GRIDS, FINAL = "checkpoint.pt", "metrics.jsonl", "grids", "final"


def write_checkpoint(out: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint of a folder."""
    aside = out / f".{CHECKPOINT}.part"
    with aside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(out / CHECKPOINT)


def read_checkpoint(out: Path, resume: bool) -> Mapping[str, Any] | None:
    """The checkpoint of a folder, None if it has none yet.

    Raises:
        CheckpointError: it is damaged or not to be resumed, or the folder holds results without one.
    """
    path = out / CHECKPOINT
    if not path.exists():
        if (out / FINAL).exists() or ((out / METRICS).exists() and not resume):
            raise CheckpointError("holds results without a checkpoint", where=str(out), remedy="choose a new folder")
        keep_rows(out / METRICS, 0)
        return None
    if not resume:
        raise CheckpointError("holds a run", where=str(out), remedy="resume it, or choose a new folder")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what the damaged bytes lead to
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> CheckpointError:
    """What to raise for a checkpoint that cannot be read."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return CheckpointError(f"the checkpoint is damaged: {reason}", where=str(path), remedy="start in a new folder")


def keep_rows(path: Path, step: int) -> None:
    """Remove rows of later steps, and a last one that was cut off."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    write_text(path, "".join(kept))


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """One more line of JSON."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def write_final(final: Path, autoencoder: Autoencoder, config: VaeConfig) -> None:
    """``ae.safetensors`` in the published layout and ``vae_config.json``, in a new folder."""
    from safetensors.torch import save_file

    aside = final.with_name(f".{final.name}.part")
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir()
    tensors = {name: tensor.cpu().contiguous() for name, tensor in published_tensors(autoencoder).items()}
    save_file(tensors, aside / "ae.safetensors", {"format": "pt"})
    (aside / "vae_config.json").write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")
    aside.replace(final)
