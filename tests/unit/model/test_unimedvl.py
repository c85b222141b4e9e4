"""Properties of the forward: packing, caching, lockstep, and what it refuses."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.layouts import SPECIAL, random_sample, samples_of_kinds
from unimedvl.config import ModelConfig
from unimedvl.data.packing import pack
from unimedvl.errors import ConfigError, DataError
from unimedvl.model import unimedvl as module_under_test
from unimedvl.model.cache import KVCache
from unimedvl.model.loss import training_loss
from unimedvl.model.mot import rotary_factors
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.profiling import OpCounter
from unimedvl.types import TextSegment, VaeSegment

# float32 on logits and velocities of order 1, through three layers, with sums taken in another order.
ATOL = 2e-5
TINY = ModelConfig.preset("tiny")
relaxed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def packed(samples, **options):
    return pack(samples, TINY, SPECIAL, **options)


@given(kinds=samples_of_kinds, seed=st.integers(0, 99))
@relaxed
def test_packed_together_equals_alone(tiny_model, kinds, seed):
    samples = [random_sample(seed + number, TINY, each) for number, each in enumerate(kinds)]
    with torch.no_grad():
        together = tiny_model(packed(samples, logits="all"))
        alone = [tiny_model(packed([sample], logits="all")) for sample in samples]
    for name in ("logits", "velocity"):
        expected = torch.cat([value for output in alone if (value := getattr(output, name)) is not None])
        torch.testing.assert_close(getattr(together, name), expected, atol=ATOL, rtol=1e-4)


def is_noised(segment):
    return isinstance(segment, VaeSegment) and segment.noised


def without_noise(sample):
    return tuple(dataclasses.replace(s, noise=None) if isinstance(s, VaeSegment) else s for s in sample)


@given(kinds=samples_of_kinds, seed=st.integers(0, 99))
@relaxed
def test_cached_in_pieces_equals_all_at_once(tiny_model, kinds, seed):
    """Segment by segment into B rows of different lengths gives what one uncached forward gives."""
    samples = [without_noise(random_sample(seed + number, TINY, each)) for number, each in enumerate(kinds)]
    cache = KVCache(TINY.llm, 2000)
    rows = [cache.open(400) for _ in samples]
    positions = [0] * len(samples)
    with torch.no_grad():
        expected = [tiny_model(packed([sample], logits="all")) for sample in samples]
        logits = [list(output.logits) for output in expected]
        velocities = [list(output.velocity) for output in expected]
        for step in range(max(map(len, samples))):
            active = [n for n, sample in enumerate(samples) if len(sample) > step]
            parts = [(samples[n][step],) for n in active]
            batch = packed(parts, start_positions=[positions[n] for n in active], logits="all")
            output = tiny_model(batch, [rows[n] for n in active])
            expected_logits, expected_velocities = [], []
            for n, (segment,), split in zip(active, parts, batch.splits, strict=True):
                text = split.length if isinstance(segment, TextSegment) else 2
                expected_logits += [logits[n].pop(0) for _ in range(text)]
                if is_noised(segment):
                    expected_velocities += [velocities[n].pop(0) for _ in range(split.length - 2)]
                else:
                    positions[n] += split.length if isinstance(segment, TextSegment) else 1
            torch.testing.assert_close(output.logits, torch.stack(expected_logits), atol=ATOL, rtol=1e-4)
            if expected_velocities:
                torch.testing.assert_close(output.velocity, torch.stack(expected_velocities), atol=ATOL, rtol=1e-4)
    assert not any(logits)
    assert not any(velocities)
    for sample, row in zip(samples, rows, strict=True):
        kept = tuple(segment for segment in sample if not is_noised(segment))
        assert len(row) == (packed([kept]).length if kept else 0)


@given(cut=st.integers(1, 8), seed=st.integers(0, 99))
@relaxed
def test_text_cut_anywhere_continues_alike(tiny_model, cut, seed):
    ids = torch.randint(0, 400, (9,), generator=torch.Generator().manual_seed(seed)).tolist()
    cache = KVCache(TINY.llm, 64)
    row = cache.open(32)
    with torch.no_grad():
        whole = tiny_model(packed([(TextSegment(tuple(ids)),)], logits="all")).logits
        first = tiny_model(packed([(TextSegment(tuple(ids[:cut])),)], logits="all"), [row]).logits
        rest = packed([(TextSegment(tuple(ids[cut:])),)], logits="all", start_positions=[cut])
        second = tiny_model(rest, [row]).logits
    torch.testing.assert_close(torch.cat([first, second]), whole, atol=ATOL, rtol=1e-4)


def test_a_fork_leaves_its_parent_untouched(tiny_model):
    prompt = random_sample(1, TINY, ["vit", "text"])
    question, image = random_sample(2, TINY, ["text"]), random_sample(3, TINY, ["noised"])
    with torch.no_grad():
        untouched = KVCache(TINY.llm, 600).open(300)
        batch = packed([prompt])
        after = int(batch.position_ids[-1]) + 1
        tiny_model(batch, [untouched])
        expected = tiny_model(packed([question], start_positions=[after], logits="all"), [untouched]).logits

        row = KVCache(TINY.llm, 600).open(300)
        tiny_model(batch, [row])
        fork = row.fork(100)
        tiny_model(packed([image], start_positions=[after]), [fork])
        tiny_model(packed([random_sample(4, TINY, ["text", "clean"])], start_positions=[after]), [fork])
        tiny_model(packed([image], start_positions=[after]), [row])  # sampling leaves no trace either
        actual = tiny_model(packed([question], start_positions=[after], logits="all"), [row]).logits
    assert torch.equal(actual, expected)


def test_a_forked_row_continues_like_its_own(tiny_model):
    prompt, question = random_sample(1, TINY, ["clean", "vit", "text"]), random_sample(2, TINY, ["text"])
    with torch.no_grad():
        batch = packed([prompt])
        after = int(batch.position_ids[-1]) + 1
        row = KVCache(TINY.llm, 600).open(300)
        tiny_model(batch, [row])
        fork = row.fork(60)
        follow = packed([question], start_positions=[after], logits="all")
        torch.testing.assert_close(
            tiny_model(follow, [fork]).logits, tiny_model(follow, [row]).logits, atol=ATOL, rtol=1e-4
        )


@pytest.mark.parametrize("logits", ["none", "all"])
@pytest.mark.parametrize(
    "kinds", [["text_loss"], ["vit", "text_loss"], ["text", "noised"], ["text"], ["clean", "text_loss"]]
)
def test_every_parameter_gets_a_gradient_whatever_the_batch_holds(tiny_model, kinds, logits):
    """Ranks that share sharded parameters must reduce the same gradients, zeros included."""
    calls = []
    hook = tiny_model.language_model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    output = tiny_model(packed([random_sample(0, TINY, kinds)], logits=logits))
    hook.remove()
    assert len(calls) == (1 if logits == "none" else 2), "the same calls on every rank"
    training_loss(output.ce_sum, output.ce_count, output.mse_sum, output.mse_count).backward()
    assert [name for name, parameter in tiny_model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in tiny_model.parameters())


def test_loss_weights_count(tiny_model):
    """Sum of w * ce over sum of w, w = 1 / sqrt(tokens predicted)."""
    samples = [random_sample(n, TINY, ["text_loss"]) for n in (1, 2)]
    with torch.no_grad():
        plain = tiny_model(packed(samples))
        weighted = tiny_model(packed(samples, reweight_ce=True))
    counts = [len(sample[0].token_ids) - 1 for sample in samples]
    assert counts[0] != counts[1]
    sums = [part.sum() for part in plain.ce.split(counts)]
    expected = sum(total * count**-0.5 for total, count in zip(sums, counts, strict=True))
    torch.testing.assert_close(weighted.ce_sum, expected)
    assert weighted.ce_count.item() == pytest.approx(sum(count**0.5 for count in counts))


def test_half_models_give_losses_too(tiny_directory, tiny_changes):
    from unimedvl.model.weights import load_model

    for half in ("visual_und", "visual_gen"):
        model = load_model(tiny_directory, **tiny_changes, **{half: False})
        output = model(packed([random_sample(0, TINY, ["text_loss"])]))
        training_loss(output.ce_sum, output.ce_count, output.mse_sum, output.mse_count).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_sums_of_a_forward_without_losses_say_why(tiny_model):
    sample = without_noise(random_sample(0, TINY, ["noised"]))
    with pytest.raises(DataError, match="made no losses.*give noised images their noise"):
        _ = tiny_model(packed([sample])).mse_sum


@pytest.mark.parametrize(("kind", "matmuls"), [("none", 0), ("selective", 0), ("full", 1)])
def test_checkpointing_recomputes_what_it_says(tiny_model, kind, matmuls):
    """Selective keeps every matrix product and attention; full computes the layers' once more."""
    batch = packed([random_sample(0, TINY, ["vit", "text_loss", "noised"])])
    counts = {}
    for each in ("none", kind):
        with OpCounter() as counter:
            output = tiny_model(batch, checkpointing=each)
            (output.ce_sum + output.mse_sum).backward()
        counts[each] = counter.ops
    products = ("aten.mm", "aten.addmm", "aten._scaled_dot_product_flash_attention_for_cpu")
    more = sum(counts[kind][name] - counts["none"][name] for name in products)
    # Per layer and expert three biased and four plain products, and one attention of both; per layer of the vision
    # encoder six and one. The last product of each is spared, since no gradient needs its result.
    assert more == matmuls * (TINY.llm.num_hidden_layers * (2 * 7 + 1 - 1) + TINY.vit.num_hidden_layers * (6 + 1 - 1))
    if kind != "none":
        assert counts[kind]["aten.silu"] == 2 * counts["none"]["aten.silu"] - (counts["none"]["aten.silu"] % 2)


def test_rotary_angles_are_float32_in_a_bfloat16_model(tiny_model):
    """bfloat16 cannot tell positions above 256 apart."""
    cos, sin = rotary_factors(torch.tensor([3000, 3001]), 16, 1e6, torch.bfloat16)
    exact = 3000 * 1e6 ** -(torch.arange(0, 16, 2, dtype=torch.float64) / 16)
    # Angles of 3000 in float32 are off by 1e-4, and the result is rounded to 8 bits.
    torch.testing.assert_close(cos[0, 0, :8].double(), exact.cos(), atol=5e-3, rtol=0)
    torch.testing.assert_close(sin[0, 0, :8].double(), exact.sin(), atol=5e-3, rtol=0)
    assert not torch.equal(cos[0], cos[1])


def test_a_cached_forward_has_no_gradients(tiny_model):
    row = KVCache(TINY.llm, 64).open(64)
    output = tiny_model(packed([random_sample(0, TINY, ["text"])], logits="last"), [row])
    assert not output.logits.requires_grad
    assert not row.cache.keys[0].requires_grad


def test_decoding_under_autocast(tiny_model):
    row = KVCache(TINY.llm, 64).open(64)
    batch = packed([random_sample(0, TINY, ["text"])], logits="last")
    expected = tiny_model(batch).logits
    with torch.autocast("cpu", torch.bfloat16):
        logits = tiny_model(batch, [row]).logits
    torch.testing.assert_close(logits.float(), expected, atol=0.1, rtol=0.05)  # 8 bits through three layers


def test_losses_are_sums_over_samples(tiny_model):
    """Two batches added equal their union: what accumulation and data parallelism rely on."""
    first, second = (random_sample(n, TINY, ["vit", "text", "text_loss", "noised"]) for n in (1, 2))
    with torch.no_grad():
        parts = [tiny_model(packed([sample])) for sample in (first, second)]
        union = tiny_model(packed([first, second]))
    for name in ("ce_sum", "ce_count", "mse_sum"):
        total = sum(getattr(part, name) for part in parts)
        torch.testing.assert_close(getattr(union, name), total, atol=1e-4, rtol=1e-5)
    assert union.mse_count == sum(part.mse_count for part in parts)


def test_bfloat16_runs_and_stays_near(tiny_model):
    sample = random_sample(5, TINY, ["clean", "vit", "text", "text_loss", "noised"])
    with torch.no_grad():
        reference = tiny_model(packed([sample], logits="all"))
        half = tiny_model.to(torch.bfloat16)(packed([sample], logits="all"))
    assert half.logits.dtype is torch.bfloat16
    assert half.ce.dtype is torch.float32
    # Each of some 30 roundings to 8 bits moves values of order 1 by 2^-9 at random.
    torch.testing.assert_close(half.logits.float(), reference.logits, atol=0.1, rtol=0.05)
    torch.testing.assert_close(half.velocity.float(), reference.velocity, atol=0.1, rtol=0.05)


@pytest.mark.parametrize(("half", "kinds"), [("visual_und", ["text", "noised"]), ("visual_gen", ["vit", "text_loss"])])
def test_half_models(tiny_directory, tiny_changes, tiny_model, half, kinds):
    from unimedvl.model.weights import load_model

    partial = load_model(tiny_directory, **tiny_changes, **{half: False})
    batch = packed([random_sample(7, TINY, kinds)], logits="all")
    with torch.no_grad():
        torch.testing.assert_close(partial(batch).logits, tiny_model(batch).logits, atol=ATOL, rtol=1e-4)
    other = {"visual_und": "vit", "visual_gen": "noised"}[half]
    with pytest.raises(ConfigError, match=f"1 images for {half}.*{half}=True"):
        partial(packed([random_sample(7, TINY, ["text", other])]))


def test_backend_choice_is_said(tiny_model, caplog):
    module_under_test._announce.cache_clear()
    with caplog.at_level(logging.INFO, logger="unimedvl"):
        tiny_model(packed([random_sample(0, TINY, ["text"])]))
        tiny_model(packed([random_sample(0, TINY, ["text"])]))
    assert [record.getMessage() for record in caplog.records] == ["attention backend: sdpa (the reference serves cpu)"]


def test_initialized_depends_on_the_seed_alone():
    state = torch.get_rng_state()
    first, again, other = (UniMedVL.initialized(TINY, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
        assert torch.equal(tensor, first.state_dict()[name.replace("_moe_gen", "")]), name
    assert not torch.equal(first.vae2llm.weight, other.vae2llm.weight)
    assert not first.llm2vae.weight.any()


def test_attention_argument_is_checked(tiny_directory, tiny_changes):
    from unimedvl.model.weights import load_model

    model = load_model(tiny_directory, attention="flash", **tiny_changes)
    with pytest.raises(ConfigError, match="'flash'.*use auto, sdpa"):
        model(packed([random_sample(0, TINY, ["text"])]))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("text_ids", 448, "text_ids holds 448, outside 0..447"),
        ("text_ids", -1, "text_ids holds -1"),
        ("vit_position_ids", 100, "vit_position_ids holds 100, outside 0..99"),
        ("latent_position_ids", 256, "latent_position_ids holds 256, outside 0..255"),
        ("ce_labels", 448, "ce_labels holds 448"),
        ("ce_index", 10_000, "ce_index holds 10000, outside"),
        ("text_index", 10_000, "text_index holds 10000, outside"),
    ],
)
def test_bad_values_are_named(tiny_model, field, value, message):
    batch = packed([random_sample(0, TINY, ["vit", "text_loss", "noised"])])
    tensor = getattr(batch, field).clone()
    tensor[-1] = value
    bad = dataclasses.replace(batch, **{field: tensor})
    with pytest.raises(DataError, match=message):
        bad.validate(TINY)
    with pytest.raises(DataError, match=message):
        tiny_model(bad)


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("vit_patches", lambda x: x[:, :-1], r"vit_patches has shape \(\d+, 587\), expected \(\d+, 588\)"),
        ("latents", lambda x: x[:-1], r"latents has shape"),
        ("position_ids", lambda x: x[:-1], r"the split lengths add to \d+ tokens, position_ids to \d+"),
        ("vit_lengths", lambda x: (x[0] + 1,), r"vit_lengths add to"),
        ("text_index", lambda x: x.clone().fill_(0), r"text_index does not ascend"),
        ("vit_index", lambda x: x - 1, r"placed twice"),
        (
            "ce_index",
            lambda x: x.clone().copy_(torch.arange(1, len(x) + 1)),
            r"ce_index holds 1, which is not in text_index",
        ),
        ("velocity_index", lambda x: x - 1, r"velocity_index holds \d+, which is not in latent_index"),
    ],
)
def test_bad_shapes_are_named(field, change, message):
    batch = packed([random_sample(0, TINY, ["vit", "text_loss", "noised"])])
    with pytest.raises(DataError, match=message):
        dataclasses.replace(batch, **{field: change(getattr(batch, field))}).validate(TINY)


def test_cache_rows_must_fit_the_batch(tiny_model):
    text, image = random_sample(0, TINY, ["text"]), random_sample(1, TINY, ["noised", "text"])
    cache = KVCache(TINY.llm, 200)
    row = cache.open(100)
    with pytest.raises(DataError, match="1 cache rows for 2 samples"):
        tiny_model(packed([text, text]), [row])
    with pytest.raises(DataError, match="same row twice"):
        tiny_model(packed([text, text]), [row, row])
    with pytest.raises(DataError, match="noised image and other segments.*pass the noised image alone"):
        tiny_model(packed([image]), [row])
    with pytest.raises(DataError, match="bfloat16 on cpu.*the model is torch.float32 on cpu.*model's config, dtype"):
        tiny_model(packed([text]), [KVCache(TINY.llm, 50, dtype=torch.bfloat16).open(50)])
    for change in ({"num_hidden_layers": 4}, {"num_key_value_heads": 4}):
        with pytest.raises(DataError, match="the cache is .*; the model is .*model's config"):
            tiny_model(packed([text]), [KVCache(dataclasses.replace(TINY.llm, **change), 50).open(50)])
    with pytest.raises(DataError, match=r"the batch is on meta, the model on cpu.*batch.to"):
        tiny_model(packed([text]).to("meta"), [row])
    with pytest.raises(ConfigError, match="checkpointing is 'half'.*none, selective, full"):
        tiny_model(packed([text]), checkpointing="half")
    small = cache.open(2)
    with pytest.raises(DataError, match="do not fit a cache row with room for 2"):
        tiny_model(packed([text]), [small])
    assert (len(row), len(small)) == (0, 0)


def test_pixels_must_be_encoded_first(tiny_model):
    with pytest.raises(DataError, match="1 latent images hold pixels.*encode_latents"):
        tiny_model(packed([(VaeSegment(pixels=torch.zeros(3, 32, 32)),)]))
