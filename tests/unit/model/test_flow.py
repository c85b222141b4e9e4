from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from unimedvl.model.flow import TimestepEmbedder, interpolate, sincos_table
from unimedvl.schedules import shift_timesteps


@pytest.mark.parametrize(("side", "width"), [(3, 16), (7, 64)])
def test_sincos_table_against_numpy(side, width):
    table = np.zeros((side, side, width))
    for row in range(side):
        for column in range(side):
            for offset, value in ((0, column), (width // 2, row)):
                for k in range(width // 4):
                    angle = value / 10000 ** (2 * k / (width / 2))
                    table[row, column, offset + k] = math.sin(angle)
                    table[row, column, offset + width // 4 + k] = math.cos(angle)
    # Computed in float64 and rounded once.
    np.testing.assert_allclose(sincos_table(side, width), table.reshape(-1, width), atol=1e-7)


def test_stored_tables_are_ours(tiny_directory):
    from safetensors.torch import load_file

    stored = load_file(tiny_directory / "ema.safetensors")
    assert torch.equal(sincos_table(10, 64), stored["vit_pos_embed.pos_embed"])
    assert torch.equal(sincos_table(16, 64), stored["latent_pos_embed.pos_embed"])


def test_timestep_sinusoids():
    embedder = TimestepEmbedder(8)
    seen = []
    embedder.mlp[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    embedder(torch.tensor([0.0, 0.3]))
    features = seen[0]
    assert torch.equal(features[0], torch.cat([torch.ones(128), torch.zeros(128)]))
    frequencies = 10000 ** (-np.arange(128) / 128)
    # float32 of angles below 1.
    np.testing.assert_allclose(features[1], np.r_[np.cos(0.3 * frequencies), np.sin(0.3 * frequencies)], atol=1e-6)


def test_path_ends():
    data, noise = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(interpolate(data, noise, torch.zeros(2, 1)), data)
    assert torch.equal(interpolate(data, noise, torch.ones(2, 1)), noise)


def test_shift_keeps_the_ends_and_one_is_identity():
    t = torch.linspace(0, 1, 11)
    assert torch.equal(shift_timesteps(t, 1.0), t)
    shifted = shift_timesteps(t, 3.0)
    assert shifted[[0, -1]].tolist() == [0, 1]
    assert (shifted[1:-1] > t[1:-1]).all()
