"""Operations of a step against torch's counter, and pairs against the dense mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, mm_flop

from unimedvl.config import ModelConfig
from unimedvl.data.packing import pack
from unimedvl.errors import ConfigError
from unimedvl.model.layout import dense_mask, documents_of
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.train.flops import batch_flops, visible_pairs
from unimedvl.train.parts import PARTS, freeze
from unimedvl.types import PackedBatch, Sample, SpecialTokens, Split, TextSegment, VaeSegment, VitSegment

SPECIAL = SpecialTokens(bos=1, eos=2, vision_start=3, vision_end=4)
# In place, so another operator to the counter than the one it knows: the weight's gradient of the head.
EXTRA = {torch.ops.aten.addmm_: lambda total, left, right, **_: mm_flop(left, right)}


def image_pair(config: ModelConfig) -> tuple[VitSegment, VaeSegment]:
    draw = torch.randn(config.vae.latent_channels, 12, 8)
    return VitSegment(torch.randn(3, 84, 70)), VaeSegment(latent=draw, noised=True, timestep=0.3, noise=draw)


def samples(config: ModelConfig) -> list[Sample]:
    vit, target = image_pair(config)
    clean = VaeSegment(latent=torch.randn(config.vae.latent_channels, 8, 8))
    text = tuple(range(5, 75))
    return [
        (TextSegment(text[:40]), target),
        (vit, vit, TextSegment(text[:30]), TextSegment(text, loss=True)),
        (clean, vit, TextSegment(text[:9], loss=True), target, TextSegment(text[:20], loss=True)),
    ]


def counted(model: UniMedVL, batch: PackedBatch, checkpointing: str = "none") -> int:
    """Products that torch sees in forward and backward; attention on the CPU is one operator that it does not know."""
    with FlopCounterMode(display=False, custom_mapping=EXTRA) as counter:
        output = model(batch, checkpointing=checkpointing)
        loss = output.ce_sum + (output.mse_sum if model.config.visual_gen else 0)
        if any(parameter.requires_grad for parameter in model.parameters()):
            loss.backward()
    return counter.get_total_flops()


def attention_by_mask(config: ModelConfig, batch: PackedBatch, *, decoder: int, vit: int) -> int:
    """From the dense masks: ``decoder`` and ``vit`` products of two operations a pair and channel in each layer."""
    pairs = sum(int(dense_mask(document).sum()) for document in documents_of(batch.splits))
    llm = 2 * decoder * pairs * config.llm.hidden_size * config.llm.num_hidden_layers
    patches = sum(length**2 for length in batch.vit_lengths)
    return llm + 2 * vit * patches * config.vit.hidden_size * config.vit.num_hidden_layers


@pytest.mark.parametrize(
    "frozen",
    [
        (),
        ("vit",),
        ("vit", "connector"),
        ("connector",),
        ("und", "vit", "connector"),
        ("gen", "flow"),
        ("und", "gen"),
        ("gen", "vit", "connector", "flow"),
        ("und", "vit", "connector", "flow"),
        ("und", "gen", "vit", "connector"),
        ("und", "gen", "flow"),
    ],
    ids=lambda frozen: "+".join(frozen) or "none",
)
def test_against_torch(frozen):
    """Equal to the last operation: both count integers, and both leave out the same."""
    compare("tiny", frozen)


@pytest.mark.parametrize("frozen", [(), ("vit",)])
def test_against_torch_in_another_size(frozen):
    compare("nano", frozen)


def compare(preset: str, frozen: tuple[str, ...]) -> None:
    config = ModelConfig.preset(preset)
    model = UniMedVL.initialized(config)
    freeze(model, frozen)
    batch = pack(samples(config), config, SPECIAL)
    attention = attention_by_mask(config, batch, decoder=7, vit=2 if "vit" in frozen else 7)
    assert batch_flops(config, batch, frozen=frozen) == counted(model, batch) + attention


@pytest.mark.parametrize(("checkpointing", "forwards"), [("none", 0), ("selective", 0), ("full", 1)])
def test_recomputation(checkpointing, forwards):
    config = ModelConfig.preset("tiny")
    batch = pack(samples(config), config, SPECIAL)
    attention = attention_by_mask(config, batch, decoder=7 + 2 * forwards, vit=7 + 2 * forwards)
    expected = counted(UniMedVL.initialized(config), batch, checkpointing) + attention
    assert batch_flops(config, batch, recompute=checkpointing) == expected


@pytest.mark.parametrize("changes", [{"visual_gen": False}, {"visual_und": False}])
@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_half_models(changes, checkpointing):
    config = ModelConfig.preset("tiny", **changes)
    segments = [s for sample in samples(config) for s in sample]
    unwanted = VaeSegment if config.visual_und else VitSegment
    batch = pack([tuple(s for s in segments if not isinstance(s, unwanted))], config, SPECIAL)
    times = 9 if checkpointing == "full" else 7
    attention = attention_by_mask(config, batch, decoder=times, vit=times)
    expected = counted(UniMedVL.initialized(config), batch, checkpointing) + attention
    assert batch_flops(config, batch, recompute=checkpointing) == expected


@pytest.mark.parametrize("kind", ["text", "vit"])
@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_batches_of_one_kind(kind, checkpointing):
    config = ModelConfig.preset("tiny")
    text = TextSegment(tuple(range(5, 50)), loss=True)
    batch = pack([(text,) if kind == "text" else (image_pair(config)[0], text)], config, SPECIAL)
    times = 9 if checkpointing == "full" else 7
    attention = attention_by_mask(config, batch, decoder=times, vit=times)
    expected = counted(UniMedVL.initialized(config), batch, checkpointing) + attention
    assert batch_flops(config, batch, recompute=checkpointing) == expected


def test_attention_forward_against_torch():
    """Images alone, whose pairs all see each other, with attention made of products that torch counts."""
    config = ModelConfig.preset("tiny")
    batch = pack([(segment,) for segment in image_pair(config)], config, SPECIAL)
    model = UniMedVL.initialized(config).requires_grad_(False)
    with sdpa_kernel(SDPBackend.MATH):
        assert batch_flops(config, batch, frozen=PARTS) == counted(model, batch)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 9), st.sampled_from(["causal", "full", "noise"])), min_size=1, max_size=5),
        max_size=4,
    )
)
def test_pairs_are_those_of_the_mask(documents):
    splits = [Split(n, length, mode) for n, parts in enumerate(documents) for length, mode in parts]
    assert visible_pairs(splits) == sum(int(dense_mask(document).sum()) for document in documents_of(splits))


def test_unknown_part():
    config = ModelConfig.preset("tiny")
    with pytest.raises(ConfigError, match="no part is called"):
        batch_flops(config, pack([], config, SPECIAL), frozen=("llm",))


def test_published_size_is_about_six_operations_a_parameter():
    """Text without head and attention: 6 N per token, N the und expert's matrices (Kaplan et al. 2020, section 2.1)."""
    config = ModelConfig.preset("7b_mot")
    batch = pack([(TextSegment((5,)),)] * 1000, config, SPECIAL)
    assert batch_flops(config, batch) == pytest.approx(6 * 6.5256e9 * 1000, rel=0.01)
