"""The optimizer and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from unimedvl.train.settings import OptimizerSettings


def adamw(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW over the parameters that train."""
    return torch.optim.AdamW(
        [parameter for parameter in parameters if parameter.requires_grad],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )


def learning_rate(settings: OptimizerSettings, step: int, steps: int) -> float:
    """Of the step numbered from 0: linear warm-up, then constant, or half a cosine to ``final_ratio``."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - settings.warmup) / max(1, steps - settings.warmup)
    falling = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return settings.learning_rate * (settings.final_ratio + (1 - settings.final_ratio) * falling)
