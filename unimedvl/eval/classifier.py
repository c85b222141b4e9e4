"""A small convolutional network that tells modalities apart, trained on real images only; it judges drawn ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unimedvl.files import aside

_SIDE = 64
_BATCH = 64


class Classifier(nn.Module):
    """RGB images to modalities.

    Args:
        names: of the classes, sorted.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        widths = (3, 24, 48, 96, 96)
        blocks = [
            nn.Sequential(
                nn.Conv2d(inside, outside, 3, padding=1), nn.GroupNorm(8, outside), nn.ReLU(), nn.MaxPool2d(2)
            )
            for inside, outside in pairwise(widths)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(widths[-1], len(self.names))

    def features(self, pixels_BCHW: Tensor) -> Tensor:
        """float32 (B, 96): means over the last maps."""
        return self.blocks(pixels_BCHW).mean(dim=(2, 3))

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Logits, float32 (B, classes), of pixels in [-1, 1]."""
        return self.head(self.features(pixels_BCHW))

    @torch.inference_mode()
    def name(self, images: Sequence[Image.Image]) -> list[str]:
        """The class of each image."""
        chosen = [self(part).argmax(dim=1) for part in as_tensor(images).split(_BATCH)]
        return [self.names[number] for number in torch.cat(chosen).tolist()]


def as_tensor(images: Sequence[Image.Image]) -> Tensor:
    """float32 (B, 3, 64, 64) in [-1, 1]."""
    resized = [image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR) for image in images]
    return torch.from_numpy(np.stack([np.asarray(each) for each in resized])).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_classifier(
    images: Sequence[Image.Image], labels: Sequence[str], epochs: int = 12, seed: int = 0
) -> Classifier:
    """Learn the labels of real images: AdamW, one cycle, classes drawn equally often, images augmented.

    Augmented by flips, brightness, contrast, noise and blur, so that sharpness alone decides nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(sorted(set(labels)))
    pixels_NCHW = as_tensor(images)
    target_N = torch.tensor([model.names.index(label) for label in labels])
    weights_N = 1 / torch.bincount(target_N)[target_N].double()
    steps = epochs * -(-len(labels) // _BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        chosen = torch.multinomial(weights_N, _BATCH, replacement=True, generator=generator)
        loss = nn.functional.cross_entropy(model(_augmented(pixels_NCHW[chosen], generator)), target_N[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def _augmented(pixels_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(len(pixels_BCHW), 1, 1, 1, generator=generator) * (high - low) + low

    flipped = torch.where(uniform(0, 1) < 0.5, pixels_BCHW.flip(3), pixels_BCHW)
    blurred = nn.functional.avg_pool2d(flipped, 3, stride=1, padding=1, count_include_pad=False)
    mixed = torch.lerp(flipped, blurred, uniform(0, 1).expand_as(flipped))
    noise = torch.randn(mixed.shape, generator=generator) * uniform(0, 0.05)
    return (mixed * uniform(0.8, 1.2) + uniform(-0.1, 0.1) + noise).clamp(-1, 1)


def save_classifier(model: Classifier, path: Path) -> None:
    """Weights, and the names of the classes."""
    with aside(path) as part:
        save_file(model.state_dict(), part, metadata={"names": ",".join(model.names)})


def load_classifier(path: Path) -> Classifier:
    """A classifier that was saved."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        names = file.metadata()["names"].split(",")
    model = Classifier(names)
    model.load_state_dict(load_file(path))
    return model.eval()
