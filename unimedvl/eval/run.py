"""One benchmark, one model: predict, and score when every prediction is there."""

from __future__ import annotations

import hashlib
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from unimedvl import NOTICE, __version__
from unimedvl.errors import ConfigError, DataError
from unimedvl.eval.benchmarks import BENCHMARKS, Benchmark
from unimedvl.eval.families import FAMILIES, Context
from unimedvl.eval.families.images import picture_of
from unimedvl.eval.model_hash import weights_hash
from unimedvl.eval.predict import Ask, Prediction, Predictions, asks_of, shard_of, with_wording
from unimedvl.eval.rows import Row, spread, target_of
from unimedvl.eval.scores import Scored
from unimedvl.eval.settings import EvalSettings
from unimedvl.eval.tables import terminal
from unimedvl.files import aside, locked, write_json, write_lines, write_text
from unimedvl.infer.defaults import defaults_of
from unimedvl.infer.pipeline import UniMedVLPipeline
from unimedvl.infer.tasks import InferSettings
from unimedvl.model.directory import resolve_directory
from unimedvl.settings import override
from unimedvl.sheets import Entry, contact_sheet

RESULT, ITEMS, TABLE, SHEET = "result.json", "items.jsonl", "table.txt", "sheet.png"
_SHOWN = 24  # pictures of a sheet
# Settings that shape neither a prediction nor a score.
_FREE = {"model", "data", "out", "limit", "batch_size", "shard", "device", "dtype"}
# Settings of scoring, and of how pictures are asked for; a family says which of them it uses.
_OPTIONAL = {"wording", "draws", "judge", "extractor", "train", "classifier", "clip", "findings", "meteor", "rate"}
_PACKAGES = (
    *("numpy", "scipy", "pillow", "transformers", "diffusers", "torchmetrics", "torch-fidelity", "open-clip-torch"),
    *("sacrebleu", "rouge-score", "pycocoevalcap", "scikit-image", "scikit-learn"),
)


class Evaluation:
    """A benchmark with its settings.

    Args:
        infer_words: ``key=value`` changes of the checkpoint's own inference settings.

    Raises:
        ConfigError: a setting cannot work, or something that the scores need is missing.
        DataError: the benchmark's files cannot be read.
        CheckpointError: the model cannot be found.
    """

    def __init__(self, name: str, settings: EvalSettings, infer_words: Sequence[str] = ()) -> None:
        self.name, self.settings = name, settings
        self.benchmark: Benchmark = BENCHMARKS[name]
        self.family = FAMILIES[self.benchmark.family]
        self._refuse_unused()
        self.family.check(settings)
        self.shard = shard_of(settings.shard)
        self.folder = resolve_directory(settings.model)
        defaults = defaults_of(self.folder)
        self.dtype = settings.dtype or defaults.dtype
        self.infer: InferSettings = override(defaults.settings, infer_words)
        self.out = settings.out or Path("runs/eval") / name
        if settings.data == Path():
            raise ConfigError("no data", where="eval", remedy=f"give data=, the files of {name} as they are published")
        rows = self.benchmark.read(settings.data, settings.split)
        if self.family.targets and (bare := [row.name for row in rows if row.wanted is None]):
            raise DataError("no target picture", where=bare[0], remedy="give every row of this benchmark one")
        self.rows = [self._worded(rows[number]) for number in spread(len(rows), settings.limit)]
        self.asks: Sequence[Ask] = asks_of(self.rows, settings.draws)
        self.predictions = Predictions(self.out, self._digest())

    def run(self) -> dict[str, Any] | None:
        """The result, also written; None while predictions of other processes are missing."""
        made = self.predictions.make(
            self.asks,
            lambda: self._pipe,
            shard=self.shard,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
        )
        predictions = self.predictions.complete(self.asks)
        if predictions is None:
            return None
        print(f"{made} predictions made, {len(predictions) - made} were there", file=sys.stderr)
        with locked(self.out / ".scoring.lock") as mine:
            if not mine:  # the process that came before, with the same predictions
                return None
            start = time.perf_counter()
            scored = self.family.score(predictions, Context(self.settings, self.out))
            return self._write(predictions, scored, time.perf_counter() - start)

    # --- parts ----------------------------------------------------------------------------------------------

    @cached_property
    def _pipe(self) -> UniMedVLPipeline:
        settings = self.settings
        device = settings.device
        if device is None and self.shard[1] > 1 and torch.cuda.device_count() > 1:
            device = f"cuda:{self.shard[0] % torch.cuda.device_count()}"
        return UniMedVLPipeline.from_pretrained(
            self.folder, dtype=self.dtype, device=device, settings=self.infer, und_only=self._only_reads
        )

    @property
    def _only_reads(self) -> bool:
        """No row asks for a picture, and no score needs the autoencoder: half of the weights stay on disk."""
        return all(row.task in ("vqa", "report", "caption") for row in self.rows)

    def _worded(self, row: Row) -> Row:
        wording = self.settings.wording
        return with_wording(row, wording.choice, None if self.benchmark.plain else wording.question)

    def _refuse_unused(self) -> None:
        """A setting that this benchmark does nothing with was meant for another."""
        defaults = EvalSettings()
        given = {name for name in _OPTIONAL if getattr(self.settings, name) != getattr(defaults, name)}
        if unused := sorted(given - set(self.family.uses)):
            known = ", ".join(self.family.uses)
            raise ConfigError(
                f"{self.name} does nothing with {unused[0]}", where=unused[0], remedy=f"leave it out; it uses {known}"
            )

    @cached_property
    def _model_hash(self) -> str:
        return weights_hash(self.folder)

    def _digest(self) -> str:
        """Of what shapes a prediction beside its row."""
        own = (self.name, self._model_hash, self.settings.seed, self.dtype, self.infer, __version__)
        return hashlib.sha256(repr(own).encode()).hexdigest()[:16]

    def _write(self, predictions: Sequence[Prediction], scored: Scored, seconds: float) -> dict[str, Any]:
        result = {
            "about": {
                "benchmark": self.name,
                "family": self.benchmark.family,
                "model": self.settings.model,
                "model_hash": self._model_hash,
                "rows": len(self.rows),
                "rows_hash": rows_hash(self.asks),
                "seed": self.settings.seed,
                "settings": _plain(asdict(self.settings)),
                "inference": _plain(asdict(self.infer)),
                "protocol": _plain(scored.protocol),
                "versions": versions(),
                "machine": machine(self.settings.device),
            },
            "count": len(predictions),
            "errors": sum(prediction.error is not None for prediction in predictions),
            "seconds": {
                "predicting": round(sum(prediction.seconds for prediction in predictions), 2),
                "scoring": round(seconds, 2),
            },
            "scores": [asdict(score) for score in scored.scores],
            "notes": list(scored.notes),
            "notice": NOTICE,
        }
        write_lines(self.out / ITEMS, (item.record() for item in scored.items))
        write_text(self.out / TABLE, terminal(result) + "\n")
        if self.family.targets and scored.items:
            with aside(self.out / SHEET) as part:
                _sheet(self.name, [item.prediction for item in scored.items]).save(part)
        write_json(self.out / RESULT, result)
        return result


def _sheet(name: str, predictions: Sequence[Prediction]) -> Image.Image:
    """What was shown, what was made and what should come out, of rows spread over all of them."""
    chosen = [predictions[number] for number in spread(len(predictions), _SHOWN)]
    entries = []
    for each in chosen:
        row = each.row
        shown = row.inputs[:1] if row.task in ("edit", "counterfactual") else ()
        images = [*shown, picture_of(each), target_of(row)]
        side = images[-1].size
        text = " ".join([*(["input,"] if shown else []), "made, target:", row.prompt or row.name])
        entries.append(Entry(tuple(image.resize(side) for image in images), text, row.modality or row.kind))
    return contact_sheet(name, entries)


def rows_hash(asks: Sequence[Ask]) -> str:
    """Of what is asked and what is right; two results compare only where it is the same."""
    digest = hashlib.sha256()
    for ask in asks:
        digest.update(f"{ask.name} {ask.row.digest()}".encode())
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Of the packages that shape a result."""
    found = {"unimedvl": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def machine(device: str | None = None) -> str:
    """The device in words."""
    if torch.cuda.is_available() and device != "cpu":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def open_result(folder: Path) -> dict[str, Any]:
    """The result in a folder.

    Raises:
        DataError: there is none.
    """
    import json

    path = folder / RESULT if folder.is_dir() else folder
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError("no result", where=str(path), remedy="give the out= folder of a finished evaluation") from error
    if not isinstance(result, dict) or "scores" not in result:
        raise DataError("no result of a benchmark", where=str(path), remedy="give the out= folder of one")
    return result


def _plain(value: Any) -> Any:
    """Ready for JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
