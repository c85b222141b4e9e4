"""From ``configs/`` and ``key=value`` words to checked settings; the one place that knows Hydra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import unimedvl
from unimedvl.config import PRESETS, ModelConfig, VaeConfig
from unimedvl.errors import ConfigError
from unimedvl.files import write_text
from unimedvl.settings import build, merged
from unimedvl.train.autoencoder_settings import AutoencoderSettings
from unimedvl.train.settings import RuntimeSettings, TrainSettings, pick_device

CONFIGS = Path(unimedvl.__file__).parent.parent / "configs"


# Top-level names that are no settings of a stage of the curriculum.
_OTHERS = ("data_dir", "held_out", "pictures", "autoencoder")


@dataclass(frozen=True)
class Plan:
    """A composed run; ``values`` is everything that was written, for stages with settings of their own."""

    stage: str
    values: dict[str, Any]
    dry_run: bool = False
    gpus: int = 1

    def text(self) -> str:
        """The composed config as YAML."""
        import yaml

        return yaml.safe_dump(self.values, sort_keys=False)

    def save(self, folder: Path) -> None:
        """Write ``config.yaml`` into the folder of the run, in place of that of an earlier start."""
        write_text(folder / "config.yaml", self.text())

    def autoencoder(self) -> tuple[AutoencoderSettings, VaeConfig, Path, str]:
        """As settings of the stage that trains an autoencoder: its settings, the sizes, the output folder, the device.

        Raises:
            ConfigError: as in :meth:`settings`.
        """
        known = {*(item.name for item in fields(TrainSettings)), *_OTHERS}
        if unknown := sorted(self.values.keys() - known):
            raise ConfigError(f"unknown setting {', '.join(unknown)}", where="config", remedy="see --print-config")
        if self.dry_run:
            raise ConfigError("no dry run of this stage", where="dry_run", remedy="it needs one device; leave it out")
        settings = build(AutoencoderSettings, self.values.get("autoencoder") or {}, "autoencoder")
        model = build(ModelConfig, _model(self.values.get("model") or {})["config"], "model.config")
        runtime = build(RuntimeSettings, self.values.get("runtime") or {}, "runtime")
        return settings, model.vae, Path(self.values["output"]), str(pick_device(runtime.device))

    def settings(self) -> TrainSettings:
        """As settings of a stage of the curriculum.

        Raises:
            ConfigError: a key is unknown, a type wrong, or a combination cannot work.
        """
        values = {name: value for name, value in self.values.items() if name not in _OTHERS}
        values["model"] = _model(values.get("model") or {})
        held_out = self.values.get("held_out") or []
        values["validation"] = _validation(values.get("validation") or {}, values.get("data") or {}, held_out)
        return build(TrainSettings, values, "config")


def compose(words: Sequence[str], folder: Path | None = None) -> Plan:
    """The run that ``group=choice`` and ``key=value`` words describe.

    Raises:
        ConfigError: there is no such file or key.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    folder = (folder or CONFIGS).absolute()
    if not (folder / "train.yaml").is_file():
        raise ConfigError("no train.yaml", where=str(folder), remedy="give the folder of configs with --config-dir")
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            composed = hydra_compose("train", [_forced(word, folder) for word in words])
            values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
        raise ConfigError(reason, where="config", remedy="see configs/, and --help for how to override") from error
    assert isinstance(values, dict)
    named = {str(name): value for name, value in values.items()}
    dry_run, gpus = named.pop("dry_run", False), named.pop("gpus", 1)
    if not isinstance(dry_run, bool) or type(gpus) is not int or gpus < 1:
        raise ConfigError(f"dry_run={dry_run} gpus={gpus}", where="config", remedy="give true or false, and a number")
    return Plan(str(named.get("stage")), named, dry_run, gpus)


def _forced(word: str, folder: Path) -> str:
    """A value may be set whether a file names it or not: what no setting is called, the settings themselves refuse."""
    key, given, _ = word.partition("=")
    group = (folder / key.split("@")[0]).is_dir()
    return f"++{word}" if given and not group and key[:1] not in "+~" else word


def _model(values: Mapping[str, Any]) -> dict[str, Any]:
    """With the preset's sizes where nothing else is said."""
    preset = values.get("preset")
    if preset not in PRESETS:
        raise ConfigError(f"preset {preset!r}", where="model.preset", remedy=f"use one of {', '.join(PRESETS)}")
    return {**values, "config": merged(asdict(PRESETS[preset]), values.get("config") or {})}


def _validation(values: Mapping[str, Any], data: Mapping[str, Any], held_out: Sequence[Any]) -> dict[str, Any]:
    """Held-out rows are mixed, transformed and packed as those of training, without dropout and in one order."""
    if not held_out:
        return {**values, "every": 0} if values.get("data") is None else dict(values)
    same = {**data, "sources": held_out, "dropout": {"text": 0.0, "vit": 0.0, "vae": 0.0}, "seed": 1, "workers": 0}
    return {**values, "data": merged(same, values.get("data") or {})}
