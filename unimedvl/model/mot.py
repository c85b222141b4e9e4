"""Qwen2.5 as a mixture of transformers: two experts, one attention (paper section 3.2).

Und tokens (text, ViT patches) and gen tokens (latents) are two tensors from the first layer to the last. They
meet only to form queries, keys and values in sequence order. Module names are those of the released checkpoint,
where the gen expert's carry the suffix ``_moe_gen``.

Shape letters: U und tokens, G gen tokens, T = U + G packed tokens, D hidden, H heads, K key/value heads,
d head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unimedvl.config import LlmConfig
from unimedvl.model.attention import AttentionPlan
from unimedvl.model.linear import Linear
from unimedvl.model.loss import LMHead
from unimedvl.model.recompute import Checkpointing, layer_runner

GEN = "_moe_gen"


class Streams(NamedTuple):
    """Hidden states by expert: und (U, D), gen (G, D).

    ``gen`` is None when the gen expert must not run; a tensor of zero rows runs it on nothing.
    """

    und: Tensor
    gen: Tensor | None

    def each(self) -> list[tuple[Tensor, str]]:
        """The streams that run, each with its expert's name suffix."""
        return [(self.und, "")] if self.gen is None else [(self.und, ""), (self.gen, GEN)]


def streams(parts: list[Tensor]) -> Streams:
    """Inverse of :meth:`Streams.each`."""
    return Streams(parts[0], parts[1] if len(parts) > 1 else None)


@dataclass(frozen=True)
class Stage:
    """What all layers of one forward share.

    Attributes:
        order: int64 (T,), row of each packed token in und rows followed by gen rows; None if they are all und.
        und_index, gen_index: int64 (U,), (G,), packed places of the rows; unused while ``order`` is None.
        cos, sin: (T, 1, d) rotary factors.
        plan: the attention of this batch.
        write: puts a layer's new keys and values into the cache and returns its pools; identity without cache.
    """

    order: Tensor | None
    und_index: Tensor
    gen_index: Tensor
    cos: Tensor
    sin: Tensor
    plan: AttentionPlan
    write: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]

    def merge(self, parts: list[Tensor]) -> Tensor:
        """Rows of both streams in sequence order."""
        return parts[0] if self.order is None else torch.cat(parts).index_select(0, self.order)

    def divide(self, packed: Tensor, count: int) -> list[Tensor]:
        """Rows of a packed tensor by stream, ``count`` streams."""
        if self.order is None:
            return [packed, packed[:0]][:count]
        return [packed.index_select(0, index) for index in (self.und_index, self.gen_index)[:count]]


StageOn = Callable[[torch.device], Stage]


def rotary_factors(position_ids: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cos and sin, each (T, 1, d) in ``dtype``, of half-split rotary embedding; angles are float32."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=position_ids.device) / head_dim
    angles = position_ids[:, None].float() * theta**-exponent
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x_THd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (T, heads, d)."""
    first, second = x_THd.chunk(2, dim=-1)
    return torch.addcmul(x_THd * cos, torch.cat([-second, first], dim=-1), sin)


class SelfAttention(nn.Module):
    """Projections of both experts around one joint attention."""

    def __init__(self, config: LlmConfig, index: int, experts: tuple[str, ...]) -> None:
        super().__init__()
        self.index = index
        self.head_dim = config.head_dim
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        hidden, queries, keys = config.hidden_size, config.hidden_size, self.num_kv_heads * self.head_dim
        for suffix in experts:
            self.add_module(f"q_proj{suffix}", Linear(hidden, queries))
            self.add_module(f"k_proj{suffix}", Linear(hidden, keys))
            self.add_module(f"v_proj{suffix}", Linear(hidden, keys))
            self.add_module(f"o_proj{suffix}", Linear(queries, hidden, bias=False))
            self.add_module(f"q_norm{suffix}", nn.RMSNorm(self.head_dim, eps=config.rms_norm_eps))
            self.add_module(f"k_norm{suffix}", nn.RMSNorm(self.head_dim, eps=config.rms_norm_eps))

    def forward(self, hidden: Streams, stage: Stage) -> Streams:
        """Normed hidden states to the attention's contribution, both per stream."""
        # 1. Each expert projects its rows; queries and keys are normed per head and travel as one tensor.
        projected = [self._project(x_ND, suffix) for x_ND, suffix in hidden.each()]
        # 2. Sequence order, and one rotation for queries and keys.
        qk_TAd = rotate(stage.merge([qk for qk, _ in projected]), stage.cos, stage.sin)
        v_TKd = stage.merge([v for _, v in projected])
        q_THd, k_TKd = qk_TAd.split([self.num_heads, self.num_kv_heads], dim=1)
        # 3. Joint attention over the cache's pools, or over the batch itself.
        k_SKd, v_SKd = stage.write(self.index, k_TKd, v_TKd)
        out_TA = stage.plan(q_THd, k_SKd, v_SKd).flatten(1)
        # 4. Back to the experts.
        rows = stage.divide(out_TA, len(projected))
        outputs = [self.get_submodule(f"o_proj{e}")(x) for x, (_, e) in zip(rows, hidden.each(), strict=True)]
        return streams(outputs)

    def _project(self, x_ND: Tensor, suffix: str) -> tuple[Tensor, Tensor]:
        """Queries and keys (N, H + K, d), normed per head, and values (N, K, d) of one expert."""

        def heads(name: str) -> Tensor:
            return self.get_submodule(name + suffix)(x_ND).unflatten(-1, (-1, self.head_dim))

        q_NHd = self.get_submodule(f"q_norm{suffix}")(heads("q_proj"))
        k_NKd = self.get_submodule(f"k_norm{suffix}")(heads("k_proj"))
        return torch.cat([q_NHd, k_NKd], dim=1), heads("v_proj")


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_ND: Tensor) -> Tensor:
        """(N, D) to (N, D)."""
        return self.down_proj(F.silu(self.gate_proj(x_ND)) * self.up_proj(x_ND))


class MoTLayer(nn.Module):
    """One decoder layer of both experts."""

    def __init__(self, config: LlmConfig, index: int, experts: tuple[str, ...]) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config, index, experts)
        for suffix in experts:
            self.add_module(f"mlp{suffix}", MLP(config))
            for name in ("input_layernorm", "post_attention_layernorm"):
                self.add_module(name + suffix, nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps))

    def forward(self, hidden: Streams, stage_on: StageOn) -> Streams:
        """Residual stream in, residual stream out, on the device of ``hidden``."""
        stage = stage_on(hidden.und.device)
        attended = self.self_attn(self._norm("input_layernorm", hidden), stage)
        hidden = streams([x + y for (x, _), (y, _) in zip(hidden.each(), attended.each(), strict=True)])
        normed = self._norm("post_attention_layernorm", hidden)
        return streams(
            [
                x + self.get_submodule(f"mlp{suffix}")(y)
                for (x, suffix), (y, _) in zip(hidden.each(), normed.each(), strict=True)
            ]
        )

    def _norm(self, name: str, hidden: Streams) -> Streams:
        return streams([self.get_submodule(name + suffix)(x) for x, suffix in hidden.each()])


class MoTDecoder(nn.Module):
    """Token embedding, layers, and a final norm per expert."""

    def __init__(self, config: LlmConfig, experts: tuple[str, ...]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(MoTLayer(config, index, experts) for index in range(config.num_hidden_layers))
        for suffix in experts:
            self.add_module(f"norm{suffix}", nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps))

    def forward(self, hidden: Streams, stage_on: StageOn, checkpointing: Checkpointing = "none") -> Streams:
        """Embedded tokens to normed final states.

        ``stage_on`` gives the stage for a device: layers may lie on several.
        ``checkpointing``: what the backward recomputes, see :func:`unimedvl.model.recompute.layer_runner`.
        """
        run = layer_runner(checkpointing if torch.is_grad_enabled() else "none")
        for layer in self.layers:
            hidden = run(layer, hidden, stage_on)
        return streams([self.get_submodule(f"norm{suffix}")(x) for x, suffix in hidden.each()])


class LanguageModel(nn.Module):
    """The decoder under the released checkpoint's names, with its output head."""

    def __init__(self, config: LlmConfig, experts: tuple[str, ...]) -> None:
        super().__init__()
        self.model = MoTDecoder(config, experts)
        self.lm_head = LMHead(config.hidden_size, config.vocab_size)
