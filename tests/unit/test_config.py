from __future__ import annotations

import dataclasses
import json

import pytest

from unimedvl.config import PRESETS, LlmConfig, ModelConfig, VaeConfig, VitConfig
from unimedvl.errors import ConfigError
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.model.vae import Autoencoder


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    config = ModelConfig.preset(name)
    assert ModelConfig.from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_nano_is_a_few_million_parameters():
    config = ModelConfig.preset("nano")
    parts = (UniMedVL.initialized(config), Autoencoder(config.vae))
    assert 3e6 < sum(p.numel() for part in parts for p in part.parameters()) < 8e6


def test_published_sizes():
    config = ModelConfig.preset("7b_mot")
    assert (config.llm.head_dim, config.latent_dim, config.latent_stride) == (128, 64, 16)
    assert config.vit.patch_dim == 588
    assert config.vae.downsample == 8


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ModelConfig.preset("14b"), "no model is called '14b'.*7b_mot, nano, tiny"),
        (lambda: LlmConfig(hidden_size=100, num_attention_heads=3), "hidden_size 100 is not a multiple"),
        (lambda: LlmConfig(num_key_value_heads=5), "num_attention_heads 28 is not a multiple of num_key_value_heads 5"),
        (lambda: LlmConfig(num_hidden_layers=0), "num_hidden_layers is 0.*LlmConfig.*positive"),
        (lambda: LlmConfig(vocab_size="many"), "vocab_size is 'many'"),
        (lambda: LlmConfig(hidden_size=12, num_attention_heads=4, num_key_value_heads=2), "head size 3 is odd"),
        (lambda: VitConfig(num_attention_heads=7), "hidden_size 1152 is not a multiple"),
        (lambda: VaeConfig(base_channels=40), "base_channels 40 is not a multiple of norm_groups 32"),
        (lambda: VaeConfig(channel_multipliers=()), "channel_multipliers is ()"),
        (lambda: ModelConfig(position_mode="nearest"), "position_mode is 'nearest'.*'extrapolate' or 'interpolate'"),
        (lambda: ModelConfig(max_latent_size=5000), "max_latent_size is 5000.*at most 4096"),
        (lambda: ModelConfig.from_dict({"layers": 3}), "unknown setting layers"),
        (lambda: ModelConfig.from_dict({"llm": {"depth": 3}}), r"unknown setting depth \(model config, llm\)"),
    ],
)
def test_impossible_values_are_refused(build, message):
    with pytest.raises(ConfigError, match=message.replace("()", r"\(\)")):
        build()
