"""The weights that ship with the package."""

from __future__ import annotations

import json

import pytest
import yaml

from unimedvl.bundled import FOLDER, bundled_model
from unimedvl.config import PRESETS
from unimedvl.errors import CheckpointError
from unimedvl.infer.defaults import defaults_of
from unimedvl.infer.pipeline import UniMedVLPipeline
from unimedvl.model.directory import read_config


def test_small_enough_to_ship():
    assert sum(path.stat().st_size for path in bundled_model().rglob("*") if path.is_file()) <= 12e6


def test_how_it_was_made_is_beside_it():
    recipes = {path.stem: yaml.safe_load(path.read_text()) for path in (FOLDER / "recipe").glob("*.yaml")}
    assert set(recipes) == {"autoencoder", "foundation", "instruction", "unified", "reading"}
    assert all(recipe["stage"] == name and "seed" in recipe for name, recipe in recipes.items())
    assert len((FOLDER / "recipe" / "data.sha256").read_text().split()[0]) == 64


def test_scores_are_those_of_these_weights():
    from unimedvl.eval.model_hash import weights_hash

    result = json.loads((FOLDER / "evaluation.json").read_text())
    assert result["about"]["model"] == weights_hash(FOLDER)


def test_it_is_the_nano_preset_at_its_training_sizes():
    config, defaults = read_config(FOLDER), defaults_of(FOLDER)
    assert (config.llm, config.vit) == (PRESETS["nano"].llm, PRESETS["nano"].vit)
    assert defaults.settings.size == (128, 128)
    assert defaults.transforms.condition.max_side == 128
    assert defaults.transforms.fitted(config) == defaults.transforms


def test_it_draws_the_same_picture_again():
    pipe = UniMedVLPipeline.from_pretrained(bundled_model(), device="cpu")
    one, two = (pipe.generate("Draw a fundus photograph of the retina, color.", seed=3, steps=4) for _ in range(2))
    assert one == two
    assert one.size == (128, 128)


def test_a_copy_without_them_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("unimedvl.bundled.FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match="no bundled weights.*give --model"):
        bundled_model()
