"""Records: one row of a data file, in whichever of the known forms it was written.

Three forms are read: ``main_task_type`` with ``message`` (the project's own and UniMedVL-5M), ``conversations`` with
``image`` (LLaVA), and ``image`` with ``captions`` (BAGEL's text-to-image Parquet).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from PIL import Image

from unimedvl.errors import DataError
from unimedvl.imaging import ImageMissingError, ImageTooLargeError, read_image

Family = Literal["understanding", "text", "t2i", "edit", "counterfactual", "reconstruction"]
Speaker = Literal["human", "gpt"]

IMAGE_MARK = "<image>"

# Names under which families appear in files, in lower case without separators.
_ALIASES: dict[str, Family] = {
    **dict.fromkeys(("understanding", "vqa", "report", "caption", "captioning", "i2t"), "understanding"),
    **dict.fromkeys(("text", "textonly", "puretext"), "text"),
    **dict.fromkeys(("t2i", "texttoimage", "generation"), "t2i"),
    **dict.fromkeys(("edit", "editing", "interleaved", "superresolution", "virtualstaining", "staining"), "edit"),
    **dict.fromkeys(("crossmodal", "crossmodalsynthesis", "translation", "segmentation"), "edit"),
    **dict.fromkeys(("counterfactual", "counterfactualgeneration"), "counterfactual"),
    **dict.fromkeys(("reconstruction", "understandingreconstruction"), "reconstruction"),
}

_URL_SAFE = str.maketrans("-_", "+/")  # the other alphabet of base64


class RecordError(DataError):
    """A row that cannot be used.

    Args:
        reason: a short name under which such rows are counted.
    """

    def __init__(self, reason: str, problem: str = "", *, remedy: str = "mend or remove the row", where: str = ""):
        self.reason = reason
        super().__init__(problem or reason, remedy=remedy, where=where or None)

    @classmethod
    def of(cls, reason: str, error: DataError) -> RecordError:
        """``error`` as the fault of a row."""
        return cls(reason, error.problem, remedy=error.remedy, where=error.where or "")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.reason, self.problem, self.remedy, self.where)


def _rebuilt(kind: type[RecordError], reason: str, problem: str, remedy: str, where: str | None) -> RecordError:
    return kind(reason, problem, remedy=remedy, where=where or "")


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    speaker: Speaker
    text: str


@dataclass(frozen=True)
class ImageRef:
    """An image by ``path`` (relative ones from the root of the source) or as the ``data`` of a file.

    ``height`` and ``width`` are what the row declares, in pixels; nothing relies on them.
    """

    path: str | None = None
    data: bytes | None = None
    height: int | None = None
    width: int | None = None

    def location(self, root: Path | None) -> Path:
        """Where the file lies; only for references by path."""
        assert self.path is not None
        return Path(self.path) if root is None else root / self.path

    def read(self, root: Path | None) -> Image.Image:
        """The image as 8-bit RGB.

        Raises:
            RecordError: it is missing, damaged, or too large.
        """
        source: Path | bytes = self.location(root) if self.data is None else self.data
        try:
            return read_image(source).image
        except ImageMissingError as error:
            raise RecordError.of("missing image", error) from error
        except ImageTooLargeError as error:
            raise RecordError.of("huge image", error) from error
        except DataError as error:
            raise RecordError.of("damaged image", error) from error


@dataclass(frozen=True)
class Record:
    """One row in the project's terms.

    Attributes:
        family: which sequence of segments it makes (paper, appendix; see :mod:`unimedvl.data.tasks`).
        turns: the dialogue; of text-to-image, one human text for each alternative caption in ``captions``.
        captions: alternatives of which one is drawn for each visit; empty where ``turns`` say it.
    """

    family: Family
    subtask: str = ""
    modality: str = ""
    dataset: str = ""
    inputs: tuple[ImageRef, ...] = ()
    outputs: tuple[ImageRef, ...] = ()
    turns: tuple[Turn, ...] = ()
    captions: tuple[str, ...] = ()


def parse_record(row: str | Mapping[str, Any]) -> Record:
    """A JSON line, or the columns of a row, as a record; the number of images and marks is checked.

    Raises:
        RecordError: with the reason why the row cannot be used.
    """
    values = _json_object(row) if isinstance(row, str) else row
    if values.get("message") is not None or values.get("main_task_type") is not None:
        record = _own_form(values)
    elif values.get("conversations") is not None:
        record = _llava_form(values)
    elif values.get("captions") is not None:
        record = _captions_form(values)
    else:
        raise RecordError("missing field", "neither message, conversations nor captions")
    _check(record)
    return record


def _json_object(line: str) -> Mapping[str, Any]:
    if not line.strip():
        raise RecordError("bad JSON", "an empty line", remedy="remove it")
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordError("bad JSON", f"bad JSON: {error}") from error
    if not isinstance(values, Mapping):
        raise RecordError("bad JSON", f"a JSON {type(values).__name__}, not an object")
    return values


def _own_form(values: Mapping[str, Any]) -> Record:
    task = _text(values, "main_task_type")
    family = _ALIASES.get("".join(letter for letter in task.lower() if letter.isalnum()))
    if family is None:
        known = ", ".join(get_args(Family))
        raise RecordError("unknown task", f"main_task_type {task!r}", remedy=f"use one of {known}")
    return Record(
        family,
        **_about(values),
        inputs=_images(values, "input_img"),
        outputs=_images(values, "output_img"),
        turns=_turns(values, "message"),
    )


def _llava_form(values: Mapping[str, Any]) -> Record:
    images = _images(values, "image") or _images(values, "images")
    return Record(
        "understanding" if images else "text",
        **_about(values),
        inputs=images,
        turns=_turns(values, "conversations"),
    )


def _captions_form(values: Mapping[str, Any]) -> Record:
    captions = values["captions"]
    captions = _nested_json(captions, "captions") if isinstance(captions, str) else captions
    chosen = list(captions.values()) if isinstance(captions, Mapping) else captions
    if (
        not isinstance(chosen, Sequence)
        or isinstance(chosen, str)
        or not all(isinstance(one, str | None) for one in chosen)
    ):
        raise RecordError("wrong type", "captions holds no texts", remedy="give a JSON object or list of texts")
    texts = tuple(_encodable(one, "captions") for one in chosen if one and one.strip())
    if not texts:
        raise RecordError("empty text", "captions are empty")
    return Record("t2i", **_about(values), outputs=_images(values, "image"), captions=texts)


def _about(values: Mapping[str, Any]) -> dict[str, Any]:
    """What every form may say of a row."""
    names = {"subtask": "sub_task_type", "modality": "modality", "dataset": "dataset"}
    return {field: _text(values, name, "") for field, name in names.items()}


def _nested_json(text: str, name: str) -> Any:
    """A column that holds JSON as text, as some Parquet files do."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError("bad JSON", f"{name}: bad JSON: {error}") from error


def _text(values: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = values.get(name)
    if value is None and default is not None:
        return default
    if value is None:
        raise RecordError("missing field", f"no {name}")
    if not isinstance(value, str):
        raise RecordError("wrong type", f"{name} is {type(value).__name__}", remedy="give a text")
    return _encodable(value, name)


def _encodable(text: str, name: str) -> str:
    """The text, unless half of a surrogate pair stands in it, as JSON escapes allow."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecordError("not UTF-8", f"{name} holds half a surrogate pair") from error
    return text


def _turns(values: Mapping[str, Any], name: str) -> tuple[Turn, ...]:
    turns = values.get(name)
    if turns is None:
        raise RecordError("missing field", f"no {name}")
    turns = _nested_json(turns, name) if isinstance(turns, str) else turns
    if isinstance(turns, Mapping) and {"from", "value"} <= turns.keys():  # how datasets store a sequence of objects
        turns = [{"from": who, "value": what} for who, what in zip(turns["from"], turns["value"], strict=False)]
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not all(isinstance(one, Mapping) for one in turns):
        raise RecordError("wrong type", f"{name} is no list of objects")
    result = []
    for turn in turns:
        speaker, text = _text(turn, "from"), _text(turn, "value")
        if speaker not in get_args(Speaker):
            raise RecordError("wrong type", f"{name} from {speaker!r}", remedy="use human or gpt")
        result.append(Turn(cast(Speaker, speaker), text))
    return tuple(result)


def _images(values: Mapping[str, Any], name: str) -> tuple[ImageRef, ...]:
    images = values.get(name)
    if images is None:
        return ()
    if isinstance(images, Sequence) and not isinstance(images, str | bytes):
        return tuple(_image(image, name) for image in images)
    return (_image(images, name),)


def _image(value: Any, name: str) -> ImageRef:
    """A path; bytes; or an object with ``path``, ``bytes`` or ``base64``, of which bytes win, and perhaps its size."""
    if isinstance(value, Mapping):
        height, width = (_side(value, name, side) for side in ("height", "width"))
        return replace(_content(value, name), height=height, width=width)
    return _plain_image(value, name)


def _side(values: Mapping[str, Any], name: str, side: str) -> int | None:
    value = values.get(side)
    if value is None or (isinstance(value, float) and math.isnan(value)):  # tables write an absent number as NaN
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1:
        raise RecordError("wrong type", f"{name}: {side} {value!r}", remedy="give a whole number of pixels, or nothing")
    return int(value)


def _content(value: Mapping[str, Any], name: str) -> ImageRef:
    if (data := value.get("bytes")) and isinstance(data, bytes):
        return ImageRef(data=data)
    if (encoded := value.get("base64") or value.get("bytes")) is not None:
        return ImageRef(data=_decoded(encoded, name))
    return _plain_image(value.get("path"), name)


def _plain_image(value: Any, name: str) -> ImageRef:
    if isinstance(value, bytes):
        return ImageRef(data=value)
    if isinstance(value, str) and value:
        # No path is as long as the shortest picture in base64 could be, or starts with a data URL's scheme.
        encoded = value.startswith("data:") or (len(value) > 1024 and "." not in value)
        return ImageRef(data=_decoded(value, name)) if encoded else ImageRef(path=value)
    raise RecordError("missing image", f"{name} has neither path, bytes nor base64")


def _decoded(value: Any, name: str) -> bytes:
    try:
        encoded = value.split(",", 1)[1] if value.startswith("data:") else value
        standard = "".join(encoded.split()).translate(_URL_SAFE)
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError, TypeError, AttributeError, IndexError) as error:
        raise RecordError("damaged image", f"{name} is not base64: {error}") from error


def _check(record: Record) -> None:
    """Images against marks, and what the family needs."""
    marks = sum(turn.text.count(IMAGE_MARK) for turn in record.turns if turn.speaker == "human")
    inputs, outputs = len(record.inputs), len(record.outputs)
    placed = record.family == "understanding"
    if marks != inputs and (placed or (marks and record.family != "text")):
        raise RecordError("image count", f"{marks} {IMAGE_MARK} marks for {inputs} input images")
    if placed and not inputs:
        raise RecordError("image count", "an understanding record without an image", remedy="call it text")
    if record.family in ("edit", "counterfactual", "reconstruction") and not inputs:
        raise RecordError("image count", f"{record.family} without an input image")
    wanted = record.family in ("t2i", "edit", "counterfactual")
    if wanted and outputs != 1:
        raise RecordError("image count", f"{record.family} with {outputs} output images", remedy="give one")
    if not record.captions:
        _check_turns(record)


def _check_turns(record: Record) -> None:
    spoken = [turn.speaker for turn in record.turns if turn.text.replace(IMAGE_MARK, "").strip()]
    if not all(turn.text.strip() for turn in record.turns):
        raise RecordError("empty text", "a turn without text")
    if record.family in ("understanding", "text") and "gpt" not in spoken:
        raise RecordError("empty text", "no answer to learn from")
    if record.family in ("t2i", "edit", "counterfactual") and "human" not in spoken:
        raise RecordError("empty text", "no instruction")
