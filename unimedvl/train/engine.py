"""The training loop: steps over packed batches, seen, validated, saved and resumed."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimedvl.config import ModelConfig
from unimedvl.data.loader import PackedLoader
from unimedvl.data.moments import MomentCache
from unimedvl.data.stream import LoadedBatch, Stream
from unimedvl.data.tasks import Drafter
from unimedvl.errors import ConfigError, DataError
from unimedvl.model.directory import resolve_directory
from unimedvl.train import checkpoint as store
from unimedvl.train.build import (
    autoencoder_name,
    build_backend,
    model_config,
    open_codec,
    open_frozen_autoencoder,
    shapes_of,
)
from unimedvl.train.ema import Ema
from unimedvl.train.flops import batch_flops
from unimedvl.train.metrics import Metrics, peak_tflops
from unimedvl.train.optim import learning_rate
from unimedvl.train.progress import Progress, StepResult
from unimedvl.train.settings import TrainSettings
from unimedvl.train.validation import Encoder, HeldOut
from unimedvl.types import PackedBatch

log = logging.getLogger(__name__)


class Trainer:
    """One stage of training.

    Raises:
        ConfigError, DataError, CheckpointError: before the first step, if anything cannot work.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        runtime = settings.runtime
        torch.use_deterministic_algorithms(runtime.deterministic)
        if runtime.threads:
            torch.set_num_threads(runtime.threads)
        self.config: ModelConfig = model_config(settings.model)
        resumed = self._resumed()
        codec = open_codec(settings.model, self.config)
        data = settings.data
        drafter = Drafter(codec, self.config, data.transforms, data.dropout, shift=data.shift, augment=data.augment)
        moments = None if data.moments is None else MomentCache(data.moments, autoencoder_name(settings.model))
        self.stream = Stream(data, drafter, moments)
        self.backend = build_backend(settings, self.config, resumed)
        autoencoder = open_frozen_autoencoder(settings.model, self.config, self.backend.device)
        if autoencoder is None and (data.weights.t2i or data.weights.interleaved):
            raise ConfigError(
                "no autoencoder, and the mix makes images",
                where="model.autoencoder",
                remedy="name a folder with ae.safetensors; train a small one with stage=autoencoder",
            )
        self.encode = Encoder(autoencoder, self.config, self.backend.device, moments)
        validation = settings.validation
        self.held_out = HeldOut(validation, codec, self.backend, self.encode) if validation.every else None
        self.loader = PackedLoader(self.stream, rank=self.backend.rank, world=self.backend.world)
        self.ema = Ema(self.backend.local_master(), settings.ema)
        self.progress = Progress()
        if resumed is not None:
            self._go_on(resumed)
        self._asked_to_stop = False

    # --- the loop -------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train to the last step, or to a SIGTERM; the newest checkpoint."""
        settings, first = self.settings, self.backend.rank == 0
        metrics = (
            Metrics(settings.output, settings.log, run=settings.stage, steps=settings.steps, resumed=self.progress.step)
            if first
            else None
        )
        previous = signal.signal(signal.SIGTERM, self._stop)
        folder = None
        try:
            batches = iter(self.loader)
            if self.progress.step == 0:
                self._validate(metrics)
            while self.progress.step < settings.steps:
                result = self.step(batches)
                self._report(result, metrics)
                self._check_skips(result)
                done = self.progress.step
                last = done == settings.steps or result.stop
                if settings.validation.every and (done % settings.validation.every == 0 or last):
                    self._validate(metrics)
                if done % settings.checkpoint.every == 0 or last:
                    folder = self.save()
                if result.stop:
                    break
        finally:
            signal.signal(signal.SIGTERM, previous)
            if metrics is not None:
                metrics.close()
        return folder or store.folder_of(settings.output, self.progress.step)

    def step(self, batches: Iterator[LoadedBatch]) -> StepResult:
        """One optimizer step: count over all ranks first, so that every token weighs the same, then differentiate."""
        backend, settings = self.backend, self.settings
        start = time.perf_counter()
        micro = [next(batches) for _ in range(settings.accumulation)]
        waited = time.perf_counter() - start
        ce_count, mse_count, tokens, rows, filled, stops = self._counts(micro)
        sums = []
        for number, loaded in enumerate(micro):
            batch = self.encode(loaded.batch)
            ce, mse = backend.losses(batch)
            # Ranks average their gradients, so each gives its part of the global mean times their number.
            share = settings.loss.ce * ce / max(ce_count, 1e-30) + settings.loss.mse * mse / max(mse_count, 1e-30)
            backend.backward(share * backend.world, last=number == len(micro) - 1)
            sums.append(torch.stack([ce.detach(), mse.detach()]).double())
        rate = learning_rate(settings.optimizer, self.progress.step, settings.steps)
        norms = backend.gradient_norms()
        applied = backend.step(rate)
        if applied:
            self.ema.update(backend.local_master())
        local = torch.stack(sums).cpu()
        ce_sum, mse_sum = backend.summed(local.sum(dim=0)).tolist()
        seconds = time.perf_counter() - start
        self._advance(applied, int(tokens), int(rows), seconds)
        ce_mean, mse_mean = ce_sum / max(ce_count, 1e-30), mse_sum / max(mse_count, 1e-30)
        result = StepResult(
            ce=ce_mean,
            mse=mse_mean,
            loss=settings.loss.ce * ce_mean + settings.loss.mse * mse_mean,
            applied=applied,
            norms=norms,
            learning_rate=rate,
            tokens=int(tokens),
            rows=int(rows),
            fill=filled / (settings.accumulation * backend.world),
            seconds=seconds,
            waited=waited,
            flops=sum(self._flops(loaded.batch) for loaded in micro),
            stop=stops > 0,
        )
        if not applied:
            result.culprits = self._culprits(micro, local)
            some = ", ".join(result.culprits[:8])
            log.warning("step %d skipped, its loss or gradient is not finite; rows: %s", self.progress.step, some)
        return result

    def _counts(self, micro: list[LoadedBatch]) -> list[float]:
        """Loss tokens, target tokens, tokens, rows, fill and wishes to stop, over all ranks."""
        counts = torch.zeros(6, dtype=torch.float64)
        for loaded in micro:
            batch = loaded.batch
            own = [batch.ce_weights.double().sum(), len(batch.velocity_index), batch.length, len(loaded.rows)]
            counts += torch.tensor([*map(float, own), loaded.fill, 0.0], dtype=torch.float64)
        stop_file = self.settings.checkpoint.stop_file
        counts[-1] = float(self._asked_to_stop or (stop_file is not None and stop_file.exists()))
        return self.backend.summed(counts).tolist()

    def _flops(self, batch: PackedBatch) -> float:
        return batch_flops(
            self.config, batch, frozen=self.settings.frozen, recompute=self.settings.runtime.checkpointing
        )

    def _advance(self, applied: bool, tokens: int, rows: int, seconds: float) -> None:
        progress = self.progress
        progress.step += 1
        progress.updates += applied
        progress.skipped += not applied
        progress.tokens += tokens
        progress.rows += rows
        progress.seconds += seconds

    def _culprits(self, micro: list[LoadedBatch], local: Tensor) -> list[str]:
        """Rows of the batches whose loss was not finite; if all were, of all batches of the step."""
        bad = [not bool(sums.isfinite().all()) for sums in local]
        mine = [row.location for loaded, wrong in zip(micro, bad, strict=True) if wrong for row in loaded.rows]
        named = [location for own in self.backend.gathered(mine) for location in own]
        if named:
            return named
        everyone = self.backend.gathered([row.location for loaded in micro for row in loaded.rows])
        return [location for own in everyone for location in own]

    def _check_skips(self, result: StepResult) -> None:
        skipped, limit = self.progress.skipped, self.settings.max_non_finite
        if not result.applied and skipped > limit:
            some = ", ".join(result.culprits[:8])
            raise DataError(
                f"{skipped} steps had a loss or gradient that is not finite; the last with rows {some}",
                where="max_non_finite",
                remedy="look at these rows, lower the learning rate, or resume from an earlier checkpoint",
            )

    def _stop(self, *_: Any) -> None:
        self._asked_to_stop = True

    # --- seeing it ------------------------------------------------------------------------------------------

    def _report(self, result: StepResult, metrics: Metrics | None) -> None:
        if metrics is None:
            return
        metrics.advance({"ce": result.ce, "mse": result.mse, "wait": result.waited / max(result.seconds, 1e-9)})
        if self.progress.step % self.settings.log.every == 0 or self.progress.step == 1 or not result.applied:
            metrics.write(self.progress.step, self._numbers(result))

    def _numbers(self, result: StepResult) -> dict[str, Any]:
        tally, mixture = self.loader.tally, self.stream.mixture
        total = max(1, sum(tally.families.values()))
        wanted: dict[str, float] = {}
        for part, share in zip(mixture.parts, mixture.shares, strict=True):
            wanted[part.family] = wanted.get(part.family, 0.0) + float(share)
        teraflops = result.flops / result.seconds / 1e12
        device = self.backend.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        peak = self.settings.runtime.peak_tflops or peak_tflops(name)
        return {
            "ce": result.ce,
            "mse": result.mse,
            "loss": result.loss,
            "learning_rate": result.learning_rate,
            "gradient_norm": result.norms,
            "tokens": self.progress.tokens,
            "rows": self.progress.rows,
            "tokens_per_second": result.tokens / result.seconds,
            "tflops_per_device": teraflops,
            **({"mfu": teraflops / peak} if peak else {}),
            "fill": result.fill,
            "data_wait": result.waited,
            "seconds": result.seconds,
            "memory_gib": _memory_gib(device),
            "mix": {"wanted": wanted, "observed": {name: n / total for name, n in sorted(tally.families.items())}},
            "bad_rows": tally.bad,
            "too_long_rows": tally.too_long,
            "skipped_steps": self.progress.skipped,
            **({} if result.applied else {"not_finite": result.culprits}),
        }

    def _validate(self, metrics: Metrics | None) -> None:
        if self.held_out is None:
            return
        step = self.progress.step
        losses = self.held_out.losses()
        if metrics is not None:
            metrics.write(step, {"validation": losses})
            metrics.say(f"step {step}: held-out ce {losses['ce']:.4f}, mse {losses['mse']:.4f}")
        for path in self.held_out.show(self.settings.output / "validation" / f"step-{step:08d}"):
            if metrics is not None:
                metrics.picture(step, f"validation/{path.stem}", path)

    # --- saving and going on --------------------------------------------------------------------------------

    def save(self) -> Path:
        """Write a checkpoint, all ranks together; its folder."""
        backend, output, step = self.backend, self.settings.output, self.progress.step
        if backend.rank == 0:
            store.clear(output, step)
        backend.barrier()
        kinds = {
            "master": backend.local_master(),
            "ema": self.ema.pieces,
            "frozen": backend.local_frozen(),
            **backend.moments(),
        }
        store.write_pieces(output, step, backend.rank, backend.world, store.Pieces.of(kinds))
        data = backend.gathered(self.loader.state_dict())
        folder = store.folder_of(output, step)
        if backend.rank == 0:
            values = {
                **asdict(self.progress),
                "stage": self.settings.stage,
                "recipe": self._recipe(),
                "model": asdict(self.config),
                "sources": self._weights_from(),
                "data": data,
            }
            folder = store.finish(output, step, backend.world, values, self.settings.checkpoint.keep)
        backend.barrier()
        return folder

    def _recipe(self) -> dict[str, Any]:
        """What a resumed run should share with the one before."""
        settings = self.settings
        own = {"optimizer": settings.optimizer, "loss": settings.loss, "dropout": settings.data.dropout}
        own |= {"transforms": settings.data.transforms, "augment": settings.data.augment}
        return _plain({name: asdict(value) for name, value in own.items()} | {"ema": settings.ema})

    def _weights_from(self) -> dict[str, str | None]:
        """Folders that an export needs, absolute."""
        model = self.settings.model
        paths = {"autoencoder": model.autoencoder or model.init, "tokenizer": model.tokenizer or model.init}
        return {name: None if path is None else str(resolve_directory(path).absolute()) for name, path in paths.items()}

    def _resumed(self) -> store.Checkpoint | None:
        wish, output = self.settings.checkpoint.resume, self.settings.output
        if wish == "never":
            if store.checkpoints(output):
                raise ConfigError(
                    "the folder holds checkpoints", where=str(output), remedy="use another output, or resume=auto"
                )
            return None
        if wish == "auto":
            return store.newest(output)
        named = Path(wish)
        found = store.Checkpoint(named) if (named / store.MANIFEST).is_file() else store.newest(named)
        if found is None:
            raise ConfigError("no checkpoint", where=wish, remedy="name the folder of a checkpoint or of a run")
        return found

    def _go_on(self, checkpoint: store.Checkpoint) -> None:
        values = checkpoint.manifest
        if values["model"] != _plain(asdict(self.config)):
            raise ConfigError(
                "the checkpoint is of another model", where=str(checkpoint.folder), remedy="use another output folder"
            )
        if values["stage"] != self.settings.stage:
            raise ConfigError(
                f"the folder holds a run of stage {values['stage']}",
                where=str(checkpoint.folder),
                remedy="use another output folder; a stage starts from the export of another one by model.init",
            )
        if changed := [name for name, value in self._recipe().items() if values["recipe"].get(name) != value]:
            log.warning("resumed with other settings than before: %s (%s)", ", ".join(changed), checkpoint.folder)
        shapes = shapes_of(self.backend.trained)
        self.ema.restore(dict(checkpoint.pieces("ema", shapes, self.backend.rank, self.backend.world)))
        self.loader.load_state_dict(values["data"])
        self.progress = Progress(**{name: values[name] for name in asdict(self.progress)})


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back: tuples are lists."""
    import json

    return json.loads(json.dumps(values))


def _memory_gib(device: torch.device) -> float:
    """Peak of this device; of the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
