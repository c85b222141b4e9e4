"""The page that an expert fills: one HTML file with everything in it, which asks no network for anything."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from unimedvl.data.curation.audit.dimensions import DIMENSIONS
from unimedvl.data.curation.pairs import Pair
from unimedvl.data.curation.removals import content_of
from unimedvl.data.records import IMAGE_MARK
from unimedvl.errors import ConfigError, DataError
from unimedvl.files import write_json, write_text
from unimedvl.imaging import read_image

FORMAT = "unimedvl audit 2"
SIDE = 640  # pixels of the longer side of an image on the page

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Sheet:
    """What a page asks about, for reading the ratings back.

    Attributes:
        audit: 16 hexadecimal digits over the sampled pairs with their contents: ratings of other ones do not fit.
        modalities: of each sampled pair by its id, in the order of the page.
        contents: of each, what :func:`~unimedvl.data.curation.removals.content_of` makes of its words and images.
    """

    audit: str
    modalities: dict[str, str]
    contents: dict[str, str]


def sheet_of(sample: Sequence[Pair], root: Path | None = None) -> Sheet:
    """The sheet of a sample; relative paths of images refer to ``root``.

    Raises:
        DataError: an image cannot be read.
    """
    contents = {pair.id: content_of(pair, root) for pair in sample}
    audit = hashlib.sha256(json.dumps(list(contents.items())).encode()).hexdigest()[:16]
    return Sheet(audit, {pair.id: pair.modality for pair in sample}, contents)


def write_page(
    sample: Sequence[Pair],
    path: Path,
    *,
    title: str = "Expert audit",
    root: Path | None = None,
    side: int = SIDE,
    flags: Mapping[str, Sequence[str]] | None = None,
) -> Sheet:
    """Write the page, and beside it the sheet (same name, ``.json``).

    Args:
        title: shown on top, such as the name and version of the corpus.
        root: folder to which relative paths of images refer; the current one by default.
        side: pixels of the longer side of an embedded image; smaller images stay as they are.
        flags: by id, what the guard of privacy found in a pair, shown beside it.

    Raises:
        DataError: there is no sample, or an image cannot be read.
        ConfigError: ``side`` is under 16, or ``path`` does not end in ``.html``.
    """
    if not sample:
        raise DataError("no pairs to audit", where=str(path), remedy="curate a corpus first")
    if side < 16 or path.suffix != ".html":
        problem = f"a side of {side} pixels" if side < 16 else f"{path.name} is no name for a page"
        raise ConfigError(problem, where="audit", remedy="give 16 pixels or more, and a file that ends in .html")
    sheet = sheet_of(sample, root)
    content = {
        "format": FORMAT,
        "audit": sheet.audit,
        "dimensions": [asdict(dimension) for dimension in DIMENSIONS],
        "samples": [{**_entry(pair, root, side), "flags": list((flags or {}).get(pair.id, ()))} for pair in sample],
    }
    write_text(path, _document(title, content))
    write_json(path.with_suffix(".json"), {"format": FORMAT, **asdict(sheet)})
    return sheet


def read_sheet(path: Path) -> Sheet:
    """The sheet of a page.

    Raises:
        DataError: it is absent or something else.
    """
    remedy = "give the .json file that was written beside the page"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise DataError(f"of the format {content['format']!r}", where=str(path), remedy=remedy)
        modalities, contents = (
            {str(key): str(value) for key, value in content[name].items()} for name in ("modalities", "contents")
        )
        if modalities.keys() != contents.keys():
            raise DataError("modalities and contents of different pairs", where=str(path), remedy=remedy)
        return Sheet(str(content["audit"]), modalities, contents)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError("no sheet of an audit", where=str(path), remedy=remedy) from error


def _document(title: str, content: Mapping[str, Any]) -> str:
    parts = {name: (_FOLDER / f"page.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    # Nothing in a text can end the element that holds the data.
    data = json.dumps(content).replace("<", "\\u003c")
    named = {"title": escape(title), "style": parts["css"], "script": parts["js"], "data": data}
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: named[mark[1]], parts["html"])


def _entry(pair: Pair, root: Path | None, side: int) -> dict[str, Any]:
    """A sample as the page shows it."""
    shown = [
        (f"Image {number}" if len(pair.images) > 1 else "Image", name) for number, name in enumerate(pair.images, 1)
    ]
    if pair.target:
        shown = [(label.replace("Image", "Input"), name) for label, name in shown] + [("Target", pair.target)]
    # All of a dialogue is rated, so all of it is shown; its first turns are question and text.
    turns = [f"{speaker}: {words.replace(IMAGE_MARK, '').strip()}" for speaker, words in pair.more.get("turns") or ()]
    return {
        "id": pair.id,
        "modality": pair.modality,
        "task": " / ".join(filter(None, (pair.family, pair.subtask))),
        "question": "" if turns else pair.question,
        "text": "\n\n".join(turns) or pair.text,
        "steps": list(pair.steps),
        "images": [{"label": label, "source": embedded(_located(name, root), side)} for label, name in shown],
    }


def _located(name: str, root: Path | None) -> Path:
    return Path(name) if root is None else root / name


def embedded(path: Path, side: int) -> str:
    """An image as a data URI, no larger than ``side``; PNG or JPEG, whichever is shorter, with no metadata.

    Raises:
        DataError: it cannot be read.
    """
    read = read_image(path).image
    read.thumbnail((side, side), Image.Resampling.LANCZOS)
    image = Image.new("RGB", read.size)  # a new one: comments and profiles of a file go with its copies
    image.paste(read)
    choices = []
    for kind, options in (("PNG", {"optimize": True}), ("JPEG", {"quality": 90, "subsampling": 0})):
        file = io.BytesIO()
        image.save(file, kind, **options)
        choices.append((file.tell(), kind.lower(), file.getvalue()))
    _, kind, content = min(choices)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
