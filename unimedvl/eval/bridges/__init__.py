"""Bridges to public evaluation harnesses: they ask and score, the model answers.

Here stands what the bridges share: a harness's prompt as a context of the model, its generation options as ours.
Nothing of a harness is imported here, save for its own entry point.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from unimedvl.data.records import IMAGE_MARK
from unimedvl.errors import DataError
from unimedvl.imaging import ReadImage, read_image

if TYPE_CHECKING:
    from unimedvl.infer.decoding import TextOptions
    from unimedvl.infer.pipeline import UniMedVLPipeline

logger = logging.getLogger(__name__)

Context = tuple[str | ReadImage, ...]
"""Texts and images in the order in which the model sees them."""

_OWN = ("max_new_tokens", "temperature", "top_p", "repetition_penalty", "stop", "seed")
_OTHER_NAMES = {"max_gen_toks": "max_new_tokens", "max_tokens": "max_new_tokens", "until": "stop"}
# Values that ask for what is done anyway, and options that mean nothing to greedy decoding.
_AS_IS = {"num_beams": 1, "num_return_sequences": 1, "n": 1, "best_of": 1, "length_penalty": 1, "use_cache": True}
_OF_SAMPLING = ("top_p", "top_k", "min_p", "typical_p")


def lmms_eval_manifest() -> Any:
    """What lmms-eval's entry point group ``lmms_eval.models`` loads: the name and place of our class."""
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

    return ModelManifest("unimedvl", simple_class_path="unimedvl.eval.bridges.lmms_eval.UniMedVL")


def text_options(pipe: UniMedVLPipeline, given: Mapping[str, Any]) -> TextOptions:
    """The checkpoint's text options with those that a harness gives, under the names that transformers uses.

    ``do_sample=False`` and a temperature of 0 both are greedy, whatever else is given. What we have no option for is
    logged, once in a process.

    Raises:
        ConfigError: a value cannot work.
    """
    from unimedvl.infer.tasks import with_options

    given = {_OTHER_NAMES.get(name, name): value for name, value in given.items() if value is not None}
    sampled = given.pop("do_sample", None)
    if sampled is not None:
        given["temperature"] = given.get("temperature", 1.0) if sampled else 0.0
    if given.get("temperature") == 0:
        given = {name: value for name, value in given.items() if name not in _OF_SAMPLING}
    if "stop" in given:
        stop = given["stop"]
        given["stop"] = [text for text in ([stop] if isinstance(stop, str) else stop) if text]
    for name in given.keys() - set(_OWN):
        if name not in _AS_IS or given[name] != _AS_IS[name]:
            report(f"the generation option {name}={given[name]!r} has no counterpart here and changes nothing")
    return with_options(pipe.settings, **{name: given[name] for name in _OWN if name in given}).text


@cache
def report(message: str) -> None:
    """Log a warning, once in a process."""
    logger.warning(message)


def placed(text: str, images: Sequence[Any]) -> Context:
    """The images where ``<image>`` stands in the text; before it, if there are more or fewer marks than images."""
    first, *rest = text.split(IMAGE_MARK)
    seen = [shown(image) for image in images]
    if len(rest) != len(seen):
        if rest:
            report(f"{len(rest)} {IMAGE_MARK} marks for {len(seen)} images: the images come first, without the marks")
        return context([*seen, " ".join(part.strip() for part in (first, *rest))])
    return context([first, *(item for pair in zip(seen, rest, strict=True) for item in pair)])


def context(items: Sequence[str | ReadImage]) -> Context:
    """Items as the model was trained on them: texts that follow each other are one, of several lines; none is empty.

    Raises:
        DataError: nothing is left.
    """
    joined: list[str | ReadImage] = []
    for item in items:
        if not isinstance(item, str):
            joined.append(item)
        elif text := item.strip():
            if joined and isinstance(joined[-1], str):
                joined[-1] = f"{joined[-1]}\n{text}"
            else:
                joined.append(text)
    if not joined:
        raise DataError("the prompt holds neither text nor image", where="prompt", remedy="check the task's documents")
    return tuple(joined)


def shown(image: Any) -> ReadImage:
    """An image that a harness hands over: its path, its bytes, or a Pillow image.

    Raises:
        DataError: it is none, or damaged.
    """
    if not isinstance(image, str | Path | bytes | Image.Image):
        raise DataError(
            f"a {type(image).__name__} where an image should be",
            where="visuals",
            remedy="choose a task of texts and still images",
        )
    return read_image(image)


def answers(pipe: UniMedVLPipeline, contexts: Sequence[Context], options: Sequence[TextOptions]) -> list[str]:
    """What the model says to each context, as one batch."""
    from unimedvl.infer.requests import Request

    requests = [Request(own, ("text",), text=chosen) for own, chosen in zip(contexts, options, strict=True)]
    return [result.text or "" for result in pipe.run(requests)]
