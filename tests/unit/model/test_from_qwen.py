"""A fresh model from small Qwen2, SigLIP and autoencoder directories in transformers' layout."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from unimedvl.config import ModelConfig
from unimedvl.errors import CheckpointError
from unimedvl.model.from_qwen import from_qwen

VAE = ModelConfig.preset("tiny").vae


@pytest.fixture
def parents(tmp_path, tiny_directory):
    def qwen(tied):
        sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 100}
        config = Qwen2Config(**sizes, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied)
        Qwen2ForCausalLM(config).save_pretrained(tmp_path / f"qwen{tied}")

    qwen(False)
    qwen(True)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    SiglipVisionModel(SiglipVisionConfig(**sizes, patch_size=14, image_size=70)).save_pretrained(tmp_path / "siglip")
    (tmp_path / "flux").mkdir()
    shutil.copy(tiny_directory / "ae.safetensors", tmp_path / "flux")
    return tmp_path


def build(parents, tied=False, side=5, **options):
    return from_qwen(
        parents / f"qwen{tied}",
        parents / "siglip",
        parents / "flux",
        vae=VAE,
        vit_side=side,
        max_latent_size=16,
        dtype=torch.float32,
        **options,
    )


@pytest.mark.parametrize("tied", [False, True])
def test_experts_are_qwen(parents, tied):
    model, _ = build(parents, tied)
    qwen = load_file(parents / f"qwen{tied}" / "model.safetensors")
    ours = model.language_model.state_dict()
    for name, tensor in qwen.items():
        assert torch.equal(ours[name], tensor), name
    gen = [name for name in ours if "_moe_gen" in name]
    assert len(gen) == 2 * 14 + 1
    for name in gen:
        assert torch.equal(ours[name], ours[name.replace("_moe_gen", "")]), name
    head = qwen["model.embed_tokens.weight"] if tied else qwen["lm_head.weight"]
    assert torch.equal(ours["lm_head.weight"], head)
    assert model.language_model.lm_head.weight is not model.language_model.model.embed_tokens.weight
    assert torch.equal(ours["model.layers.0.self_attn.q_norm.weight"], torch.ones(16))
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    # Copies, not views: training one expert must not move the other.
    with torch.no_grad():
        model.language_model.model.layers[0].mlp.up_proj.weight.zero_()
    assert model.language_model.model.layers[0].mlp_moe_gen.up_proj.weight.any()


def test_eyes_are_siglip_without_its_last_layer(parents):
    model, autoencoder = build(parents)
    siglip = load_file(parents / "siglip" / "model.safetensors")
    ours = model.vit_model.vision_model.state_dict()
    assert model.config.vit.num_hidden_layers == 2
    patches = siglip["embeddings.patch_embedding.weight"].permute(0, 2, 3, 1).flatten(1)
    assert torch.equal(ours["embeddings.patch_embedding.weight"], patches)
    for name, tensor in ours.items():
        if name != "embeddings.patch_embedding.weight":
            assert torch.equal(tensor, siglip[name]), name
    assert autoencoder.config == VAE


def test_position_table_is_resized(parents):
    model, _ = build(parents, side=8)
    table = model.vit_model.vision_model.embeddings.position_embedding.weight
    assert table.shape == (64, 48)
    stored = load_file(parents / "siglip" / "model.safetensors")["embeddings.position_embedding.weight"]
    # The middle of the old 5 x 5 grid (2, 2) lies between the four middle rows of the new 8 x 8 one, rows of a grid
    # being rows of an image.
    grid, old = table.view(8, 8, 48), stored.view(5, 5, 48)
    expected = F.interpolate(old.permute(2, 0, 1)[None], (8, 8), mode="bicubic")[0].permute(1, 2, 0)
    torch.testing.assert_close(grid, expected)
    nearest = (grid[0, 7] - old[0, 4]).norm() < (grid[0, 7] - old[4, 0]).norm()
    assert nearest, "rows and columns are not swapped"


def test_the_model_runs_and_is_reproducible(parents):
    from tests.layouts import SPECIAL, random_sample
    from unimedvl.data.packing import pack
    from unimedvl.types import SpecialTokens

    first, _ = build(parents, seed=3)
    second, _ = build(parents, seed=3)
    special = SpecialTokens(*(value - 400 for value in vars(SPECIAL).values()))
    sample = list(random_sample(0, first.config, ["clean", "vit", "noised"]))
    batch = pack([tuple(sample)], first.config, special, logits="all")
    with torch.no_grad():
        outputs = [model(batch) for model in (first, second)]
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert not outputs[0].velocity.any(), "the velocity head starts at zero"


def test_a_misfit_is_named(parents):
    path = parents / "qwenFalse" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.self_attn.q_norm.weight"] = torch.ones(16)
    del tensors["model.norm.weight"]
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"1 missing: model.norm.weight; 1 unexpected: .*q_norm.weight"):
        build(parents)


def test_absent_weights(parents):
    (parents / "siglip" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model.safetensors is missing.*transformers' layout"):
        build(parents)
