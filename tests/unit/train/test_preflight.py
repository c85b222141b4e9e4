"""What a run is told to need against what real steps take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.profiler import profile

from unimedvl.config import ModelConfig
from unimedvl.data.packing import pack
from unimedvl.errors import ConfigError
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.model.vae import Autoencoder
from unimedvl.train.activations import LiveBytes, encoding_bytes, step_bytes
from unimedvl.train.flops import batch_flops
from unimedvl.train.memory import COMPUTE, GIB
from unimedvl.train.parts import PARTS, freeze
from unimedvl.train.preflight import Preflight, preflight
from unimedvl.train.typical import TokenMix, typical_batch
from unimedvl.types import PackedBatch, SpecialTokens, TextSegment, VaeSegment, VitSegment

NANO = ModelConfig.preset("nano")
FULL = ModelConfig.preset("7b_mot")
SPECIAL = SpecialTokens(bos=1, eos=2, vision_start=3, vision_end=4)
MARK = 1_234_567


@pytest.fixture(scope="module")
def packed_batch() -> PackedBatch:
    """2,048 tokens. Samples are of one kind each: on a CPU a mix of kinds would need masks, on a GPU it does not."""
    samples = [(TextSegment(tuple(range(5, 305)), loss=True),)]
    for side, vit_grid in ((32, (20, 20)), (16, (12, 20)), (24, (9, 16))):
        latent = torch.randn(NANO.vae.latent_channels, side, 32)
        samples.append((VaeSegment(latent=latent, noised=True, timestep=0.3, noise=latent),))
        samples.append((VitSegment(torch.randn(3, *(14 * patches for patches in vit_grid))),))
    rest = 2048 - pack(samples, NANO, SPECIAL).length
    return pack([*samples, (TextSegment(tuple(range(5, 5 + rest)), loss=True),)], NANO, SPECIAL)


def allocations(run) -> tuple[int, int]:
    """Bytes that the allocator holds at the mark that ``run`` leaves, and the most at any time."""
    with profile(profile_memory=True) as prof:
        run()
    events = prof.profiler.kineto_results.events()
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()) if e.name() == "[memory]"]
    now = peak = marked = 0
    for size in sizes:
        marked = now if size == MARK else marked
        now += 0 if abs(size) == MARK else size
        peak = max(peak, now)
    return marked, peak


def mark() -> None:
    torch.empty(MARK, dtype=torch.int8)


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
def test_activations_of_a_real_step(packed_batch, checkpointing, autocast):
    """The allocator's own count. 10 %: the prediction has one attention for all samples and no kernel's scratch."""
    assert packed_batch.length == 2048
    model = UniMedVL.initialized(NANO)
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))

    def losses() -> Tensor:
        output = model(packed_batch, checkpointing=checkpointing)
        return output.ce_sum + output.mse_sum

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = losses()
        mark()
        loss.backward()

    kept, peak = allocations(step)
    predicted = step_bytes(NANO, packed_batch, checkpointing=checkpointing, autocast=autocast, fused_norms=False)
    assert predicted.kept == pytest.approx(kept, rel=0.1)
    assert predicted.peak == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize("frozen", [("vit",), ("und", "vit", "connector"), ("gen", "flow")])
def test_activations_with_frozen_parts(packed_batch, frozen):
    model = UniMedVL.initialized(NANO)
    freeze(model, frozen)

    def step() -> None:
        output = model(packed_batch)
        loss = output.ce_sum + output.mse_sum
        del output
        mark()
        loss.backward()

    kept, _ = allocations(step)
    assert step_bytes(NANO, packed_batch, frozen=frozen, fused_norms=False).kept == pytest.approx(kept, rel=0.1)


def test_fused_norms_keep_less(packed_batch):
    host, gpu = (step_bytes(NANO, packed_batch, fused_norms=fused).kept for fused in (False, True))
    assert gpu < 0.95 * host


def test_activations_grow_with_the_batch_and_shrink_with_recomputation():
    mix = TokenMix(0.2, 0.4, 0.4)
    small, large = (typical_batch(NANO, tokens, 512, mix) for tokens in (2048, 8192))
    kept = [step_bytes(NANO, small, checkpointing=kind).kept for kind in ("none", "selective", "full")]
    assert kept[0] > kept[1] > kept[2]
    # Four times the tokens; what does not grow with them, such as a few scalars, is far below 1 %.
    assert step_bytes(NANO, large).kept == pytest.approx(4 * kept[0], rel=0.01)


def test_encoding_of_images():
    """Convolutions on a CPU have scratch of their own, so this holds to a fifth."""
    autoencoder = Autoencoder(NANO.vae).requires_grad_(False)
    pixels = [torch.rand(3, 256, 256)] * 2

    def encode() -> None:
        with torch.no_grad():
            autoencoder.moments_each(pixels)

    side = 256 // NANO.latent_stride
    _, peak = allocations(encode)
    assert encoding_bytes(NANO, [(side, side)] * 2) == pytest.approx(peak + 2 * pixels[0].nbytes, rel=0.2)


def test_live_bytes():
    outside = torch.zeros(100)
    with LiveBytes([outside]) as live:
        view = outside.view(10, 10)
        one = torch.zeros(1000)
        part = one[:10]
        del one
        assert live.now == 4000
        del part
        two = torch.zeros(10)
        assert (live.now, live.peak) == (40, 4000)
    assert len(view) == len(two)


# --- memory of weights and their companions ---------------------------------------------------------------


def bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize("frozen", [(), ("vit", "und")])
def test_weights_and_optimizer_of_a_real_step(packed_batch, frozen):
    """Tensors of a real step. 10 %: AdamW's step counters are not counted; nothing else is left out."""
    model = UniMedVL.initialized(NANO)
    freeze(model, frozen)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    output = model(packed_batch)
    (output.ce_sum + output.mse_sum).backward()
    optimizer.step()
    measured = {
        "weights": bytes_of([*model.parameters(), *model.buffers()]),
        "gradients": bytes_of([p.grad for p in trained if p.grad is not None]),
        "optimizer": bytes_of(value for state in optimizer.state.values() for value in state.values()),
        "EMA": bytes_of([p.detach().clone() for p in trained]),
    }
    result = small(frozen=frozen, zero=False, gpus=1)
    for item, size in measured.items():
        assert result.budget.lasting[item] == pytest.approx(size, rel=0.1), item


def small(**changes) -> Preflight:
    return preflight(NANO, **{"max_tokens": 512, "checkpointing": "full", "steps": 100, **changes})


@pytest.mark.parametrize("gpus", [1, 3, 8])
def test_partitions(gpus):
    """Bytes a parameter of mixed-precision Adam under ZeRO-3 (Rajbhandari et al. 2020, section 3.1), and the EMA."""
    result = small(gpus=gpus)
    trained = sum(result.trained.values())
    lasting = result.budget.lasting
    for item, each in (("gradients", 4), ("optimizer", 12), ("EMA", 4)):
        assert lasting[item] == pytest.approx(each * trained / gpus, rel=0.01)
    assert lasting["weights"] >= 2 * trained / gpus
    host = result.budgets[2].host
    assert host["optimizer"] == lasting["optimizer"]
    assert host["gradients"] == 2 * lasting["gradients"]
    assert result.budgets[2].lasting["optimizer"] == 0
    assert small(gpus=gpus, ema=False).budget.lasting["EMA"] == 0


def test_float32_weights_are_their_own_master():
    assert small(precision="fp32").budget.lasting["optimizer"] == pytest.approx(
        small().budget.lasting["optimizer"] * 2 / 3
    )


# --- the published model ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage_1() -> dict[int, Preflight]:
    """The first stage on 8 and 16 GPUs of 80 GB."""
    return {gpus: preflight(FULL, gpus=gpus, max_sample_tokens=18_500) for gpus in (8, 16)}


def test_parameters_of_the_published_model(stage_1):
    """SPEC's number counts the two position tables, which are buffers: 70 x 70 and 64 x 64 rows of 3584."""
    result = stage_1[8]
    assert result.tables == (70**2 + 64**2) * 3584
    assert sum(result.trained.values()) + result.tables == 14_607_260_128
    assert result.trained["gen"] == 6_525_628_928
    assert not result.frozen


def test_report(stage_1):
    for gpus, result in stage_1.items():
        text = str(result)
        assert max(map(len, text.splitlines())) <= 100
        for word in (
            f"ZeRO-3 on {gpus} GPUs",
            "14,575,018,464",
            "activations",
            "85,000 steps",
            "days",
            "and parameters",
        ):
            assert word in text
    assert stage_1[16].step_tokens == 16 * 36_864
    # The same work on every GPU: a step takes as long, and the stage sees twice the tokens.
    assert stage_1[16].days == pytest.approx(stage_1[8].days)


def test_work(stage_1):
    result = stage_1[8]
    batch = typical_batch(FULL, 36_864, 18_500, TokenMix(0.1, 0.6, 0.3))
    assert batch.length == sum(result.tokens.values()) == 36_864
    assert result.step_flops == 8 * batch_flops(FULL, batch, recompute="full")
    assert result.seconds == pytest.approx(result.step_flops / (8 * 312e12 * 0.4))
    assert result.days == pytest.approx(result.seconds * 85_000 / 86_400)


def test_frozen_encoder_keeps_nothing():
    both = [preflight(FULL, gpus=8, frozen=frozen, max_sample_tokens=18_500) for frozen in ((), ("vit",))]
    trained, frozen = (result.budget.passing[COMPUTE]["activations"] for result in both)
    # Checkpointed, the encoder keeps its layers' inputs: 26 x 21,960 patches x 1,152 x 2 bytes, of 9 GiB in all.
    assert trained - frozen == pytest.approx(26 * both[0].tokens["ViT"] * 1152 * 2, rel=0.25)
    assert both[1].frozen == {"vit": both[0].trained["vit"]}


def test_check(stage_1):
    stage_1[16].check()
    with pytest.raises(ConfigError, match=r"optimizer.*offload the optimizer \(.*more GPUs, or lower max_tokens"):
        replace(stage_1[8], gpu_memory_gib=50).check()
    with pytest.raises(ConfigError, match="for optimizer"):
        preflight(FULL, gpus=1, max_tokens=1000).check()
    replace(stage_1[8], gpu_memory_gib=50, chosen=1).check()
    assert "tight" in str(replace(stage_1[8], gpu_memory_gib=62))


def test_check_of_one_process():
    result = small(zero=False, gpus=1, checkpointing="none", gpu_memory_gib=1)
    with pytest.raises(ConfigError, match="checkpointing=full, or use ZeRO-3 on more GPUs"):
        result.check()
    assert len(result.budgets) == 1
    assert result.budget.gpu > 2 * GIB  # of which nearly all is CUDA's


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus": 0}, "gpus is 0"),
        ({"gpus": 2, "zero": False}, "2 GPUs without ZeRO"),
        ({"gpus": 1, "zero": False, "offload_optimizer": True}, "offload without ZeRO"),
        ({"offload_parameters": True}, "without offload_optimizer"),
        ({"precision": "fp16"}, "precision is 'fp16'"),
        ({"checkpointing": "some"}, "checkpointing is 'some'"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"mfu": 0}, "mfu is 0"),
        ({"frozen": PARTS}, "every part"),
        ({"frozen": ("llm",)}, "no part is called"),
    ],
)
def test_settings_that_cannot_work(changes, message):
    with pytest.raises(ConfigError, match=message):
        small(**changes)


@pytest.mark.parametrize("shares", [(0, 0, 0), (1, -1, 0), (1, float("nan"), 0)])
def test_mix_that_cannot_work(shares):
    with pytest.raises(ConfigError, match="shares"):
        TokenMix(*shares)


def test_mix_for_a_half_that_the_model_lacks():
    config = ModelConfig.preset("nano", visual_gen=False)
    with pytest.raises(ConfigError, match="visual_gen"):
        preflight(config, max_tokens=512)
    result = preflight(config, max_tokens=512, mix=TokenMix(1, 1, 0))
    assert set(result.trained) == {"und", "vit", "connector"}
    assert result.budget.lasting["autoencoder"] == 0


@pytest.mark.parametrize("tokens", [1, 10, 100, 1000, 9999])
@pytest.mark.parametrize("mix", [TokenMix(1, 0, 0), TokenMix(0, 1, 0), TokenMix(0.1, 0.6, 0.3), TokenMix(0, 0, 1)])
def test_typical_batches_have_the_size_asked_for(tokens, mix):
    """Up to the two text tokens that a sample has at least."""
    batch = typical_batch(NANO, tokens, 500, mix)
    assert tokens <= batch.length <= tokens + 2 * batch.num_documents
    share = len(batch.vit_index) / batch.length - mix.vit / (mix.text + mix.vit + mix.latent)
    assert tokens < 500 or abs(share) < 0.15
