"""A checkpoint's own settings: read where they are, published ones where not, mistakes told."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from unimedvl.errors import CheckpointError, ConfigError
from unimedvl.infer.defaults import INFERENCE, Defaults, defaults_of
from unimedvl.infer.pipeline import UniMedVLPipeline
from unimedvl.processor import ImageTransforms


def test_published_directories_have_published_settings(tmp_path):
    assert defaults_of(tmp_path) == Defaults()
    assert Defaults().transforms == ImageTransforms()


def test_what_is_named_is_taken_and_the_rest_stays(tmp_path):
    values = {"dtype": "float32", "settings": {"size": [64, 32], "edit": {"steps": 7}}}
    (tmp_path / INFERENCE).write_text(json.dumps(values))
    defaults = defaults_of(tmp_path)
    assert defaults.settings.size == (64, 32)
    assert defaults.settings.edit.steps == 7
    assert defaults.settings.edit.guidance == Defaults().settings.edit.guidance
    assert defaults.transforms == ImageTransforms()


def test_what_is_written_is_read(tmp_path):
    for name, values in Defaults(dtype="float32").files().items():
        (tmp_path / name).write_text(json.dumps(values))
    assert defaults_of(tmp_path) == Defaults(dtype="float32")


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("{", CheckpointError, "not JSON"),
        ('{"sizes": 3}', ConfigError, "unknown setting sizes"),
        ('{"settings": {"edit": {"steps": 1}}}', ConfigError, "1 timesteps"),
    ],
)
def test_mistakes(tmp_path, text, kind, message):
    (tmp_path / INFERENCE).write_text(text)
    with pytest.raises(kind, match=message):
        defaults_of(tmp_path)


def test_the_pipeline_takes_them(saved_tiny, tmp_path):
    shutil.copytree(saved_tiny, tmp_path / "model")
    values = {"dtype": "bfloat16", "settings": {"text": {"max_new_tokens": 3}}}
    (tmp_path / "model" / INFERENCE).write_text(json.dumps(values))
    pipe = UniMedVLPipeline.from_pretrained(tmp_path / "model", device="cpu")
    assert pipe.settings.text.max_new_tokens == 3
    assert pipe.engine.model.dtype == torch.bfloat16
    assert pipe.autoencoder().dtype == torch.bfloat16
    assert UniMedVLPipeline.from_pretrained(tmp_path / "model", dtype="float32").engine.model.dtype == torch.float32
