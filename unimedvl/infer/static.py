"""Decoding with fixed shapes: every token runs the same kernels on the same buffers, so a CUDA graph replays them.

Launching some 1,200 small kernels a token costs more than running them; a graph is one launch. Elsewhere the same step
runs uncaptured, which is how it is tested against the eager path.

Shape letters: B sessions, C slots of each, K key/value heads, d head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from unimedvl.infer.session import Engine, Session
from unimedvl.model.mot import Stage, Streams, rotary_factors


def fits(engine: Engine, sessions: Sequence[Session], budgets: Sequence[int]) -> bool:
    """Whether the sessions lie in the cache as the static step needs them.

    Unforked, of one size, side by side, each with room for its budget of tokens and one more: a session that is done
    goes on writing one slot behind its end.
    """
    if any(session.row.room <= budget for session, budget in zip(sessions, budgets, strict=True)):
        return False
    runs = [session.row.region for session in sessions]
    if len(set(engine.model.layer_devices)) > 1 or any(run is None for run in runs):
        return False
    starts = [run[0] for run in runs if run is not None]
    sizes = {run[1] for run in runs if run is not None}
    return len(sizes) == 1 and starts == [starts[0] + n * min(sizes) for n in range(len(starts))]


@dataclass(frozen=True)
class _StaticPlan:
    """One query per session over all its slots, those behind its end masked.

    ``mask``, bool (B, 1, 1, C), is filled anew before every step.
    """

    first: int
    mask: Tensor

    def __call__(self, q_BHd: Tensor, k_SKd: Tensor, v_SKd: Tensor) -> Tensor:
        rows, slots = self.mask.shape[0], self.mask.shape[-1]
        k_BKCd, v_BKCd = (
            pool[self.first : self.first + rows * slots].unflatten(0, (rows, slots)).transpose(1, 2)
            for pool in (k_SKd, v_SKd)
        )
        # Query heads that share a key head become rows of one query, so keys are read once.
        q_BKGd = q_BHd.unflatten(1, (k_SKd.shape[1], -1))
        out_BKGd = F.scaled_dot_product_attention(q_BKGd, k_BKCd, v_BKCd, attn_mask=self.mask)
        return out_BKGd.flatten(1, 2)


class StaticDecoder:
    """The step that decodes one token for every session.

    Args:
        sessions: as :func:`fits` wants them; they go on behind what was fed when :meth:`finish` is called.
    """

    def __init__(self, engine: Engine, sessions: Sequence[Session]) -> None:
        self.engine, self.sessions = engine, list(sessions)
        device = engine.model.device
        regions = [session.row.region for session in sessions]
        assert all(region is not None for region in regions), "see fits"
        starts, sizes = zip(*(region for region in regions if region is not None), strict=True)
        self.starts = torch.tensor(starts, device=device)
        self.lengths = torch.tensor([len(session) for session in sessions], device=device)
        self.positions = torch.tensor([session.position for session in sessions], device=device)
        self.tokens = torch.zeros(len(sessions), dtype=torch.int64, device=device)
        self.active = torch.ones(len(sessions), dtype=torch.int64, device=device)
        self.slots = torch.arange(sizes[0], device=device)
        self.plan = _StaticPlan(starts[0], torch.empty(len(sessions), 1, 1, sizes[0], dtype=torch.bool, device=device))
        self.fed = [0] * len(sessions)
        self.logits: Tensor | None = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def step(self, tokens: Sequence[int], active: Sequence[bool]) -> Tensor:
        """Feed one token to every active session.

        Args:
            tokens: one for each session; those of inactive ones do not matter.

        Returns:
            logits (B, vocabulary), in a buffer that the next step overwrites.
        """
        self.tokens.copy_(torch.tensor(tokens), non_blocking=True)
        self.active.copy_(torch.tensor(active, dtype=torch.int64), non_blocking=True)
        self.fed = [count + is_active for count, is_active in zip(self.fed, active, strict=True)]
        if self.tokens.device.type != "cuda":
            return self._forward()
        if self.graph is None:
            self._capture()
        assert self.graph is not None
        assert self.logits is not None
        self.graph.replay()
        return self.logits

    def finish(self) -> None:
        """Keep what was fed in the sessions."""
        for session, count in zip(self.sessions, self.fed, strict=True):
            session.row.advance(count)
            session.position += count

    def _capture(self) -> None:
        """Record the step; the runs that warm it up are taken back."""
        state = (self.lengths, self.positions)
        saved = [tensor.clone() for tensor in state]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._forward()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = self._forward()
        for tensor, value in zip(state, saved, strict=True):
            tensor.copy_(value)

    def _forward(self) -> Tensor:
        model, llm = self.engine.model, self.engine.model.config.llm
        new_slots = self.starts + self.lengths
        self.plan.mask.copy_((self.slots <= self.lengths[:, None])[:, None, None])
        cos, sin = rotary_factors(self.positions, llm.head_dim, llm.rope_theta, model.dtype)
        pool = self.sessions[0].row.cache

        def write(layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            pool.keys[layer].index_copy_(0, new_slots, keys)
            pool.values[layer].index_copy_(0, new_slots, values)
            return pool.keys[layer], pool.values[layer]

        stage = Stage(None, self.slots, self.slots, cos, sin, self.plan, write)
        hidden = Streams(model.language_model.model.embed_tokens(self.tokens), None)
        hidden = model.language_model.model(hidden, lambda device: stage)
        self.lengths += self.active
        self.positions += self.active
        return model.language_model.lm_head(hidden.und)
