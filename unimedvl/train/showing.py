"""Held-out rows answered and drawn while training, beside what they should be: a look at what the model has learned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unimedvl.data.records import IMAGE_MARK, Record
from unimedvl.data.stream import Stream
from unimedvl.data.tasks import TrainTransforms
from unimedvl.imaging import ReadImage
from unimedvl.infer.decoding import TextOptions
from unimedvl.infer.pipeline import UniMedVLPipeline
from unimedvl.infer.requests import Output, Request, Result
from unimedvl.infer.sampling import PRESETS, ImageOptions
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.model.vae import Autoencoder
from unimedvl.processor import ImageTransforms, TextCodec
from unimedvl.sheets import Entry, contact_sheet

_OUTPUTS: dict[str, tuple[Output, ...]] = {
    "understanding": ("text",),
    "text": ("text",),
    "t2i": ("image",),
    "edit": ("text", "image"),
    "counterfactual": ("image", "text"),
    "reconstruction": ("text",),
}


@dataclass(frozen=True)
class Shown:
    """A held-out row: what is asked, what should come, what came."""

    source: str
    location: str
    question: str
    truth: str
    inputs: tuple[Image.Image, ...]
    target: Image.Image | None
    request: Request


def chosen_rows(stream: Stream, count: int, transforms: TrainTransforms, steps: int, new_tokens: int) -> list[Shown]:
    """``count`` rows of each source, spread evenly over it, as requests.

    Raises:
        RecordError: one of them cannot be read.
    """
    return [
        _shown(name, source.location(row), source.record(row), source.root(row), transforms, steps, new_tokens)
        for name, source in ((source.name, source) for source in stream.sources)
        for row in dict.fromkeys(np.linspace(0, len(source) - 1, count).astype(int).tolist())
    ]


def _shown(
    source: str, location: str, record: Record, root: Path, transforms: TrainTransforms, steps: int, new_tokens: int
) -> Shown:
    inputs = tuple(ref.read(root) for ref in record.inputs) if record.family != "text" else ()
    target = record.outputs[0].read(root) if record.outputs else None
    question = next((turn.text for turn in record.turns if turn.speaker == "human"), "") or record.captions[0]
    question = question.replace(IMAGE_MARK, "").strip()
    truth = next((turn.text for turn in record.turns if turn.speaker == "gpt"), "")
    request = Request(
        inputs=(*(ReadImage(image, location, ()) for image in inputs), question),
        outputs=_OUTPUTS[record.family],
        images_as="vae+vit" if target is not None or record.family == "reconstruction" else "vit",
        text=TextOptions(max_new_tokens=new_tokens),
        image=ImageOptions(guidance=PRESETS["edit" if inputs else "t2i"], steps=steps),
        size=None if target is None else transforms.vae.resize(target).size,
    )
    return Shown(source, location, question, truth, inputs, target, request)


def answer(
    rows: list[Shown], model: UniMedVL, codec: TextCodec, autoencoder: Autoencoder | None, transforms: TrainTransforms
) -> list[Result]:
    """Every row through the pipeline of inference; all ranks of a sharded model must call it alike."""
    seen = ImageTransforms(understand=transforms.vit, condition=transforms.vae, condition_vit=transforms.vit)
    training = model.training
    pipe = UniMedVLPipeline(model, codec, lambda: autoencoder, transforms=seen)
    try:
        return [pipe.runner.run([row.request])[0] for row in rows]
    finally:
        model.train(training)


def save(rows: list[Shown], results: list[Result], folder: Path) -> list[Path]:
    """One sheet a source (inputs, result, target; question, answer, truth) and ``answers.jsonl``; the sheets' paths."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"source": row.source, "row": row.location, "question": row.question, "answer": result.text, "truth": row.truth}
        for row, result in zip(rows, results, strict=True)
    ]
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    paths = []
    for source, entries in _by_source(rows, results):
        if any(entry.images for entry in entries):
            paths.append(folder / f"{source}.png")
            contact_sheet(source, entries).save(paths[-1])
    return paths


def _by_source(rows: list[Shown], results: list[Result]) -> Iterator[tuple[str, list[Entry]]]:
    for source in dict.fromkeys(row.source for row in rows):
        yield source, [_entry(row, result) for row, result in zip(rows, results, strict=True) if row.source == source]


def _entry(row: Shown, result: Result) -> Entry:
    side = (128, 128)
    pictures = (*row.inputs, result.image, row.target)
    fitted = tuple(picture.resize(side, Image.Resampling.BICUBIC) for picture in pictures if picture is not None)
    said = f" | answer: {result.text}" if result.text is not None else ""
    true = f" | truth: {row.truth}" if row.truth else ""
    return Entry(fitted, f"{row.question}{said}{true}", "held out")
