"""Hypothesis strategies for packed samples, and the mask stated independently of the code under test."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from unimedvl.config import ModelConfig
from unimedvl.model.layout import Document
from unimedvl.types import Sample, SpecialTokens, TextSegment, VaeSegment, VitSegment

SPECIAL = SpecialTokens(bos=401, eos=402, vision_start=409, vision_end=410)
MODES = ("causal", "full", "noise")


@st.composite
def documents(draw: st.DrawFn, *, contexts: bool = True) -> list[Document]:
    """Documents with random splits, some behind a cached context scattered over a pool of keys."""
    splits = st.lists(st.tuples(st.integers(1, 7), st.sampled_from(MODES)), min_size=1, max_size=5)
    result: list[Document] = []
    start, slot = 0, 0
    for parts in draw(st.lists(splits, min_size=1, max_size=4)):
        length = sum(count for count, _ in parts)
        runs = draw(st.lists(st.integers(1, 5), max_size=2)) if contexts else []
        extents = []
        for count in (*runs, length):
            slot += draw(st.integers(0, 3)) if contexts else 0
            extents.append((slot, count))
            slot += count
        result.append(Document(start, tuple(parts), tuple(extents)))
        start += length
    return result


def reference_mask(batch: list[Document]) -> Tensor:
    """bool (queries, pool) by brute force from the published rule, one entry at a time."""
    pool = max(start + count for document in batch for start, count in document.keys)
    mask = torch.zeros(sum(document.length for document in batch), pool, dtype=torch.bool)
    for document in batch:
        slots = [slot for start, count in document.keys for slot in range(start, start + count)]
        parts = [number for number, (count, _) in enumerate(document.splits) for _ in range(count)]
        for i, own in enumerate(parts):
            mask[document.start + i, slots[: document.past]] = True
            for j, other in enumerate(parts):
                mode = document.splits[other][1]
                inside = own == other and (mode != "causal" or j <= i)
                earlier = other < own and mode != "noise"
                mask[document.start + i, slots[document.past + j]] = inside or earlier
    return mask


def random_sample(seed: int, config: ModelConfig, kinds: list[str]) -> Sample:
    """Segments of the given kinds with random content; sizes depend on the seed."""
    generator = torch.Generator().manual_seed(seed)

    def size(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    def segment(kind: str):
        if kind.startswith("text"):
            ids = torch.randint(0, 400, (size(1, 9),), generator=generator).tolist()
            return TextSegment((SPECIAL.bos, *ids, SPECIAL.eos), loss=kind == "text_loss")
        if kind == "vit":
            patch = config.vit.patch_size
            return VitSegment(torch.randn(3, size(1, 4) * patch, size(1, 4) * patch, generator=generator))
        shape = (config.vae.latent_channels, 2 * size(1, 4), 2 * size(1, 4))
        latent, noise = (torch.randn(shape, generator=generator) for _ in range(2))
        timestep = float(torch.rand(1, generator=generator))
        return VaeSegment(
            latent=latent,
            noised=kind == "noised",
            timestep=timestep if kind == "noised" else 0.0,
            noise=noise if kind == "noised" else None,
        )

    return tuple(segment(kind) for kind in kinds)


KINDS = ("text", "text_loss", "vit", "clean", "noised")
samples_of_kinds = st.lists(st.lists(st.sampled_from(KINDS), min_size=1, max_size=5), min_size=1, max_size=4)
