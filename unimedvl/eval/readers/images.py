"""References to the images of a row. Pixels are not touched: a file need only be there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from unimedvl.data.records import IMAGE_MARK, ImageRef, RecordError, parse_record
from unimedvl.eval.readers.tables import Entry

Kept = dict[bytes, ImageRef]
"""Images by their digests: many questions are about one image, whose bytes are held once."""

_LONG = 300  # letters of a path in a message


def image_file(name: str, root: Path, entry: Entry, folders: Sequence[str] = ("",)) -> ImageRef:
    """An image by its path from the root, or from the first of the folders in it where it lies.

    Raises:
        DataError: it lies in none of them.
    """
    candidates = [os.path.join(folder, name) for folder in folders]
    for candidate in candidates:
        if os.path.isfile(root / candidate):  # false, too, for what cannot be a file's name
            return ImageRef(path=candidate)
    where = str(root / candidates[0])
    archives = [f"{place}.zip" for place in Path(where).parents if os.path.isfile(f"{place}.zip")]
    remedy = f"unpack {archives[0]} where it lies" if archives else "put it there"
    raise entry.fault(f"no image file {where if len(where) < _LONG else where[:_LONG] + '...'}", remedy)


def image_refs(
    value: Any, root: Path, entry: Entry, kept: Kept, folders: Sequence[str] = ("",)
) -> tuple[ImageRef, ...]:
    """The images of a cell: a path, bytes, base64, an object with ``path``, ``bytes`` or ``base64``, or a list.

    Raises:
        DataError: one is absent or no image data.
    """
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        raise entry.fault("a question without an image")
    marks = [{"from": "human", "value": IMAGE_MARK * len(values) + "?"}, {"from": "gpt", "value": "."}]
    try:
        refs = parse_record({"image": values, "conversations": marks}).inputs  # knows all the forms of an image
    except RecordError as error:
        raise entry.fault(error.problem, error.remedy) from error
    return tuple(_once(ref, kept) if ref.data else image_file(ref.path or "", root, entry, folders) for ref in refs)


def _once(ref: ImageRef, kept: Kept) -> ImageRef:
    return kept.setdefault(blake2b(ref.data or b"", digest_size=16).digest(), ref)
