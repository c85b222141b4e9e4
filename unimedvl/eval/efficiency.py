"""What answering and drawing cost: the paper's Table 21, at batch 1, after warm-up, medians of repeats."""

from __future__ import annotations

import resource
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from unimedvl import NOTICE
from unimedvl.errors import ConfigError
from unimedvl.eval.flops import FlopCount
from unimedvl.eval.model_hash import weights_hash
from unimedvl.eval.run import machine, versions
from unimedvl.eval.scores import Score
from unimedvl.imaging import ReadImage
from unimedvl.infer.pipeline import UniMedVLPipeline
from unimedvl.infer.requests import Result
from unimedvl.infer.tasks import Call, InferSettings, with_options
from unimedvl.model.directory import resolve_directory

_QUESTION = "Describe what is visible in this image, its modality and the body part."
_CAPTION = "A frontal chest X-ray of an adult with clear lungs and a heart of normal size."


@dataclass(frozen=True)
class EfficiencySettings:
    """What is measured.

    Attributes:
        side: of the image that is read and of the one that is made, pixels; the checkpoint's own size by default.
        tokens: of the answer; an earlier end of the answer counts what was given.
        steps: of the flow; the checkpoint's own by default.
    """

    model: str = "bundled"
    out: Path = Path("runs/eval/efficiency")
    side: int | None = None
    tokens: int = 64
    steps: int | None = None
    warmup: int = 1
    repeats: int = 5
    device: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("tokens", 2), ("warmup", 0), ("repeats", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}", where="eval", remedy=f"give {least} or more")


def measure_efficiency(settings: EfficiencySettings) -> dict[str, Any]:
    """A result like that of a benchmark.

    Raises:
        CheckpointError: the model cannot be loaded.
        DataError: the side does not fit the model.
    """
    folder = resolve_directory(settings.model)
    pipe = UniMedVLPipeline.from_pretrained(folder, dtype=settings.dtype, device=settings.device)
    own = pipe.settings.size
    size = (settings.side, settings.side) if settings.side else own or (512, 512)
    infer = with_options(pipe.settings, max_new_tokens=settings.tokens, steps=settings.steps, size=size)
    gray = ReadImage(Image.linear_gradient("L").convert("RGB").resize(size), "gradient", ())
    answer = Call("vqa", (gray,), _QUESTION, infer)
    drawing = Call("t2i", (), _CAPTION, infer)
    answers, answer_memory = _measured(pipe, answer, settings)
    drawings, drawing_memory = _measured(pipe, drawing, settings)
    new = len(answers[-1].token_ids or ())
    scores = [
        _score("tokens_per_second", [len(each.token_ids or ()) / each.timings["text"] for each in answers]),
        _score("seconds_per_answer", [each.timings["total"] for each in answers]),
        _score("seconds_per_image", [each.timings["total"] for each in drawings]),
        *_flops(pipe, gray.image, new, infer, size),
        _score("memory_gb", [answer_memory / 1e9], "answering"),
        _score("memory_gb", [drawing_memory / 1e9], "drawing"),
        _score("weights_gb", [_weights(pipe) / 1e9]),
    ]
    shape = f"{size[0]}x{size[1]}, {new} tokens, {infer.t2i.steps} steps"
    return {
        "about": {**_about(settings, shape, pipe.engine.model.device.type), "inference": asdict(infer)},
        "count": 2 * settings.repeats,
        "errors": 0,
        "scores": [asdict(each) for each in scores],
        "notes": [
            "Times: median, and lowest to highest of the repeats.",
            "The paper's 40.03 TFLOP an image are about three passes of the 14 B model at 512 x 512 counted without "
            "attention; with the published 50 steps and guidance an image takes far more, see the flow's row.",
        ],
        "notice": NOTICE,
    }


def _about(settings: EfficiencySettings, shape: str, device: str) -> dict[str, Any]:
    return {
        "benchmark": "efficiency",
        "family": "efficiency",
        "model": settings.model,
        "model_hash": weights_hash(resolve_directory(settings.model)),
        "rows": settings.repeats,
        "rows_hash": shape,
        "settings": {**asdict(settings), "out": str(settings.out)},
        "protocol": {
            "batch": 1,
            "times": "medians; beside them the lowest and the highest of the repeats",
            "flops": "matrix products, attention, convolutions; counted on the meta device",
            "memory": "peak of the device" if device == "cuda" else "peak resident set of the process",
        },
        "versions": versions(),
        "machine": machine(),
    }


def _flops(
    pipe: UniMedVLPipeline, image: Image.Image, new: int, infer: InferSettings, size: tuple[int, int]
) -> Iterator[Score]:
    """Of an answer of ``new`` tokens and of an image, whole and in parts."""
    height, width = pipe.processor.to_understand(image).pixels.shape[-2:]
    prompt, caption = (len(pipe.processor.codec.encode(text)) + 2 for text in (_QUESTION, _CAPTION))
    count = FlopCount(pipe.engine.model.config)
    of = {
        "tflops_per_answer": count.answer((width, height), prompt, new),
        "tflops_per_image": count.image(size, caption, infer.t2i),
    }
    for metric, parts in of.items():
        yield _score(metric, [sum(each.total for each in parts.values()) / 1e12])
        for name, each in parts.items():
            yield _score(metric, [each.total / 1e12], name)
    three = 3 * count.flow_pass(size, [caption]).linear / 1e12
    yield _score("tflops_per_image", [three], "three passes, linear layers only")


def _score(metric: str, values: Sequence[float], group: str = "all") -> Score:
    """The median, between the lowest and the highest."""
    ends = (min(values), max(values)) if len(values) > 1 else (None, None)
    return Score(metric, statistics.median(values), len(values), group, *ends)


def _measured(pipe: UniMedVLPipeline, call: Call, settings: EfficiencySettings) -> tuple[list[Result], float]:
    """Results of the repeats, and the peak of memory in bytes."""
    device = pipe.engine.model.device
    for _ in range(settings.warmup):
        pipe.perform([call])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    results = [pipe.perform([call])[0] for _ in range(settings.repeats)]
    if device.type == "cuda":
        return results, float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return results, float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _weights(pipe: UniMedVLPipeline) -> int:
    """Bytes of the model and its autoencoder."""
    modules = (pipe.engine.model, pipe.autoencoder())
    return sum(tensor.nbytes for module in modules for tensor in (*module.parameters(), *module.buffers()))
