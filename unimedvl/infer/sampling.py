"""Time grid, guidance and solvers of the rectified flow (paper section 3.2). Pure numbers: no model, no cache.

Shape letters: L latent tokens of one image, C values of one latent token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from unimedvl.errors import ConfigError
from unimedvl.schedules import shift_timesteps

Renorm = Literal["global", "channel", "text_channel"]
RENORMS: tuple[Renorm, ...] = ("global", "channel", "text_channel")
SolverName = Literal["euler", "unipc", "dpm++"]


def time_grid(count: int, shift: float) -> Tensor:
    """``count`` float32 timesteps from 1 (noise) to 0 (image), crowded near the noise for ``shift`` > 1.

    Between them lie ``count`` - 1 Euler steps, as in the published sampler.

    Raises:
        ConfigError: fewer than two timesteps, which would return the noise itself.
    """
    if count < 2:
        raise ConfigError(f"{count} timesteps", where="steps", remedy="use at least 2; one would return pure noise")
    return shift_timesteps(torch.linspace(1, 0, count), shift)


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance by up to two weaker contexts.

    Attributes:
        text_scale: weight of what the last text adds; at most 1 switches all guidance off.
        image_scale: weight of what the images add; at most 1 switches that term off.
        interval: guidance acts for timesteps in (low, high].
        renorm: what keeps the guided velocity from growing: one factor per image (``global``), one per token
            (``channel``), or one per token before the image term (``text_channel``).
        renorm_min: smallest factor.
    """

    text_scale: float = 1.0
    image_scale: float = 1.0
    interval: tuple[float, float] = (0.4, 1.0)
    renorm: Renorm = "global"
    renorm_min: float = 0.0

    def __post_init__(self) -> None:
        if self.renorm not in RENORMS:
            raise ConfigError(f"renorm is {self.renorm!r}", where="guidance", remedy=f"use {', '.join(RENORMS)}")
        for name in ("text_scale", "image_scale"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"{name} is {getattr(self, name)}", where="guidance", remedy="give a number")
        if not 0 <= self.renorm_min <= 1:
            raise ConfigError(f"renorm_min is {self.renorm_min}", where="guidance", remedy="give 0 to 1")
        if not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise ConfigError(f"interval is {self.interval}", where="guidance", remedy="give low, high in 0 to 1")

    @property
    def uses_text_branch(self) -> bool:
        """Whether the velocity without the last text is needed at all."""
        return self.text_scale > 1

    @property
    def uses_image_branch(self) -> bool:
        """Whether the velocity without images is needed at all."""
        return self.uses_text_branch and self.image_scale > 1

    def active(self, timestep: float) -> bool:
        """Whether guidance acts at this timestep; compared in float32, as published."""
        low, high = torch.tensor(self.interval, dtype=torch.float32)
        return self.uses_text_branch and bool(low < timestep <= high)

    def combine(self, full: Tensor, without_text: Tensor, without_images: Tensor | None) -> Tensor:
        """The guided velocity, float32 (..., L, C), of one image or of a batch along the leading dimensions."""
        full, without_text = full.float(), without_text.float()
        guided = without_text + self.text_scale * (full - without_text)
        if self.renorm == "text_channel":
            guided = self._held(guided, full, (-1,))
        if self.image_scale > 1:
            assert without_images is not None, "an image scale above 1 needs the branch without images"
            without_images = without_images.float()
            guided = without_images + self.image_scale * (guided - without_images)
        if self.renorm == "global":
            guided = self._held(guided, full, (-2, -1))
        elif self.renorm == "channel":
            guided = self._held(guided, full, (-1,))
        return guided

    def _held(self, guided: Tensor, reference: Tensor, dims: tuple[int, ...]) -> Tensor:
        """``guided`` scaled down to the norm of ``reference`` over ``dims``."""
        ratio = reference.norm(dim=dims, keepdim=True) / (guided.norm(dim=dims, keepdim=True) + 1e-8)
        return guided * ratio.clamp(self.renorm_min, 1.0)


# Guidance as published, by kind of task.
PRESETS: dict[str, Guidance] = {
    "t2i": Guidance(4.0, 1.0, (0.4, 1.0), "global"),
    "edit": Guidance(4.0, 2.0, (0.0, 1.0), "text_channel"),
    "none": Guidance(),
}


@dataclass(frozen=True)
class ImageOptions:
    """How an image is sampled.

    Attributes:
        steps: timesteps of the grid; there is one model pass less (see :func:`time_grid`).
        shift: of the time grid.
        seed: of the noise, drawn on the CPU, so that neither device nor batch changes the picture.
        solver: ``euler`` as published; ``unipc`` and ``dpm++`` (diffusers) need fewer steps.
    """

    guidance: Guidance = field(default_factory=lambda: PRESETS["t2i"])
    steps: int = 50
    shift: float = 3.0
    seed: int = 0
    solver: SolverName = "euler"

    def __post_init__(self) -> None:
        time_grid(self.steps, 1.0)
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}", where="image options", remedy="give 0 or more, below 2^63")
        if not 0 < self.shift < math.inf:
            raise ConfigError(f"shift is {self.shift}", where="image options", remedy="give a positive number")
        if self.solver not in SOLVERS:
            raise ConfigError(f"solver is {self.solver!r}", where="image options", remedy=f"use {', '.join(SOLVERS)}")


class Solver(Protocol):
    """Walks an image along the path, one velocity at a time.

    ``timesteps`` are those at which it wants a velocity, from noise to image.
    """

    timesteps: list[float]

    def advance(self, x: Tensor, velocity: Tensor) -> Tensor:
        """The image (L, C) at the next timestep, from that at the present one and its velocity, both float32."""
        ...


class Euler:
    """x <- x - v dt over the time grid, as published."""

    def __init__(self, steps: int, shift: float) -> None:
        grid = time_grid(steps, shift)
        self.timesteps = grid[:-1].tolist()
        self._widths = iter((grid[:-1] - grid[1:]).tolist())

    def advance(self, x: Tensor, velocity: Tensor) -> Tensor:
        """One Euler step."""
        return x - velocity * next(self._widths)


class _Multistep:
    """One of diffusers' multistep solvers for flow matching, on the same time grid."""

    def __init__(self, scheduler: Any, **grid: Any) -> None:
        self._scheduler = scheduler
        with np.errstate(divide="ignore"):  # in a table for diffusion that flow matching does not read
            scheduler.set_timesteps(**grid)
        self.timesteps = scheduler.sigmas[:-1].tolist()
        self._passes = iter(scheduler.timesteps)

    def advance(self, x: Tensor, velocity: Tensor) -> Tensor:
        """One step of the scheduler."""
        return self._scheduler.step(velocity, next(self._passes), x, return_dict=False)[0]


def _unipc(steps: int, shift: float) -> Solver:
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    return _Multistep(scheduler, sigmas=torch.linspace(1, 0, steps)[:-1].double().numpy())


def _dpm(steps: int, shift: float) -> Solver:
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    return _Multistep(scheduler, num_inference_steps=steps - 1)


SOLVERS: dict[str, Callable[[int, float], Solver]] = {"euler": Euler, "unipc": _unipc, "dpm++": _dpm}
