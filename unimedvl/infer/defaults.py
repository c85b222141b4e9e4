"""How a checkpoint wants to be used: the image sizes it was trained at, and the sampling that suits it.

Published directories have no such file, and the published settings hold.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unimedvl.infer.tasks import InferSettings
from unimedvl.model.directory import read_json
from unimedvl.processor import ImageTransforms
from unimedvl.settings import build, merged

INFERENCE = "unimedvl_inference.json"


@dataclass(frozen=True)
class Defaults:
    """What holds where nothing else is said.

    Attributes:
        dtype: that weights are converted to, those of the autoencoder too; as stored if None.
    """

    transforms: ImageTransforms = field(default_factory=ImageTransforms)
    settings: InferSettings = field(default_factory=InferSettings)
    dtype: str | None = None

    def files(self) -> dict[str, dict[str, Any]]:
        """Name and content of the file, for a checkpoint directory."""
        return {INFERENCE: asdict(self)}


def defaults_of(directory: Path) -> Defaults:
    """Those of a checkpoint directory; what its file does not name, or without a file everything, is as published.

    Raises:
        CheckpointError: the file is damaged.
        ConfigError: it names what no setting is called, or a value cannot work.
    """
    path = directory / INFERENCE
    if not path.is_file():
        return Defaults()
    return build(Defaults, merged(asdict(Defaults()), read_json(path)), str(path))
