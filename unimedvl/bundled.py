"""The nano model that ships with the package: small enough to carry, trained on UniMed-Mini, for trying only."""

from __future__ import annotations

from pathlib import Path

from unimedvl.errors import CheckpointError

FOLDER = Path(__file__).parent / "nano"
HINT = "no --model: the bundled nano model, for trying only (--model DIR takes the 14 B checkpoint, see the README)"


def bundled_model() -> Path:
    """Checkpoint directory of the bundled model.

    Raises:
        CheckpointError: this copy of the package came without it.
    """
    if not (FOLDER / "unimedvl_config.json").is_file():
        raise CheckpointError(
            "this copy of the package has no bundled weights",
            where=str(FOLDER),
            remedy="give --model, or make them with scripts/train_bundled.sh",
        )
    return FOLDER
