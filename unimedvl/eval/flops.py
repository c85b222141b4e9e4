"""Floating point operations of inference, counted from the operators that the model runs on the meta device.

Two operations a multiply and add; matrix products, attention and convolutions count, what is linear in tokens times
width does not. Attention is counted as the reference backend runs it: every query with every key of its context, which
for a noised image is exactly what it sees, and for a causal text of T tokens up to twice that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from unimedvl.config import ModelConfig
from unimedvl.infer.sampling import SOLVERS, ImageOptions
from unimedvl.infer.session import Engine, Session
from unimedvl.model.meta import on_meta
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.model.vae import Autoencoder
from unimedvl.types import Segment, SpecialTokens, TextSegment, VaeSegment, VitSegment

_SPECIAL = SpecialTokens(bos=0, eos=1, vision_start=2, vision_end=3)
_ATTENTION = ("bmm", "baddbmm", "scaled_dot_product", "flash", "efficient")


@dataclass(frozen=True)
class Flops:
    """Operations of one thing.

    Attributes:
        linear: of layers with weights; ``attention``: of scores and values.
    """

    linear: float
    attention: float

    @property
    def total(self) -> float:
        """Both."""
        return self.linear + self.attention

    def __add__(self, other: Flops) -> Flops:
        """Of one after the other."""
        return Flops(self.linear + other.linear, self.attention + other.attention)

    def __mul__(self, times: float) -> Flops:
        """Of a repetition."""
        return Flops(self.linear * times, self.attention * times)


class FlopCount:
    """Counts for a model of this config; nothing is allocated."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        with on_meta():
            self.engine = Engine(UniMedVL(config, "sdpa").to(torch.bfloat16).eval(), _SPECIAL)

    def flow_pass(self, size: tuple[int, int], contexts: Sequence[int]) -> Flops:
        """One forward of the flow for an image of (width, height) pixels, a branch for each length of context."""
        latent = torch.zeros(
            self.config.vae.latent_channels, *(side // self.config.vae.downsample for side in size[::-1])
        )
        sessions = self._sessions(contexts, room=self._latent_tokens(size) + 2)
        batch = self.engine.pack(sessions, [[VaeSegment(latent=latent, noised=True)] for _ in sessions])
        return counted(lambda: self.engine.run(sessions, batch))

    def image(self, size: tuple[int, int], prompt_tokens: int, options: ImageOptions) -> dict[str, Flops]:
        """An image from a text: ``context``, ``flow`` (all its passes), ``decoding`` by the autoencoder."""
        guidance, solver = options.guidance, SOLVERS[options.solver](options.steps, options.shift)
        guided = sum(guidance.active(timestep) for timestep in solver.timesteps)
        plain = len(solver.timesteps) - guided
        contexts = [prompt_tokens, 0, prompt_tokens] if guidance.uses_image_branch else [prompt_tokens, 0]
        flow = self.flow_pass(size, [prompt_tokens]) * plain
        if guided:
            flow += self.flow_pass(size, contexts) * guided
        return {"context": self.context(prompt_tokens), "flow": flow, "decoding": self.decoding(size)}

    def answer(self, image_size: tuple[int, int] | None, prompt_tokens: int, new_tokens: int) -> dict[str, Flops]:
        """A text about an image: ``context`` (image and prompt), ``text`` (one forward a token)."""
        (session,) = self._sessions([0], room=self._patches(image_size) + prompt_tokens + new_tokens + 8)
        parts: list[Segment] = []
        if image_size is not None:
            parts.append(VitSegment(torch.zeros(3, *image_size[::-1])))
        parts.append(_text(prompt_tokens))
        context = counted(lambda: self.engine.append([session], [parts], logits="last"))
        # The work for a token grows by the same amount with each token before it: the mean of first and last is exact.
        first = counted(lambda: self.engine.append([session], [[_text(1)]], logits="last"))
        self.engine.append([session], [[_text(max(1, new_tokens - 2))]])
        last = counted(lambda: self.engine.append([session], [[_text(1)]], logits="last"))
        return {"context": context, "text": (first + last) * (new_tokens / 2)}

    def context(self, tokens: int) -> Flops:
        """A text of so many tokens read once."""
        (session,) = self._sessions([0], room=tokens)
        return counted(lambda: self.engine.append([session], [[_text(tokens)]]))

    def decoding(self, size: tuple[int, int]) -> Flops:
        """A latent to pixels."""
        with on_meta():
            autoencoder = Autoencoder(self.config.vae)
        vae, (width, height) = self.config.vae, size
        latent = torch.zeros(1, vae.latent_channels, height // vae.downsample, width // vae.downsample, device="meta")
        with torch.inference_mode():
            return counted(lambda: autoencoder.decode(latent))

    def _sessions(self, contexts: Sequence[int], room: int) -> list[Session]:
        cache = self.engine.cache(sum(contexts) + len(contexts) * (room + 8))
        sessions = [Session(cache.open(length + room + 8)) for length in contexts]
        self.engine.append(sessions, [[_text(length)] if length else [] for length in contexts])
        return sessions

    def _latent_tokens(self, size: tuple[int, int]) -> int:
        return (size[0] // self.config.latent_stride) * (size[1] // self.config.latent_stride)

    def _patches(self, size: tuple[int, int] | None) -> int:
        patch = self.config.vit.patch_size
        return 0 if size is None else (size[0] // patch) * (size[1] // patch) + 2


def counted(work: Callable[[], Any]) -> Flops:
    """What ``work`` costs."""
    with FlopCounterMode(display=False) as counter:
        work()
    linear = attention = 0.0
    for operator, count in counter.get_flop_counts().get("Global", {}).items():
        if any(name in str(operator) for name in _ATTENTION):
            attention += count
        else:
            linear += count
    return Flops(linear, attention)


def _text(tokens: int) -> TextSegment:
    return TextSegment((0,) * tokens)
