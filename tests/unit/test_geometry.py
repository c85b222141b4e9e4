from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unimedvl.errors import DataError
from unimedvl.geometry import patchify, position_ids, resize_size, unpatchify

sides = st.integers(1, 6)


@given(channels=st.integers(1, 4), height=sides, width=sides, patch=sides)
def test_unpatchify_inverts_patchify(channels, height, width, patch):
    image = torch.arange(channels * height * width * patch**2).view(channels, height * patch, width * patch)
    assert torch.equal(unpatchify(patchify(image, patch), height, width, patch), image)


@given(
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    limits=st.sampled_from([(1024, 512, 16), (980, 378, 14), (1024, 32, 16), (518, 224, 14)]),
)
def test_sizes_fit_the_position_table(width, height, limits):
    max_side, _, stride = limits
    for side in resize_size(width, height, *limits):
        assert side % stride == 0
        assert stride <= side <= max_side


@given(height=st.integers(1, 10), width=st.integers(1, 10))
def test_interpolated_ids_stay_in_the_table(height, width):
    ids = position_ids(height, width, 10, "interpolate")
    assert len(ids) == height * width
    assert ids.min() >= 0
    assert ids.max() < 100
    assert torch.equal(position_ids(10, 10, 10, "interpolate"), torch.arange(100))


def test_bad_sizes():
    with pytest.raises(DataError, match="30 x 28 does not divide into patches of 14.*multiples of 14"):
        patchify(torch.zeros(3, 30, 28), 14)
    with pytest.raises(DataError, match="grid of 3 x 11 patches is larger.*10 x 10.*at most 10"):
        position_ids(3, 11, 10)
