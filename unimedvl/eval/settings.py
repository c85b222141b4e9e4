"""What is evaluated, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from unimedvl.errors import ConfigError


@dataclass(frozen=True)
class Wording:
    """How questions are put; ``{question}`` and ``{options}`` (one a line, behind their letters) are filled in.

    Attributes:
        choice: of multiple-choice questions; ``question``: of all others.
    """

    choice: str = "{question}\n{options}\nAnswer with the option's letter from the given choices directly."
    question: str = "{question}\nAnswer the question using a single word or phrase."


@dataclass(frozen=True)
class JudgeSettings:
    """A language model that decides whether open answers are right; none without ``url``.

    Attributes:
        url: of an OpenAI-compatible endpoint, up to ``/v1``; its key stands in the environment's ``key``.
    """

    url: str = ""
    model: str = ""
    key: str = "OPENAI_API_KEY"


@dataclass(frozen=True)
class EvalSettings:
    """One benchmark, one model.

    Attributes:
        model: checkpoint directory or hub id.
        data: file or folder of the benchmark, in its public layout; ``split`` of it.
        out: folder of predictions, images and scores; ``runs/eval/BENCHMARK`` by default.
        limit: rows, spread evenly; all by default.
        seed: of noise and sampling; each picture has its own, drawn from this and the row's name.
        draws: pictures for each row that asks for one.
        batch_size: rows that are worked on together.
        device, dtype: of the model; as :meth:`unimedvl.UniMedVLPipeline.from_pretrained` chooses by default.
        shard: ``I/N``: every N-th row from the I-th (from 0); by default from torchrun's RANK and WORLD_SIZE.
        extractor: of image features, see :func:`unimedvl.eval.features.extractor`.
        train: records of training images, of which drawn ones should be no copies.
        classifier: file of a modality classifier, see :mod:`unimedvl.eval.classifier`.
        clip: directory of a BioMedCLIP for the agreement of text and picture.
        findings: classifier of counterfactuals, see :func:`unimedvl.eval.classes.image_judge`.
        meteor: whether texts are scored by METEOR too, which needs Java.
        rate: further score of texts, ``module:function``, see :func:`unimedvl.eval.texts.text_scores`.
    """

    model: str = "bundled"
    data: Path = Path()
    out: Path | None = None
    split: str = "test"
    limit: int | None = None
    seed: int = 0
    draws: int = 1
    batch_size: int = 16
    device: str | None = None
    dtype: str | None = None
    shard: str | None = None
    wording: Wording = field(default_factory=Wording)
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    extractor: str | None = None
    train: Path | None = None
    classifier: Path | None = None
    clip: Path | None = None
    findings: str | None = None
    meteor: bool = True
    rate: str | None = None

    def __post_init__(self) -> None:
        for name in ("draws", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", where="eval", remedy="give 1 or more")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit is {self.limit}", where="eval", remedy="give 1 or more, or none for all rows")
