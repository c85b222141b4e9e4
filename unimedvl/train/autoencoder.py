"""A small autoencoder trained from nothing, for models that have no FLUX weights: reconstruction and KL.

A folder ``out`` holds ``checkpoint.pt``, from which an interrupted run goes on, ``metrics.jsonl``, ``grids`` of
held-out images, and at the end ``final``: ``ae.safetensors`` in the published layout and ``vae_config.json``.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unimedvl.config import VaeConfig
from unimedvl.errors import CheckpointError, ConfigError
from unimedvl.model.vae import Autoencoder
from unimedvl.train.autoencoder_data import Crops, Pixels, read_pixels
from unimedvl.train.autoencoder_files import (
    CHECKPOINT,
    FINAL,
    GRIDS,
    METRICS,
    append_row,
    damaged,
    keep_rows,
    read_checkpoint,
    write_checkpoint,
    write_final,
)
from unimedvl.train.autoencoder_settings import AutoencoderSettings
from unimedvl.train.autoencoder_validation import scaled_config, validate

log = logging.getLogger(__name__)

_VERSION = 1
_FIRST_LOGVAR = -6.0
# A resumed run may differ in these: they do not touch the weights.
_FREE = {
    *("log_every", "save_every", "validate_every", "validation_files", "validation_images"),
    *("max_skips", "max_gib", "max_bad_fraction"),
}
_WINDOW = ("loss", "l1", "l2", "edge", "kl", "grad_norm")


def train_autoencoder(
    settings: AutoencoderSettings,
    config: VaeConfig,
    out: Path,
    *,
    resume: bool = True,
    device: torch.device | str = "cpu",
) -> Path:
    """Train, and write the weights with the scale of their latents; the folder that holds them.

    On the CPU, with one number of threads, the result is a function of the settings and images to the last bit,
    however often the run is cut off. SIGTERM saves a checkpoint and exits with code 0.

    Args:
        config: sizes; its ``scale_factor`` and ``shift_factor`` are replaced by those measured at the end, with which
            the posterior means of the training images have zero mean and unit standard deviation over all channels.
        out: folder of the run, made if absent.
        resume: go on from its checkpoint; without, a folder with a run is refused.

    Returns:
        ``out/final``, which :func:`unimedvl.model.weights.open_autoencoder` reads.

    Raises:
        ConfigError: settings cannot work, or too many steps had a loss or gradient that is not finite.
        DataError: a data file is absent or damaged, or too many rows or images are.
        CheckpointError: the folder holds a run that is damaged, not to be resumed, or of other settings or images.
    """
    if settings.crop % config.downsample:
        raise ConfigError(
            f"crop {settings.crop} with a stride of {config.downsample}", where="autoencoder", remedy="give a multiple"
        )
    found = read_checkpoint(out, resume)
    with _sigterm() as stop:
        images, held_out = _read(settings, config)
        out.mkdir(parents=True, exist_ok=True)
        run = _Run(settings, config, out, images, held_out, torch.device(device), stop)
        if found is not None:
            run.restore(found)
        run.train()
        return run.finish()


def _read(settings: AutoencoderSettings, config: VaeConfig) -> tuple[Pixels, Pixels | None]:
    """Images to learn from, and held-out ones."""
    limits = {"max_side": settings.max_side, "max_gib": settings.max_gib, "max_bad": settings.max_bad_fraction}
    images = read_pixels(settings.files, config, what="files", min_side=settings.crop, **limits)
    if not settings.validation_files:
        return images, None
    stride = config.downsample
    held_out = read_pixels(settings.validation_files, config, what="validation_files", min_side=stride, **limits)
    return images, held_out.some(settings.validation_images)


@dataclass
class _Window:
    """Sums over the steps since the last logged one."""

    steps: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_WINDOW, 0.0))

    def add(self, parts: Mapping[str, float], seconds: float) -> None:
        self.steps += 1
        self.seconds += seconds
        for name in self.sums:
            self.sums[name] += parts[name]

    def means(self) -> dict[str, float]:
        return {name: value / self.steps for name, value in self.sums.items()} if self.steps else {}


class _Run:
    """The state of a run: weights, their average, optimizer, and how far it is."""

    def __init__(
        self,
        settings: AutoencoderSettings,
        config: VaeConfig,
        out: Path,
        images: Pixels,
        held_out: Pixels | None,
        device: torch.device,
        stop: threading.Event,
    ) -> None:
        self.settings, self.config, self.out, self.device, self.stop = settings, config, out, device, stop
        self.images, self.held_out = images, held_out
        self.crops = Crops(images, settings.crop, settings.batch_size, settings.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.autoencoder = Autoencoder(config)
        self._prepare()
        self.autoencoder.to(device)
        self.average = deepcopy(self.autoencoder).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.autoencoder.parameters(), settings.learning_rate, settings.betas, weight_decay=0.0, fused=True
        )
        self.step = self.skipped = 0
        self.window = _Window()

    @torch.no_grad()
    def _prepare(self) -> None:
        """Biases that the first hundreds of steps would have to find: of the noise of the latents, and of the color."""
        self.autoencoder.get_parameter("kl.encoder.conv_out.bias")[self.config.latent_channels :] += _FIRST_LOGVAR
        means_3 = torch.stack([image.float().mean((1, 2)) for image in self.images.images]).mean(0)
        self.autoencoder.get_parameter("kl.decoder.conv_out.bias").copy_(means_3 / 127.5 - 1)

    def train(self) -> None:
        """Steps from where the run stands to the last one."""
        from tqdm import tqdm

        settings = self.settings
        hidden = not sys.stderr.isatty()
        with tqdm(total=settings.steps, initial=self.step, unit=" steps", disable=hidden, file=sys.stderr) as bar:
            while self.step < settings.steps:
                self._one_step()
                bar.update()
                last = self.step == settings.steps
                if self.step % settings.log_every == 0 or last:
                    bar.set_postfix(self._log())
                if self.held_out is not None and (self.step % settings.validate_every == 0 or last):
                    bar.set_postfix(psnr=self._validate(self.held_out))
                stopping = self.stop.is_set()
                # After the rows of the step: a row that a checkpoint has passed is never lost.
                if self.step % settings.save_every == 0 or last or stopping:
                    self.save()
                if stopping:
                    self._leave_if_told()

    def _leave_if_told(self) -> None:
        if self.stop.is_set():
            log.warning("stopped by SIGTERM after step %d of %d", self.step, self.settings.steps)
            raise SystemExit(0)

    def _one_step(self) -> None:
        start, rate = time.perf_counter(), self.settings.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        pixels_BCHW = self.crops.batch(self.step).to(self.device)
        loss, parts = self._loss(pixels_BCHW)
        self.optimizer.zero_grad(set_to_none=True)
        if math.isfinite(parts["loss"]):
            loss.backward()
            parts["grad_norm"] = nn.utils.clip_grad_norm_(self.autoencoder.parameters(), self.settings.clip).item()
        if math.isfinite(parts.get("grad_norm", math.nan)):
            self.optimizer.step()
            self._update_average()
            self.window.add(parts, time.perf_counter() - start)
        else:
            self._skip(parts)
        self.step += 1

    def _loss(self, pixels_BCHW: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Weighted loss, and its unweighted parts; computed in float32 around the forward."""
        settings = self.settings
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            (posterior,) = self.autoencoder.kl.encode(pixels_BCHW, return_dict=False)
            eps = self.crops.eps(self.step, posterior.mean.shape).to(self.device)
            z = posterior.mean + posterior.std * eps
            (decoded_BCHW,) = self.autoencoder.kl.decode(z, return_dict=False)  # pyright: ignore[reportArgumentType]
        error = decoded_BCHW.float() - pixels_BCHW
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        terms = {
            "l1": error.abs().mean(),
            "l2": error.square().mean(),
            "edge": error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean(),
            "kl": 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(),
        }
        loss = torch.stack([getattr(settings, f"{name}_weight") * term for name, term in terms.items()]).sum()
        return loss, {name: term.item() for name, term in {"loss": loss, **terms}.items()}

    def _update_average(self) -> None:
        # Early weights are forgotten quickly: the average over about a tenth of the steps so far, then the decay.
        decay = min(self.settings.ema_decay, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for ours, theirs in zip(self.average.parameters(), self.autoencoder.parameters(), strict=True):
                ours.lerp_(theirs, 1 - decay)

    def _skip(self, parts: Mapping[str, float]) -> None:
        self.skipped += 1
        log.warning("step %d is skipped: loss %g, gradient %g", self.step + 1, parts["loss"], parts.get("grad_norm", 0))
        if self.skipped > self.settings.max_skips:
            raise ConfigError(
                f"{self.skipped} steps had a loss or gradient that is not finite, the last step {self.step + 1}",
                where="autoencoder",
                remedy="lower learning_rate or clip, or use precision fp32, in a new folder",
            )

    def _log(self) -> dict[str, float]:
        means = self.window.means()
        speed = self.window.steps * self.settings.batch_size / self.window.seconds if self.window.steps else 0.0
        append_row(
            self.out / METRICS,
            {
                "step": self.step,
                **means,
                "lr": self.settings.rate(self.step - 1),
                "images_per_s": speed,
                "skipped": self.skipped,
            },
        )
        self.window = _Window()
        return {"loss": means.get("loss", math.nan)}

    def _validate(self, held_out: Pixels) -> float:
        """Write the row and the grid of the averaged weights; mean PSNR in dB."""
        found = validate(self.average, held_out)
        path = self.out / GRIDS / f"step-{self.step:07d}.png"
        path.parent.mkdir(exist_ok=True)
        found.grid.save(path)
        values = {"psnr": found.psnr, "psnr_by_modality": found.psnr_by_modality}
        append_row(self.out / METRICS, {"step": self.step, **values})
        return found.psnr

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "version": _VERSION,
            "settings": _plain(self.settings),
            "config": _plain(self.config),
            "images": self.images.digest,
            "step": self.step,
            "skipped": self.skipped,
            "window": asdict(self.window),
            "model": self.autoencoder.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        write_checkpoint(self.out, state)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; rows of the metrics after it are removed.

        Raises:
            CheckpointError: it is of other settings or images, or lacks something.
        """
        mine = {"config": _plain(self.config), "images": self.images.digest, "version": _VERSION}
        differing = [name for name, value in mine.items() if state.get(name) != value]
        known, old = _plain(self.settings), state.get("settings", {})
        differing += [name for name in known if name not in _FREE and old.get(name) != known[name]]
        if differing:
            raise CheckpointError(
                f"the run there differs in {', '.join(differing)}",
                where=str(self.out),
                remedy="go on with the same settings and images, or choose a new folder",
            )
        try:
            self.autoencoder.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.skipped = state["step"], state["skipped"]
            self.window = _Window(**state["window"])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise damaged(self.out / CHECKPOINT, error) from error
        keep_rows(self.out / METRICS, self.step)

    def finish(self) -> Path:
        """Measure the scale of the latents and write ``final``, all at once; what is there is of this run."""
        final = self.out / FINAL
        if not final.exists():
            images = self.images.some(self.settings.scale_images)
            write_final(final, self.average, scaled_config(self.average, images, self._leave_if_told))
        return final


def _plain(values: Any) -> dict[str, Any]:
    """Fields of a dataclass as JSON would give them back."""
    return json.loads(json.dumps(asdict(values)))


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; only the main thread can listen to signals."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
