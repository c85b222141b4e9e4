"""The classifier and the search for copies on pictures whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from unimedvl.errors import DataError
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


def test_vectors_on_a_line_by_hand():
    """Held-out 10 and 12 are 1 and 3 from training 9: the limit lies 5 % of the way between."""
    training = [("CT", np.array([0.0, 0.0])), ("US", np.array([50.0, 50.0])), ("CT", np.array([9.0, 9.0]))]
    held_out = [("CT", np.array([10.0, 10.0])), ("CT", np.array([12.0, 12.0]))]
    found = neighbors([("CT", np.array([0.5, -0.5])), ("CT", np.array([49.0, 49.0]))], training, held_out)
    assert found.nearest == (0, 2)
    assert found.distance == (0.5, 40)
    assert found.limit == pytest.approx((1.1, 1.1))
    assert found.copies == [0]


def test_pixels_and_their_vectors_are_the_same():
    def as_vector(pair):
        name, image = pair
        return name, np.asarray(image.resize((32, 32), Image.Resampling.BOX), np.float32).ravel() / 255

    sets = [[("CT", stripes("noise", 10 * part + seed)) for seed in range(5)] for part in range(3)]
    by_vectors = neighbors(*([as_vector(pair) for pair in each] for each in sets))
    assert by_vectors == neighbors(*sets)


def test_nothing_drawn_has_no_neighbors():
    assert neighbors([], [("CT", np.zeros(2))], []).copies == []


@pytest.mark.parametrize(
    ("drawn", "training", "held_out", "problem"),
    [
        (("CT", np.zeros(2)), ("US", np.zeros(2)), ("CT", np.zeros(2)), "0 training and 1 held-out images of 'CT'"),
        (("CT", np.zeros(2)), ("CT", np.zeros(2)), ("US", np.zeros(2)), "1 training and 0 held-out images of 'CT'"),
        (("CT", np.zeros(3)), ("CT", np.zeros(2)), ("CT", np.zeros(2)), "vectors of 3 against 2"),
        (("CT", np.zeros((1, 2))), ("CT", np.zeros(2)), ("CT", np.zeros(2)), r"vectors of \(1, 2\)"),
    ],
)
def test_neighbors_that_cannot_be(drawn, training, held_out, problem):
    with pytest.raises(DataError, match=problem):
        neighbors([drawn], [training], [held_out])
