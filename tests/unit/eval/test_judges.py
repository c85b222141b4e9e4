"""The classifier and the search for copies on pictures whose answers are known."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from unimedvl.eval.classifier import load_classifier, save_classifier, train_classifier
from unimedvl.eval.neighbors import neighbors


def stripes(kind, seed):
    """Rows, columns, or noise, of random strength."""
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 256, (32, 1, 3))
    grid = {
        "rows": np.broadcast_to(values, (32, 32, 3)),
        "columns": np.broadcast_to(values.transpose(1, 0, 2), (32, 32, 3)),
        "noise": generator.integers(0, 256, (32, 32, 3)),
    }[kind]
    return Image.fromarray(grid.astype(np.uint8))


def test_it_learns_keeps_and_repeats(tmp_path):
    kinds = ("rows", "columns", "noise") * 24
    images = [stripes(kind, seed) for seed, kind in enumerate(kinds)]
    before = torch.random.get_rng_state()
    model = train_classifier(images, kinds, epochs=15)
    assert torch.equal(torch.random.get_rng_state(), before)  # the global generator is not touched
    new = [stripes(kind, 1000 + seed) for seed, kind in enumerate(kinds)]
    right = sum(a == b for a, b in zip(model.name(new), kinds, strict=True)) / len(kinds)
    assert right > 0.9
    save_classifier(model, tmp_path / "c.safetensors")
    assert load_classifier(tmp_path / "c.safetensors").name(new) == model.name(new)
    again = train_classifier(images, kinds, epochs=15)
    assert again.name(new) == model.name(new)


def test_a_copy_is_found_and_a_new_picture_is_not():
    training = [("CT", stripes("noise", seed)) for seed in range(20)] + [
        ("US", stripes("rows", seed)) for seed in range(9)
    ]
    held_out = [("CT", stripes("noise", 100 + seed)) for seed in range(20)] + [("US", stripes("rows", 50))]
    drawn = [("CT", stripes("noise", 7)), ("CT", stripes("columns", 3)), ("US", stripes("rows", 4))]
    found = neighbors(drawn, training, held_out)
    assert found.nearest[0] == 7
    assert found.distance[0] == 0
    assert found.nearest[2] == 20 + 4  # only its own modality is searched, and numbers are those of the whole list
    assert found.copies == [0, 2]
