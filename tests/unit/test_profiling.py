"""The counter, and the counts it must guard at full depth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.layouts import SPECIAL, random_sample
from unimedvl.config import ModelConfig
from unimedvl.data.packing import pack
from unimedvl.model.cache import KVCache
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.profiling import OpCounter
from unimedvl.types import TextSegment, VaeSegment

TINY = ModelConfig.preset("tiny")
DEEP = replace(TINY, llm=replace(TINY.llm, num_hidden_layers=28))


@pytest.fixture(scope="module")
def deep_model():
    return UniMedVL.initialized(DEEP)


@pytest.mark.parametrize(
    "act",
    [
        lambda x: x.sum().item(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: bool((x > 0).any()),
        lambda x: torch.arange(3).repeat_interleave(torch.tensor([1, 2, 3])),
        lambda x: x.unique(),
    ],
)
def test_synchronizations_are_seen(act):
    with OpCounter() as counter:
        act(torch.randn(5))
    assert sum(counter.syncs.values()) == 1


def test_copies_from_a_device_are_seen():
    from unimedvl.profiling import _reads_back

    there, here = torch.empty(2, device="meta"), torch.empty(2)
    assert _reads_back("aten._to_copy", (there,), {"device": torch.device("cpu")})
    assert not _reads_back("aten._to_copy", (here,), {"device": torch.device("cpu")})
    assert not _reads_back("aten._to_copy", (here,), {"device": torch.device("cuda")})
    assert not _reads_back("aten._to_copy", (there,), {"dtype": torch.float32})


def test_views_are_free_and_the_rest_is_counted():
    x = torch.randn(4, 6)
    with OpCounter() as counter:
        (x.view(2, 12).transpose(0, 1)[3:] * 2).reshape(-1, 1)
    assert counter.ops == {"aten.mul": 1, "aten.clone": 1}
    assert not counter.syncs


def test_decoding_a_token(deep_model):
    """The published code: 1,980 operators and 112 synchronizations."""
    row = KVCache(DEEP.llm, 100).open(100)
    with torch.no_grad():
        deep_model(pack([(TextSegment(tuple(range(20))),)], DEEP, SPECIAL), [row])
        batch = pack([(TextSegment((5,)),)], DEEP, SPECIAL, start_positions=[20], logits="last")
        with OpCounter() as counter:
            deep_model(batch, [row])
    assert not counter.syncs
    assert sum(counter.ops.values()) <= 1230


def test_guided_flow_pass(deep_model):
    """Full, text and image branch in one forward; the published code: 3 x 3,840 and 3 x 112."""
    full = KVCache(DEEP.llm, 400).open(200)
    without_images = full.cache.open(100)
    image = VaeSegment(latent=torch.randn(4, 8, 8), noised=True, timestep=0.5)
    with torch.no_grad():
        deep_model(pack([random_sample(0, DEEP, ["clean", "vit"])], DEEP, SPECIAL), [full])
        without_text = full.fork(50)
        text = random_sample(1, DEEP, ["text"])
        prompts = pack([text, text], DEEP, SPECIAL, start_positions=[2, 0])
        deep_model(prompts, [full, without_images])
        after = [int(prompts.position_ids[len(text[0].token_ids) - 1]) + 1, 2, len(text[0].token_ids)]
        batch = pack([(image,)] * 3, DEEP, SPECIAL, start_positions=after)
        with OpCounter() as counter:
            output = deep_model(batch, [full, without_text, without_images])
    assert output.velocity.shape == (3 * 16, DEEP.latent_dim)
    assert not counter.syncs
    # The fork's prefix is gathered for attention: two more operators a layer than without.
    assert sum(counter.ops.values()) <= 2840


@pytest.mark.gpu
def test_no_synchronization_on_cuda():
    """What the counter reads off operator names, asked of the CUDA runtime itself."""
    model = UniMedVL.initialized(DEEP, dtype=torch.bfloat16, device="cuda", attention="sdpa")
    row = KVCache(DEEP.llm, 100, dtype=torch.bfloat16, devices="cuda").open(100)
    with torch.no_grad():
        for position in range(3):
            batch = pack([(TextSegment((5,)),)], DEEP, SPECIAL, start_positions=[position], logits="last").to("cuda")
            torch.cuda.set_sync_debug_mode("error" if position else "default")
            try:
                model(batch, [row])
            finally:
                torch.cuda.set_sync_debug_mode("default")
