"""Parts of the model, and freezing them."""

from __future__ import annotations

from collections import Counter

import pytest

from unimedvl.config import ModelConfig
from unimedvl.errors import ConfigError
from unimedvl.model.meta import on_meta
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.train.parts import PARTS, freeze, part_of


@pytest.fixture
def model() -> UniMedVL:
    with on_meta():
        return UniMedVL(ModelConfig.preset("tiny"))


def counts(model: UniMedVL) -> Counter[str]:
    found: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        found[part_of(name)] += parameter.numel()
    return found


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("language_model.model.embed_tokens.weight", "und"),
        ("language_model.lm_head.weight", "und"),
        ("language_model.model.norm.weight", "und"),
        ("language_model.model.norm_moe_gen.weight", "gen"),
        ("language_model.model.layers.2.mlp_moe_gen.up_proj.weight", "gen"),
        ("language_model.model.layers.2.self_attn.q_proj_moe_gen.bias", "gen"),
        ("language_model.model.layers.2.self_attn.q_proj.bias", "und"),
        ("vit_model.vision_model.embeddings.position_embedding.weight", "vit"),
        ("connector.fc1.weight", "connector"),
        ("vae2llm.weight", "flow"),
        ("llm2vae.bias", "flow"),
        ("time_embedder.mlp.0.weight", "flow"),
    ],
)
def test_part_of(name, part):
    assert part_of(name) == part


@pytest.mark.parametrize("name", ["vit_pos_embed.pos_embed", "kl.encoder.weight", "connectors.fc1.weight", ""])
def test_other_tensors_belong_to_no_part(name):
    with pytest.raises(ConfigError, match="belongs to no part"):
        part_of(name)


def test_every_parameter_of_the_full_model_belongs_to_a_part():
    """With the two position tables, which are buffers, they are the 14,607,260,128 values of the specification."""
    config = ModelConfig.preset("7b_mot")
    with on_meta():
        found = counts(UniMedVL(config))
    assert tuple(sorted(found)) == tuple(sorted(PARTS))
    # Measured on the released checkpoint: the gen expert.
    assert found["gen"] == 6_525_628_928
    tables = (config.vit.max_side**2 + config.max_latent_size**2) * config.llm.hidden_size
    assert sum(found.values()) + tables == 14_607_260_128


@pytest.mark.parametrize("frozen", [(), ("vit",), ("und", "vit", "connector"), ("gen", "flow")])
def test_freeze(model, frozen):
    freeze(model, PARTS[1:])
    freeze(model, frozen)
    assert {part_of(name) for name, p in model.named_parameters() if not p.requires_grad} == set(frozen)


@pytest.mark.parametrize(
    ("frozen", "message"),
    [(("lm",), "no part is called 'lm'.*use und, gen"), ("vit", "give a list"), (PARTS, "every part .* is frozen")],
)
def test_freeze_refuses(model, frozen, message):
    with pytest.raises(ConfigError, match=message):
        freeze(model, frozen)


def test_a_model_without_a_half_cannot_train_that_half_alone():
    with on_meta():
        model = UniMedVL(ModelConfig.preset("tiny", visual_gen=False))
    with pytest.raises(ConfigError, match="every part that the model has"):
        freeze(model, ("und", "vit", "connector"))
    assert all(parameter.requires_grad for parameter in model.parameters())
