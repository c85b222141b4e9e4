"""Counted operations against formulas."""

from __future__ import annotations

import pytest

from unimedvl.config import ModelConfig
from unimedvl.eval.flops import FlopCount
from unimedvl.infer.sampling import Guidance, ImageOptions


@pytest.fixture(scope="module")
def published():
    return FlopCount(ModelConfig.preset("7b_mot"))


def layer_weights(llm):
    keys = llm.num_key_value_heads * llm.head_dim
    return 2 * llm.hidden_size**2 + 2 * llm.hidden_size * keys + 3 * llm.hidden_size * llm.intermediate_size


def test_one_flow_pass_of_the_published_size(published):
    """4,096 latent tokens and 2 markers after 80 tokens of context."""
    flops = published.flow_pass((1024, 1024), [80])
    assert flops.total / 1e12 == pytest.approx(60.4, rel=0.02)
    llm = published.config.llm
    linear = 2 * llm.num_hidden_layers * (4096 + 2) * layer_weights(llm)
    attention = 4 * llm.num_hidden_layers * (4096 + 2) * (4096 + 2 + 80) * llm.hidden_size
    assert flops.attention == attention
    # Beside the layers: latents in, velocity out, and the embedding of the timestep; 0.005 % of the whole.
    assert linear < flops.linear < linear * 1.0005


def test_the_published_number_for_an_image_is_three_small_passes(published):
    """The paper gives 40.03 TFLOP an image: three 512 x 512 passes, linear layers, latent tokens only."""
    three = 3 * published.flow_pass((512, 512), [80]).linear / 1e12
    assert three * 1024 / 1026 == pytest.approx(40.09, abs=0.01)
    assert three == pytest.approx(40.03, rel=0.005)


def test_guided_steps_cost_their_branches():
    count = FlopCount(ModelConfig.preset("nano"))
    steps = ImageOptions(steps=11, guidance=Guidance(text_scale=1.0))
    plain = count.image((64, 64), 20, steps)
    assert plain["flow"].total == 10 * count.flow_pass((64, 64), [20]).total
    guided = ImageOptions(steps=11, guidance=Guidance(text_scale=2.0, interval=(0.0, 1.0)))
    both = count.image((64, 64), 20, guided)["flow"].total
    assert both == 10 * count.flow_pass((64, 64), [20, 0]).total
    # The branches share nothing but the call: nano's reference attention runs each row on its own.
    assert both > 1.9 * plain["flow"].total


def test_text_costs_the_sum_over_its_tokens():
    count = FlopCount(ModelConfig.preset("nano"))
    llm, new = count.config.llm, 9
    parts = count.answer(None, 30, new)
    weights = llm.num_hidden_layers * layer_weights(llm) + llm.hidden_size * llm.vocab_size
    pairs = sum(30 + number for number in range(1, new + 1))
    attention = 4 * llm.num_hidden_layers * pairs * llm.hidden_size
    assert parts["text"].linear == 2 * new * weights
    assert parts["text"].attention == attention
    with_image = count.answer((112, 112), 30, new)
    assert with_image["context"].total > parts["context"].total
