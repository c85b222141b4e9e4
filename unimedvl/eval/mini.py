"""UniMed-Mini, held out: what a model answers, draws and edits, part by part, so that a run can go on where it was."""

from __future__ import annotations

import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from unimedvl import __version__
from unimedvl.data.mixture import FamilyWeights
from unimedvl.errors import ConfigError, DataError
from unimedvl.eval import edits
from unimedvl.eval.answers import accuracy, normalized
from unimedvl.eval.classifier import Classifier, load_classifier, save_classifier, train_classifier
from unimedvl.eval.losses import held_out_losses
from unimedvl.eval.model_hash import weights_hash
from unimedvl.eval.neighbors import neighbors
from unimedvl.eval.rows import Row, read_rows, spread
from unimedvl.files import write_json, write_lines
from unimedvl.infer.pipeline import UniMedVLPipeline
from unimedvl.infer.requests import Result
from unimedvl.infer.tasks import Call, with_options
from unimedvl.model.unimedvl import UniMedVL

EDITS = ("super_resolution", "segmentation", "staining", "cross_modal", "counterfactual")
# Shares of the paper's third stage (Table 12).
_MIX = FamilyWeights(text=3, t2i=35, i2t=37, interleaved=25)


@dataclass(frozen=True)
class MiniSettings:
    """What is evaluated, and how.

    Attributes:
        model: checkpoint directory or hub id.
        data: folder of UniMed-Mini; ``split`` of it.
        out: folder of predictions, images and scores.
        classifier: file of the modality classifier; made from the training images if it is not there.
        seeds: pictures that are drawn for each caption.
        limit: rows of each task, spread evenly (four times as many questions); all by default. ``drawings``: captions.
        batches: packed batches for the losses.
    """

    model: str = "bundled"
    data: Path = Path("data/mini")
    out: Path = Path("runs/eval/mini")
    classifier: Path = Path("runs/eval/classifier.safetensors")
    split: str = "test"
    seeds: int = 3
    limit: int | None = None
    drawings: int | None = None
    batches: int = 24
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("seeds", "batches", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", where="eval", remedy="give 1 or more")


class MiniEvaluation:
    """One model on one split; each part is written when it is done, and not done again."""

    def __init__(self, settings: MiniSettings, model: Path, progress: Callable[[str], None] = lambda _: None) -> None:
        self.settings, self.folder, self.progress = settings, model, progress
        if not (settings.data / settings.split / "vqa.jsonl").is_file():
            raise DataError(
                f"no {settings.split}/vqa.jsonl",
                where=str(settings.data),
                remedy="python -m unimedvl.data build mini --out data/mini",
            )
        (settings.out / "images").mkdir(parents=True, exist_ok=True)
        own = {name: getattr(settings, name) for name in ("split", "seeds", "limit", "drawings", "batches")}
        self.about = {"model": weights_hash(model), "data": data_hash(settings.data), **own}

    @cached_property
    def pipe(self) -> UniMedVLPipeline:
        """The model, float32: what a CPU is fastest at."""
        return UniMedVLPipeline.from_pretrained(self.folder, dtype="float32")

    def run(self) -> dict[str, Any]:
        """All parts; also written to ``result.json``."""
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "losses": self._losses,
            "answers": self._answers,
            "drawings": self._drawings,
            **{name: (lambda task=name: self._edits(task)) for name in EDITS},
        }
        results = {name: self._once(name, part) for name, part in parts.items()}
        about = {**self.about, "version": __version__, "torch": torch.__version__, "machine": platform.machine()}
        result = {"about": about, "seconds": sum(each.pop("seconds") for each in results.values()), **results}
        write_json(self.settings.out / "result.json", result)
        return result

    def _once(self, name: str, part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self.settings.out / f"{name}.json"
        if path.is_file():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored.get("about") == self.about:
                return stored["result"]
        self.progress(name)
        start = time.perf_counter()
        result = part()
        result["seconds"] = round(time.perf_counter() - start, 2)
        write_json(path, {"about": self.about, "result": result})
        return result

    # --- parts ----------------------------------------------------------------------------------------------

    def _losses(self) -> dict[str, Any]:
        pipe, split = self.pipe, self.settings.data / self.settings.split
        files = {name: ("interleaved", split / f"{name}.jsonl") for name in EDITS}
        files |= {"text": ("text", split / "text.jsonl"), "t2i": ("t2i", split / "t2i.jsonl")}
        files |= {name: ("i2t", split / f"{name}.jsonl") for name in ("vqa", "caption")}
        model = pipe.engine.model

        def of(own: UniMedVL) -> dict[str, float]:
            codec, transforms = pipe.processor.codec, pipe.processor.transforms
            return held_out_losses(own, codec, pipe.autoencoder(), transforms, files, _MIX, self.settings.batches)

        return {"model": of(model), "untrained": of(UniMedVL.initialized(model.config).eval())}

    def _answers(self) -> dict[str, Any]:
        # Questions are of many kinds, and cheap.
        rows = [row for name, times in (("vqa", 4), ("caption", 1), ("text", 1)) for row in self._rows(name, times)]
        results = self._perform(rows)
        said = [result.text or "" for result in results]
        for row in rows:
            if row.inputs:
                self._keep(f"{row.name}-input", row.inputs[0])
        lines = [
            {"row": row.name, "kind": row.kind, "question": row.prompt, "answer": text, "truth": row.truth}
            for row, text in zip(rows, said, strict=True)
        ]
        write_lines(self.settings.out / "answers.jsonl", lines)
        learned = self._learned()
        kinds = {}
        for kind in dict.fromkeys(row.kind for row in rows):
            mine = [number for number, row in enumerate(rows) if row.kind == kind]
            scored = accuracy([said[n] for n in mine], [rows[n].truth for n in mine], learned[kind])
            kinds[kind] = {"accuracy": scored.share, **asdict(scored)}
        return {"kinds": kinds}

    def _learned(self) -> dict[str, list[str]]:
        """Answers of the training rows, by kind."""
        answers: dict[str, list[str]] = {}
        for name in ("vqa", "caption", "text"):
            with (self.settings.data / "train" / f"{name}.jsonl").open(encoding="utf-8") as file:
                for line in file:
                    row = json.loads(line)
                    answers.setdefault(row["sub_task_type"], []).append(row["message"][-1]["value"])
        return answers

    def _drawings(self) -> dict[str, Any]:
        rows = list({row.prompt: row for row in self._rows("t2i", whole=True)}.values())
        rows = [rows[number] for number in spread(len(rows), self.settings.drawings)]
        asked = [(row, seed) for row in rows for seed in range(self.settings.seeds)]
        calls = [row.call(with_options(self.pipe.settings, seed=seed)) for row, seed in asked]
        made = [_image(result) for result in self._all(calls)]
        names = [self._keep(f"{row.name}-seed{seed}", image) for (row, seed), image in zip(asked, made, strict=True)]
        for row in rows:
            if row.target is not None:
                self._keep(f"{row.name}-target", row.target)
        training, real = self._real("train"), self._real(self.settings.split)
        classifier = self._classifier(training)
        wanted = [row.modality for row, _ in asked]
        seen = classifier.name(made)
        through = self.pipe.reconstruct([image for _, image in real])
        near = neighbors(list(zip(wanted, made, strict=True)), training, real)
        lines = [
            {
                "row": row.name, "seed": seed, "caption": row.prompt, "modality": row.modality, "image": name,
                "recognized": seen[n], "nearest": near.nearest[n], "distance": near.distance[n],
                "limit": near.limit[n],
            }
            for n, ((row, seed), name) in enumerate(zip(asked, names, strict=True))
        ]  # fmt: skip
        write_lines(self.settings.out / "drawings.jsonl", lines)
        right = Counter(want for want, got in zip(wanted, seen, strict=True) if want == got)
        return {
            "count": len(asked),
            "captions": len(rows),
            "recognized": sum(right.values()) / len(asked),
            "recognized_by_modality": {name: right[name] / count for name, count in sorted(Counter(wanted).items())},
            "real_recognized": _share(classifier, real),
            "reconstructed_recognized": _share(classifier, list(zip([name for name, _ in real], through, strict=True))),
            "copies": len(near.copies) / len(asked),
            "copied": [names[number] for number in near.copies],
            "expected_copies": 0.05,
        }

    def _edits(self, task: str) -> dict[str, Any]:
        rows = self._rows(task)
        results = self._perform(rows)
        made = [_image(result) for result in results]
        reconstructed = self.pipe.reconstruct([row.target for row in rows if row.target is not None])
        lines = [
            {"row": row.name, "question": row.prompt, "modality": row.modality, "answer": result.text,
             "truth": row.truth, "image": self._keep(row.name, image)}
            for row, result, image in zip(rows, results, made, strict=True)
        ]  # fmt: skip
        for row in rows:
            self._keep(f"{row.name}-input", row.inputs[0])
            if row.target is not None:
                self._keep(f"{row.name}-target", row.target)
        write_lines(self.settings.out / f"{task}.jsonl", lines)
        right = sum(
            normalized(row.truth) == normalized(result.text or "") for row, result in zip(rows, results, strict=True)
        )
        return {**edits.scores(rows, made, reconstructed), "text_accuracy": right / len(rows)}

    # --- what they share ------------------------------------------------------------------------------------

    def _rows(self, name: str, times: int = 1, *, whole: bool = False) -> list[Row]:
        settings = self.settings
        limit = None if whole or settings.limit is None else times * settings.limit
        return read_rows(settings.data / settings.split / f"{name}.jsonl", limit)

    def _perform(self, rows: Sequence[Row]) -> list[Result]:
        return self._all([row.call(self.pipe.settings) for row in rows])

    def _all(self, calls: Sequence[Call]) -> list[Result]:
        size = self.settings.batch_size
        return [result for part in _parts(calls, size) for result in self.pipe.perform(part)]

    def _real(self, split: str) -> list[tuple[str, Image.Image]]:
        """The modality and picture of every real image of a split."""
        rows = read_rows(self.settings.data / split / "t2i.jsonl")
        return [(row.modality, row.target) for row in rows if row.target is not None]

    def _classifier(self, training: Sequence[tuple[str, Image.Image]]) -> Classifier:
        path = self.settings.classifier
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            labels, images = zip(*training, strict=True)
            save_classifier(train_classifier(images, labels), path)
        return load_classifier(path)

    def _keep(self, name: str, image: Image.Image) -> str:
        """Write an image; its path from ``out``."""
        path = self.settings.out / "images" / f"{name}.png"
        image.save(path)
        return str(path.relative_to(self.settings.out))


def data_hash(folder: Path) -> str:
    """Of UniMed-Mini: what its manifest says, from the hashes of all files."""
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["sha256"][:16]


def _share(classifier: Classifier, images: Sequence[tuple[str, Image.Image]]) -> float:
    names = classifier.name([image for _, image in images])
    return sum(name == wanted for name, (wanted, _) in zip(names, images, strict=True)) / len(images)


def _image(result: Result) -> Image.Image:
    assert result.image is not None, "the request asked for an image"
    return result.image


def _parts(calls: Sequence[Call], size: int) -> Iterator[Sequence[Call]]:
    for first in range(0, len(calls), size):
        yield calls[first : first + size]
