"""Augmentation: what it may change, and whom."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unimedvl.data.augment import Augment
from unimedvl.errors import ConfigError


def ramp(width=32, height=24):
    columns = np.linspace(0, 255, width, dtype=np.uint8)
    return Image.fromarray(np.broadcast_to(columns[None, :, None], (height, width, 3)).copy())


def test_off_by_default():
    image = ramp()
    assert Augment()(image, np.random.default_rng(0)) is image


@given(st.integers(0, 1000), st.floats(0.3, 1), st.floats(0, 0.5))
def test_size_mode_and_direction_stay(seed, crop, light):
    made = Augment(crop, light)(ramp(), np.random.default_rng(seed))
    assert (made.size, made.mode) == ((32, 24), "RGB")
    values = np.asarray(made, int)[:, :, 0]
    assert (np.diff(values, axis=1) >= -1).all()  # dark stays left; bicubic may ring by a level


def test_a_function_of_its_generator():
    one, two, other = (Augment(0.5, 0.3)(ramp(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == two
    assert one != other


def test_some_are_left_as_they_are():
    made = [Augment(0.5, 0.3, chance=0.25)(ramp(), np.random.default_rng(seed)) for seed in range(400)]
    share = sum(image == ramp() for image in made) / len(made)
    assert 0.68 < share < 0.82  # three quarters, within three standard deviations of 400 draws


@pytest.mark.parametrize("values", [{"crop": 0.0}, {"crop": 1.5}, {"light": 1.0}, {"light": -0.1}, {"chance": 2.0}])
def test_refused(values):
    with pytest.raises(ConfigError, match="augment"):
        Augment(**values)
