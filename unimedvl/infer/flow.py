"""Images sampled in step: the guidance branches of all of them are rows of one packed forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unimedvl.errors import ConfigError, DataError
from unimedvl.geometry import patchify, unpatchify
from unimedvl.infer.sampling import SOLVERS, ImageOptions
from unimedvl.infer.session import Engine, Session
from unimedvl.types import PackedBatch, VaeSegment


@dataclass(frozen=True)
class Contexts:
    """What an image is made from: everything; everything before the last text; and the texts only."""

    full: Session
    without_text: Session | None = None
    without_images: Session | None = None


class FlowSampler:
    """One image on its way from noise.

    Args:
        contexts: the sessions that guidance needs; sampling leaves no trace in them.
        latent: x at the first timestep, float32 (C, h, w): noise.

    Raises:
        ConfigError: guidance is on and one of its contexts is missing.
    """

    def __init__(self, engine: Engine, contexts: Contexts, options: ImageOptions, latent: Tensor) -> None:
        guidance, self.config = options.guidance, engine.model.config
        for needed, session, what in (
            (guidance.uses_text_branch, contexts.without_text, "text"),
            (guidance.uses_image_branch, contexts.without_images, "image"),
        ):
            if needed and session is None:
                raise ConfigError(
                    f"{what} guidance is on, but its context is missing",
                    where="contexts",
                    remedy=f"give the session without the {what}, or a {what}_scale of 1",
                )
        self.contexts, self.guidance = contexts, guidance
        patch = self.config.latent_patch_size
        self.grid = (latent.shape[1] // patch, latent.shape[2] // patch)
        self.x_LC = patchify(latent.float(), patch).to(engine.model.device)
        self.solver = SOLVERS[options.solver](options.steps, options.shift)
        self.taken = 0

    @property
    def done(self) -> bool:
        """Whether the image has arrived."""
        return self.taken == len(self.solver.timesteps)

    @property
    def timestep(self) -> float:
        """Where it is: 1 is noise, 0 the image."""
        return self.solver.timesteps[self.taken]

    @property
    def latent(self) -> Tensor:
        """X as float32 (C, h, w)."""
        return unpatchify(self.x_LC, *self.grid, self.config.latent_patch_size)

    def branches(self) -> list[Session]:
        """The sessions that the present step needs, the full context first."""
        if not self.guidance.active(self.timestep):
            return [self.contexts.full]
        sessions = [self.contexts.full, self.contexts.without_text]
        if self.guidance.uses_image_branch:
            sessions.append(self.contexts.without_images)
        return [session for session in sessions if session is not None]

    def advance(self, velocities: Sequence[Tensor]) -> None:
        """Take a step with the velocity (L, C) of every branch."""
        full, *others = (velocity.float() for velocity in velocities)
        if others:
            full = self.guidance.combine(full, others[0], others[1] if len(others) > 1 else None)
        self.x_LC = self.solver.advance(self.x_LC, full)
        self.taken += 1


class FlowLoop:
    """Steps any number of samplers together, each at its own timestep and size."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._layout: tuple[tuple[int, ...], PackedBatch] | None = None

    def step(self, samplers: Sequence[FlowSampler]) -> None:
        """One forward and one solver step for every sampler that is not done."""
        samplers = [sampler for sampler in samplers if not sampler.done]
        if not samplers:
            return
        branches = [sampler.branches() for sampler in samplers]
        sessions = [session for own in branches for session in own]
        output = self.engine.run(sessions, self._batch(samplers, branches))
        assert output.velocity is not None
        lengths = [len(sampler.x_LC) for sampler, own in zip(samplers, branches, strict=True) for _ in own]
        velocities = iter(output.velocity.split(lengths))
        for sampler, own in zip(samplers, branches, strict=True):
            sampler.advance([next(velocities) for _ in own])

    def _batch(self, samplers: Sequence[FlowSampler], branches: Sequence[Sequence[Session]]) -> PackedBatch:
        """The noised images behind their contexts; the layout of the step before is used again if it fits."""
        rows = [sampler for sampler, own in zip(samplers, branches, strict=True) for _ in own]
        sessions = [session for own in branches for session in own]
        key = tuple(id(row) for row in (*rows, *sessions))
        if self._layout is None or self._layout[0] != key:
            parts = [[VaeSegment(latent=row.latent.cpu(), noised=True)] for row in rows]
            self._layout = key, self.engine.pack(sessions, parts)
        device = self.engine.model.device
        return replace(
            self._layout[1],
            latents=torch.cat([row.x_LC for row in rows]),
            timesteps=torch.tensor([row.timestep for row in rows]).to(device, non_blocking=True),
        )


def sample(engine: Engine, samplers: Sequence[FlowSampler], on_step: Callable[[], None] | None = None) -> None:
    """Bring all samplers to their image."""
    loop = FlowLoop(engine)
    while not all(sampler.done for sampler in samplers):
        loop.step(samplers)
        if on_step is not None:
            on_step()


def noise_for(engine: Engine, size: tuple[int, int], seed: int) -> Tensor:
    """Standard normal float32 (C, h, w) for an image of (width, height) pixels, drawn on the CPU.

    Raises:
        DataError: the size does not divide into latent tokens, or exceeds the position table.
    """
    config = engine.model.config
    stride, limit = config.latent_stride, config.max_latent_size * config.latent_stride
    width, height = size
    if min(size) < stride or width % stride or height % stride:
        raise DataError(
            f"size {width} x {height}", where="size", remedy=f"both sides must be positive multiples of {stride}"
        )
    if max(size) > limit:
        raise DataError(f"size {width} x {height}", where="size", remedy=f"both sides must be at most {limit}")
    generator = torch.Generator().manual_seed(seed)
    downsample = config.vae.downsample
    return torch.randn(config.vae.latent_channels, height // downsample, width // downsample, generator=generator)
