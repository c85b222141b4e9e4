"""Which weights a result is of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

_SCORES = "evaluation.json"  # of these very weights, kept beside them
_WHOLE = 64 << 20  # files up to this many bytes are read whole
_BLOCKS, _BLOCK = 256, 64 << 10


def weights_hash(folder: Path, whole: int = _WHOLE) -> str:
    """Of all weights of a checkpoint directory, its configs and its tokenizer; 16 hexadecimal digits.

    Of a file of more than 64 MiB the size, the first and last block, and 256 blocks of 64 KiB evenly between them
    count: training changes every tensor, and 28 GB would take minutes to read for each evaluation.
    """
    digest = hashlib.sha256()
    others = [path for path in folder.glob("*.json") if path.name != _SCORES]
    for path in sorted([*folder.glob("*.safetensors"), *others]):
        digest.update(path.name.encode())
        for part in _parts(path, whole):
            digest.update(part)
    return digest.hexdigest()[:16]


def _parts(path: Path, whole: int) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= whole:
            yield file.read()
            return
        yield str(size).encode()
        for number in range(_BLOCKS + 1):
            file.seek(max(0, size - _BLOCK) * number // _BLOCKS)
            yield file.read(_BLOCK)
