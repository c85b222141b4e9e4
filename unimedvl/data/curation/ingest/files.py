"""Finding raw files in a fixed order, and writing images once."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from unimedvl.data.curation.pairs import SPLITS
from unimedvl.data.tables import unreadable
from unimedvl.files import aside

# Pictures; volumes and DICOM have readers of their own.
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif")
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "validate", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
assert set(_SPLITS.values()) == set(SPLITS)


def files_under(root: Path, suffixes: tuple[str, ...] = ()) -> Iterator[Path]:
    """The files of a tree, folder by folder, sorted by name; those that start with a dot are left out.

    Links to folders are followed. A folder that several paths lead to comes once, under the first of them.

    Args:
        suffixes: in lower case; any file where there are none.

    Raises:
        DataError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise unreadable(error, Path(error.filename or root)) from error

    seen: set[tuple[int, int]] = set()
    for folder, inner, names in os.walk(root, onerror=refuse, followlinks=True):
        about = os.stat(folder)
        if (about.st_dev, about.st_ino) in seen:
            inner.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and (not suffixes or name.lower().endswith(suffixes)):
                yield Path(folder, name)


def split_named(text: str) -> str | None:
    """The split that a source calls so; empty for an empty text, and None for none."""
    name = text.strip().casefold()
    return _SPLITS.get(name) if name else ""


def save_once(image: Image.Image, path: Path) -> None:
    """Write a PNG without any metadata, unless the file holds exactly this already."""
    buffer = io.BytesIO()
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    bare.save(buffer, format="PNG")
    content = buffer.getvalue()
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return
    with aside(path) as part:
        part.write_bytes(content)
