"""Our layers against transformers' Qwen2 and SigLIP with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM, SiglipVisionConfig
from transformers import SiglipVisionModel as ReferenceVision

from tests.layouts import SPECIAL
from unimedvl.config import LlmConfig, ModelConfig, VitConfig
from unimedvl.data.packing import pack
from unimedvl.model.attention import SdpaPlan
from unimedvl.model.layout import image_documents
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.types import TextSegment, VitSegment

# float32, two layers, logits and features of order 1.
ATOL = 1e-5
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 120,
}


def copied_from(reference, llm: LlmConfig) -> UniMedVL:
    """Our decoder, und expert only, with the reference's weights; norms that it lacks do nothing."""
    model = UniMedVL.initialized(ModelConfig(llm=llm, visual_gen=False, visual_und=False))
    result = model.language_model.load_state_dict(reference.state_dict(), strict=False)
    assert not result.unexpected_keys
    for name in result.missing_keys:
        assert name.endswith(("q_norm.weight", "k_norm.weight"))
        parent, child = name.removesuffix(".weight").rsplit(".", 1)
        setattr(model.language_model.get_submodule(parent), child, nn.Identity())
    return model


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_decoder(family):
    """Qwen2 has our biases but no per-head norms, Qwen3 the norms: between them every part is compared."""
    if family == "qwen2":
        config = Qwen2Config(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
        reference = Qwen2ForCausalLM(config)
    else:
        config = Qwen3Config(
            **SIZES, head_dim=16, attention_bias=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6}
        )
        reference = Qwen3ForCausalLM(config)
        for layer in reference.model.layers:  # we have no bias there
            layer.self_attn.o_proj.bias = None
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            # Random norms and biases: ones and zeros would hide a mix-up.
            parameter.copy_(torch.randn_like(parameter) * 0.1 + ("norm" in name))
    model = copied_from(reference, LlmConfig(**SIZES))

    texts = [torch.randint(0, 120, (length,)).tolist() for length in (11, 5, 1)]
    samples = [(TextSegment(tuple(text), loss=True),) for text in texts]
    output = model(pack(samples, model.config, SPECIAL, logits="all"))
    expected = torch.cat([reference(torch.tensor([text])).logits[0] for text in texts])
    torch.testing.assert_close(output.logits, expected, atol=ATOL, rtol=1e-4)

    losses = [reference(torch.tensor([text]), labels=torch.tensor([text])).loss for text in texts[:2]]
    expected_sum = sum(loss * (len(text) - 1) for loss, text in zip(losses, texts, strict=False))
    torch.testing.assert_close(output.ce_sum, expected_sum, atol=1e-4, rtol=1e-5)

    output.ce_sum.backward()
    expected_sum.backward()
    ours = dict(model.language_model.named_parameters())
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(ours[name].grad, parameter.grad, atol=1e-4, rtol=1e-3, msg=name)


def test_vision_encoder():
    """Two packed images against the reference, one image at a time (it knows square images only)."""
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = UniMedVL.initialized(ModelConfig(llm=LlmConfig(**SIZES), vit=VitConfig(**sizes, max_side=3)))
    images = [torch.randn(3, 42, 42) for _ in range(2)]
    batch = pack([(VitSegment(image),) for image in images], model.config, SPECIAL)

    config = SiglipVisionConfig(**sizes, patch_size=14, image_size=42, vision_use_head=False)
    reference = ReferenceVision(config)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        state = reference.state_dict()
        patches = state["embeddings.patch_embedding.weight"]
        state["embeddings.patch_embedding.weight"] = patches.permute(0, 2, 3, 1).flatten(1)
        model.vit_model.vision_model.load_state_dict(state)
        plan = SdpaPlan(image_documents(batch.vit_lengths), torch.device("cpu"))
        actual = model.vit_model(batch.vit_patches, batch.vit_position_ids, plan)
        expected = torch.cat([reference(image[None]).last_hidden_state[0] for image in images])
    torch.testing.assert_close(actual, expected, atol=ATOL, rtol=1e-4)
