"""A model for VLMEvalKit (https://github.com/open-compass/VLMEvalKit, package ``vlmeval``; on PyPI ``ms-vlmeval``).

VLMEvalKit has no plug-ins: it knows the models in the dict ``supported_VLM`` of ``vlmeval/config.py``. Add ours at the
end of that file::

    from unimedvl.eval.bridges.vlmevalkit import UniMedVL
    supported_VLM["UniMedVL"] = partial(UniMedVL, model_path="DIR", dtype="bfloat16", max_new_tokens=64)

and run it by that name: ``python run.py --data MMMU_DEV_VAL --model UniMedVL``. Where the file cannot be edited, a
script does the same and then calls ``vlmeval.run.main()``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unimedvl.errors import ConfigError, DataError
from unimedvl.eval.bridges import answers, context, shown, text_options
from unimedvl.eval.rows import LETTERS
from unimedvl.eval.settings import Wording
from unimedvl.infer.pipeline import UniMedVLPipeline

Message = Sequence[Mapping[str, Any]]
"""Parts in the order in which the model sees them: ``{"type": "text" or "image", "value": text or path}``."""


class PlainModel:
    """What VLMEvalKit's own base class gives to its models, where VLMEvalKit is not installed."""

    dump_image_func: Callable[[Any], Any] | None = None

    def set_dump_image(self, dump_image_func: Callable[[Any], Any]) -> None:
        """Take the function that writes the images of a line to files and returns their paths."""
        self.dump_image_func = dump_image_func

    def dump_image(self, line: Any, dataset: str | None) -> Any:
        """Paths of the images of a line.

        Raises:
            ConfigError: no function was set that writes them.
        """
        if self.dump_image_func is None:
            raise ConfigError("no way to the images", where=str(dataset), remedy="call set_dump_image first")
        return self.dump_image_func(line)

    def generate(self, message: str | Message, dataset: str | None = None) -> str:
        """The answer to a text or a message."""
        parts = [{"type": "text", "value": message}] if isinstance(message, str) else message
        return self.generate_inner(parts, dataset)

    def generate_inner(self, message: Message, dataset: str | None = None) -> str:
        """The model's own part of :meth:`generate`."""
        raise NotImplementedError


try:
    from vlmeval.vlm.base import BaseModel  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as error:
    if error.name != "vlmeval":  # it is there, and something that it needs is not
        raise
    BaseModel = PlainModel


class UniMedVL(BaseModel):  # pyright: ignore[reportGeneralTypeIssues]
    """Answers VLMEvalKit's messages; any order of texts and images, any number of images.

    Args:
        model_path: checkpoint directory, hub id, or ``bundled``.
        device, dtype: see :meth:`unimedvl.UniMedVLPipeline.from_pretrained`.
        wording: how multiple-choice questions are put; ``{question}`` and ``{options}`` are filled in.
        options: of generation, under the names that transformers uses: ``max_new_tokens``, ``temperature``, ...

    Raises:
        ConfigError, CheckpointError: the model cannot be loaded so, or an option cannot work.
    """

    INTERLEAVE = True
    INSTALL_REQ = False

    def __init__(
        self,
        model_path: str,
        *,
        device: str | None = None,
        dtype: str | None = None,
        wording: str = Wording.choice,
        **options: Any,
    ) -> None:
        super().__init__()
        self.pipe = UniMedVLPipeline.from_pretrained(model_path, device=device, dtype=dtype, und_only=True)
        self.wording = wording
        self.options = text_options(self.pipe, options)

    def use_custom_prompt(self, dataset: str | None) -> bool:
        """Whether questions are put in our wording: multiple choice, unless images stand inside the question (MMMU)."""
        if BaseModel is PlainModel or dataset is None or "MMMU" in dataset:
            return False
        from vlmeval.dataset import DATASET_TYPE  # pyright: ignore[reportMissingImports]

        return DATASET_TYPE(dataset) == "MCQ"

    def build_prompt(self, line: Any, dataset: str | None = None) -> list[dict[str, Any]]:
        """The message of a line: its images, then hint, question and lettered options.

        Args:
            line: mapping or pandas row with ``question`` and, where the question has them, ``hint``, ``A``, ``B``, ...
        """
        paths = self.dump_image(line, dataset)
        listed = [f"{letter}. {_cell(line, letter)}" for letter in LETTERS if _cell(line, letter)]
        question = "\n".join(text for text in (_cell(line, "hint"), _cell(line, "question")) if text)
        if listed:
            question = self.wording.replace("{options}", "\n".join(listed)).replace("{question}", question)
        images = paths if isinstance(paths, list) else [paths]
        return [*({"type": "image", "value": path} for path in images), {"type": "text", "value": question}]

    def generate_inner(self, message: Message, dataset: str | None = None) -> str:
        """The answer to a message.

        Raises:
            DataError: a part is neither text nor image, or an image cannot be read.
        """
        items = []
        for part in message:
            if part["type"] not in ("text", "image"):
                raise DataError(
                    f"the message holds a part of type {part['type']!r}",
                    where=str(dataset),
                    remedy="choose a benchmark of texts and still images",
                )
            items.append(part["value"] if part["type"] == "text" else shown(part["value"]))
        return answers(self.pipe, [context(items)], [self.options])[0]


def _cell(line: Any, name: str) -> str:
    """A cell's text; empty where the table has no such column, or nothing (pandas' NaN, unlike itself) in it."""
    value = line[name] if name in line else None  # noqa: SIM401 (also of a pandas row)
    return "" if value is None or value != value else str(value).strip()  # noqa: PLR0124
