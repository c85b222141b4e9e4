"""Every backend against a mask stated by brute force, in outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.layouts import documents, reference_mask
from unimedvl.errors import ConfigError
from unimedvl.model.attention import FlexPlan, SdpaPlan, VarlenPlan, choose_backend, make_plan, varlen_kernel
from unimedvl.model.layout import Document, dense_mask, documents_of, image_documents
from unimedvl.types import Split

CPU = torch.device("cpu")
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16
# Sums of at most some 60 products of order 1 in float32, in another order.
ATOL = 1e-5


def inputs(batch, seed=0, device=CPU, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    queries = sum(document.length for document in batch)
    pool = max(start + count for document in batch for start, count in document.keys)
    shapes = ((queries, HEADS, HEAD_DIM), (pool, KV_HEADS, HEAD_DIM), (pool, KV_HEADS, HEAD_DIM))
    return [torch.randn(s, generator=generator).to(device, dtype).requires_grad_() for s in shapes]


def naive(q_THd, k_SKd, v_SKd, mask):
    """Softmax attention written out, in float64."""
    group = q_THd.shape[1] // k_SKd.shape[1]
    k_SHd, v_SHd = (x.repeat_interleave(group, dim=1).double() for x in (k_SKd, v_SKd))
    scores = torch.einsum("thd,shd->hts", q_THd.double(), k_SHd) / q_THd.shape[-1] ** 0.5
    weights = scores.masked_fill(~mask.to(scores.device), -torch.inf).softmax(dim=-1)
    return torch.einsum("hts,shd->thd", weights, v_SHd).to(q_THd.dtype)


def results(attend, tensors):
    """Output and the gradients of a fixed random projection of it."""
    out = attend(*tensors)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return out, *torch.autograd.grad((out * weight).sum(), tensors)


def loop_kernel(q, k, v, cu_q, cu_k, max_q, max_k, causal):
    """What flash-attn's variable-length kernel computes, one sequence after the other."""
    outputs = []
    for number in range(len(cu_q) - 1):
        queries = q[cu_q[number] : cu_q[number + 1]]
        keys, values = (x[cu_k[number] : cu_k[number + 1]] for x in (k, v))
        assert len(queries) <= max_q
        assert len(keys) <= max_k
        mask = torch.ones(len(queries), len(keys), dtype=torch.bool)
        outputs.append(naive(queries, keys, values, mask.tril(len(keys) - len(queries)) if causal else mask))
    return torch.cat(outputs)


@given(documents(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_sdpa_equals_brute_force(batch, seed):
    tensors = inputs(batch, seed)
    expected = results(lambda *qkv: naive(*qkv, reference_mask(batch)), tensors)
    torch.testing.assert_close(results(SdpaPlan(batch, CPU), tensors), expected, atol=ATOL, rtol=1e-5)


@given(documents(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_varlen_layout_equals_sdpa(batch, seed):
    """The kernel needs CUDA; what we hand to it does not."""
    tensors = inputs(batch, seed)
    plan = VarlenPlan(batch, CPU, kernel=loop_kernel)
    torch.testing.assert_close(results(plan, tensors), results(SdpaPlan(batch, CPU), tensors), atol=ATOL, rtol=1e-5)


@given(documents(), st.integers(0, 99))
@settings(max_examples=20, deadline=None, phases=[Phase.generate])
def test_flex_equals_sdpa(batch, seed):
    tensors = [tensor.detach() for tensor in inputs(batch, seed)]
    with torch.no_grad():
        torch.testing.assert_close(FlexPlan(batch, CPU)(*tensors), SdpaPlan(batch, CPU)(*tensors), atol=ATOL, rtol=1e-5)


def test_flex_over_several_blocks_equals_sdpa():
    """Documents and splits that begin and end inside blocks of 128."""
    parts = [((150, "causal"), (200, "full"), (70, "noise")), ((9, "full"), (190, "causal")), ((151, "noise"),)]
    batch, start = [], 0
    for splits in parts:
        length = sum(count for count, _ in splits)
        batch.append(Document(start, splits, ((start, length),)))
        start += length
    tensors = [tensor.detach() for tensor in inputs(batch)]
    expected = naive(*tensors, reference_mask(batch))
    torch.testing.assert_close(FlexPlan(batch, CPU)(*tensors), expected, atol=ATOL, rtol=1e-5)
    torch.testing.assert_close(SdpaPlan(batch, CPU)(*tensors), expected, atol=ATOL, rtol=1e-5)


def test_small_heads_are_refused_by_flex():
    with pytest.raises(ConfigError, match="heads of at least 16, the model's are 12.*use sdpa"):
        choose_backend("flex", torch.device("cuda"), torch.bfloat16, 12, training=True)


@given(documents())
@settings(max_examples=60, deadline=None)
def test_dense_mask_equals_brute_force(batch):
    expected = reference_mask(batch)
    for document in batch:
        slots = [slot for start, count in document.keys for slot in range(start, start + count)]
        rows = expected[document.start : document.start + document.length]
        assert torch.equal(dense_mask(document), rows[:, slots])


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["sdpa", "flex", "varlen"])
@given(batch=documents(), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_backends_on_cuda(backend, batch, seed):
    device = torch.device("cuda")
    if backend == "varlen" and varlen_kernel() is None:
        pytest.skip("no varlen kernel in this environment")
    tensors = inputs(batch, seed, device, torch.bfloat16)
    expected = results(lambda *qkv: naive(*qkv, reference_mask(batch)), tensors)
    # bfloat16 keeps 8 bits: 2^-8 of values of order 1, and gradients add a few of them.
    torch.testing.assert_close(results(make_plan(backend, batch, device), tensors), expected, atol=3e-2, rtol=3e-2)


def test_no_document_keeps_the_graph():
    """Without images the vision encoder still runs, and all its parameters get their gradient."""
    for plan in (SdpaPlan([], CPU), VarlenPlan([], CPU, kernel=loop_kernel), FlexPlan([], CPU)):
        tensors = [torch.zeros(0, HEADS, HEAD_DIM, requires_grad=True) for _ in range(3)]
        if isinstance(plan, FlexPlan):
            with torch.no_grad():
                assert plan(*tensors).shape == (0, HEADS, HEAD_DIM)
            continue
        out, *gradients = results(plan, tensors)
        assert out.shape == (0, HEADS, HEAD_DIM)
        assert all(gradient.shape == (0, HEADS, HEAD_DIM) for gradient in gradients)


def test_masks_are_made_only_where_needed():
    plan = SdpaPlan(
        [
            Document(0, ((5, "causal"),), ((0, 5),)),
            Document(5, ((4, "full"),), ((5, 9),)),
            Document(9, ((1, "causal"),), ((14, 8),)),
            Document(10, ((3, "causal"),), ((22, 8),)),
        ],
        CPU,
    )
    assert plan.masks[:3] == ["causal", None, None]
    assert plan.masks[3].shape == (3, 8)


def test_keys_without_forks_are_read_in_place(monkeypatch):
    """A context in one run of slots is not copied for attention."""
    seen = []
    original = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda q, k, v, **kw: seen.append(k) or original(q, k, v, **kw)
    )
    pool = torch.randn(64, KV_HEADS, HEAD_DIM)
    SdpaPlan([Document(0, ((1, "causal"),), ((3, 50),))], CPU)(torch.randn(1, HEADS, HEAD_DIM), pool, pool)
    assert seen[0].untyped_storage().data_ptr() == pool.untyped_storage().data_ptr()


def test_documents_of_groups_splits():
    splits = (Split(0, 3, "causal"), Split(0, 4, "full"), Split(1, 2, "noise"))
    first, second = documents_of(splits)
    assert first == Document(0, ((3, "causal"), (4, "full")), ((0, 7),))
    assert second == Document(7, ((2, "noise"),), ((7, 2),))
    assert [document.start for document in image_documents((4, 6, 2))] == [0, 4, 10]


@pytest.mark.parametrize(
    ("name", "device", "dtype", "training", "message"),
    [
        ("sdap", "cpu", torch.float32, False, "sdap.*use auto, sdpa, flex, varlen"),
        ("varlen", "cpu", torch.bfloat16, False, "needs CUDA.*use sdpa or flex"),
        ("varlen", "cuda", torch.float32, False, "needs bfloat16 or float16.*use sdpa or flex"),
        ("flex", "cpu", torch.float32, True, "no backward on the CPU.*use sdpa"),
    ],
)
def test_refused_requests_name_the_remedy(name, device, dtype, training, message):
    with pytest.raises(ConfigError, match=message):
        choose_backend(name, torch.device(device), dtype, 64, training=training)


def test_flex_refuses_gradients_on_the_cpu():
    batch = [Document(0, ((4, "causal"),), ((0, 4),))]
    with pytest.raises(ConfigError, match="no backward on the CPU"):
        FlexPlan(batch, CPU)(*inputs(batch))


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "training", "expected"),
    [
        ("cpu", torch.float32, 64, True, "sdpa"),
        ("cuda", torch.bfloat16, 64, True, "flex"),
        ("cuda", torch.bfloat16, 12, True, "sdpa"),
        ("cuda", torch.float32, 64, False, "sdpa"),
    ],
)
def test_auto_picks_by_device(device, dtype, head_dim, training, expected):
    backend, reason = choose_backend("auto", torch.device(device), dtype, head_dim, training=training)
    assert backend == expected
    assert reason
