"""What a run says of itself: JSON lines, a progress bar, and, if asked for, wandb and TensorBoard."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unimedvl.errors import ConfigError
from unimedvl.train.settings import LogSettings

# Dense bfloat16 TFLOP/s of one device, by what its name contains, from the makers' data sheets.
_PEAKS = {"H200": 989.0, "H100": 989.0, "H800": 989.0, "A100": 312.0, "A800": 312.0, "L40S": 362.0, "4090": 165.0}


def peak_tflops(device_name: str) -> float | None:
    """Peak of a known device."""
    return next((peak for name, peak in _PEAKS.items() if name in device_name), None)


class Metrics:
    """Writes numbers of steps; only the first rank has one.

    Args:
        resumed: lines of later steps are removed, since those steps are done again.
    """

    def __init__(self, output: Path, settings: LogSettings, *, run: str, steps: int, resumed: int) -> None:
        self.path = output / "metrics.jsonl"
        output.mkdir(parents=True, exist_ok=True)
        _keep_until(self.path, resumed)
        self._file = self.path.open("a", encoding="utf-8")
        self._bar = tqdm(total=steps, initial=resumed, desc=run, unit="step", dynamic_ncols=True)
        self._wandb = _start_wandb(output, settings, run)
        self._board = _start_tensorboard(output) if settings.tensorboard else None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line for a step; numbers go to wandb and TensorBoard as well."""
        self._file.write(json.dumps(_without_nan({"step": step, **values})) + "\n")
        self._file.flush()
        numbers = {
            name: value
            for name, value in flattened(values).items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)
        if self._board is not None:
            for name, number in numbers.items():
                self._board.add_scalar(name, number, step)

    def picture(self, step: int, name: str, path: Path) -> None:
        """Show a picture that was saved."""
        if self._wandb is not None:
            import wandb

            self._wandb.log({name: wandb.Image(str(path))}, step=step)

    def advance(self, values: Mapping[str, float]) -> None:
        """Move the bar by a step."""
        self._bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
        self._bar.update()

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._bar.write(text)

    def close(self) -> None:
        """End all of them."""
        self._bar.close()
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish()
        if self._board is not None:
            self._board.close()


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under names with slashes."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = value
    return flat


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, Mapping):
        return {name: _without_nan(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _keep_until(path: Path, step: int) -> None:
    """Remove the lines of later steps, and a line that a kill has cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            known = json.loads(line)["step"]
        except (ValueError, KeyError):
            continue
        if known <= step:
            kept.append(line + "\n")
    aside = path.with_suffix(".tmp")
    aside.write_text("".join(kept), encoding="utf-8")
    aside.replace(path)


def _start_wandb(output: Path, settings: LogSettings, run: str) -> Any:
    if settings.wandb == "off":
        return None
    try:
        import wandb
    except ImportError as error:
        raise ConfigError("wandb is not installed", where="log.wandb", remedy="pip install wandb") from error
    known = bool(os.environ.get("WANDB_API_KEY")) or Path("~/.netrc").expanduser().exists()
    mode = settings.wandb if settings.wandb != "auto" else "online" if known else "offline"
    return wandb.init(project=settings.project, name=run, dir=str(output), mode=mode)


def _start_tensorboard(output: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "TensorBoard is not installed", where="log.tensorboard", remedy="pip install tensorboard"
        ) from error
    return SummaryWriter(str(output / "tensorboard"))
