"""Run by every rank of a small ZeRO-3 group: what must hold when the ranks do not hold the same kinds of data.

Prints one JSON object on the first rank. Started by test_zero.py.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

import torch

from tests.layouts import SPECIAL, random_sample
from tests.training import TINY, words
from unimedvl.data.packing import pack
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.train.build import build_backend
from unimedvl.train.checkpoint import piece_of
from unimedvl.train.compose import compose

KINDS = {
    "text": ["text", "text_loss"],
    "vit": ["vit", "vit"],
    "generation": ["noised"],
    "edit": ["clean", "vit", "noised"],
}


def batch_of(kind: str, rank: int):
    return pack([random_sample(rank + 1, TINY, KINDS[kind])], TINY, SPECIAL)


def counts_of(batches) -> tuple[float, float]:
    ce = sum(float(batch.ce_weights.sum()) for batch in batches)
    return max(ce, 1.0), max(sum(len(batch.velocity_index) for batch in batches), 1)


def reference(model: UniMedVL, batches) -> dict[str, torch.Tensor]:
    """Gradients of one process over the batches of all ranks."""
    ce_count, mse_count = counts_of(batches)
    model.zero_grad()
    for batch in batches:
        output = model(batch)
        (0.25 * output.ce_sum / ce_count + output.mse_sum / mse_count).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def main(world_folder: Path, output: Path, checkpointing: str) -> None:
    arguments = words(world_folder, output, "runtime.zero=true", f"runtime.checkpointing={checkpointing}")
    settings = compose(arguments).settings()
    backend = build_backend(settings, TINY, None)
    plain = UniMedVL.initialized(TINY, seed=settings.seed)
    worst = {}
    for kinds in product(KINDS, repeat=backend.world):
        batches = [batch_of(kind, rank) for rank, kind in enumerate(kinds)]
        ce_count, mse_count = counts_of(batches)
        ce, mse = backend.losses(batches[backend.rank])
        backend.backward((0.25 * ce / ce_count + mse / mse_count) * backend.world, last=True)
        expected = reference(plain, batches)
        scale = max(float(gradient.abs().max()) for gradient in expected.values())
        errors = [
            float((gradient - piece_of(expected[name], backend.rank, backend.world)).abs().max())
            for name, gradient in backend.local_gradients()
        ]
        worst["+".join(kinds)] = max(backend.gathered(max(errors))) / max(
            scale, 1e-3
        )  # nothing but images to see has no loss
        assert backend.step(0.0)

    # A loss that is not finite on one rank: no rank changes anything, and the next step works.
    before = {name: piece.clone() for name, piece in backend.local_master().items()}
    ce, mse = backend.losses(batch_of("edit", backend.rank))
    poison = float("nan") if backend.rank == backend.world - 1 else 1.0
    backend.backward((ce + mse) * poison, last=True)
    applied = [backend.step(1e-3)]
    unchanged = all(torch.equal(piece, before[name]) for name, piece in backend.local_master().items())
    ce, mse = backend.losses(batch_of("edit", backend.rank))
    backend.backward(ce + mse, last=True)
    applied.append(backend.step(1e-3))
    changed = any(not torch.equal(piece, before[name]) for name, piece in backend.local_master().items())
    told = {"worst": worst, "applied": applied, "unchanged": unchanged, "changed": changed}
    everyone = backend.gathered(told)
    if backend.rank == 0:
        (output.parent / f"{output.name}.json").write_text(json.dumps(everyone))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
