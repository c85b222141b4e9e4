"""Moments of the frozen autoencoder kept on disk, so that an image is encoded once."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unimedvl.data.records import ImageRef

log = logging.getLogger(__name__)


class MomentCache:
    """Mean and standard deviation of posteriors, float32 (C, h, w), one file an image and size.

    Args:
        folder: where they lie; shared by runs.
        autoencoder: identifies its weights, so that another one's moments are never taken.
    """

    def __init__(self, folder: str | Path, autoencoder: str) -> None:
        self.folder = Path(folder) / autoencoder

    def get(self, key: str) -> tuple[Tensor, Tensor] | None:
        """What is kept under a key, or None; a damaged file is as good as none and will be written again."""
        path = self._path(key)
        try:
            tensors = load_file(path)
            return tensors["mean"], tensors["std"]
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError, OSError) as error:
            log.warning("moments are computed again, the file is damaged: %s (%s)", error, path)
            return None

    def put(self, key: str, mean: Tensor, std: Tensor) -> None:
        """Keep moments, written aside and renamed."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}.tmp")
        save_file({"mean": mean.float().cpu().contiguous(), "std": std.float().cpu().contiguous()}, aside)
        aside.replace(path)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def file_key(ref: ImageRef, root: Path | None) -> str:
    """Names an image: by path, time and size of its file, or by its bytes."""
    if ref.data is not None:
        return hashlib.sha256(ref.data).hexdigest()[:32]
    path = ref.location(root).resolve()
    status = path.stat()
    return hashlib.sha256(f"{path}\0{status.st_mtime_ns}\0{status.st_size}".encode()).hexdigest()[:32]
