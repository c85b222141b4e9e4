from __future__ import annotations

import pytest
import torch

from unimedvl.errors import ConfigError
from unimedvl.infer.sampling import Guidance, time_grid


def test_grid_runs_from_noise_to_image():
    grid = time_grid(5, 3.0)
    assert grid[[0, -1]].tolist() == [1, 0]
    assert (grid.diff() < 0).all()
    with pytest.raises(ConfigError, match="1 timesteps.*at least 2"):
        time_grid(1, 3.0)


def test_interval_is_open_below_and_closed_above():
    guidance = Guidance(text_scale=4.0, interval=(0.4, 1.0))
    assert not guidance.active(torch.tensor(0.4).item())
    assert guidance.active(0.41)
    assert guidance.active(1.0)
    assert not Guidance(text_scale=1.0, image_scale=3.0).active(0.9)


@pytest.mark.parametrize("renorm", ["global", "channel", "text_channel"])
def test_equal_branches_change_nothing(renorm):
    v = torch.randn(2, 6, 4)
    guided = Guidance(4.0, 2.0, renorm=renorm).combine(v, v, v)
    torch.testing.assert_close(guided, v, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("renorm", ["global", "channel", "text_channel"])
def test_images_of_a_batch_do_not_touch_each_other(renorm):
    full, text, image = torch.randn(3, 2, 6, 4).unbind(0)
    guidance = Guidance(4.0, 2.0, renorm=renorm)
    together = guidance.combine(full, text, image)
    for number in range(2):
        assert torch.equal(together[number], guidance.combine(full[number], text[number], image[number]))


def test_renorm_holds_the_norm():
    full, text = torch.randn(2, 6, 4).unbind(0)
    guided = Guidance(5.0, renorm="global").combine(full, text, None)
    assert guided.norm() <= full.norm() * (1 + 1e-5)
    per_token = Guidance(5.0, renorm="channel").combine(full, text, None)
    assert (per_token.norm(dim=-1) <= full.norm(dim=-1) * (1 + 1e-5)).all()


def test_renorm_min_limits_the_scaling():
    full, text = torch.randn(2, 6, 4).unbind(0)
    raw = text + 5.0 * (full - text)
    held = Guidance(5.0, renorm="global", renorm_min=0.9).combine(full, text, None)
    assert full.norm() < 0.9 * raw.norm(), "the case would be scaled further"
    torch.testing.assert_close(held, 0.9 * raw)


def test_unknown_renorm():
    with pytest.raises(ConfigError, match="renorm is 'none'.*global, channel, text_channel"):
        Guidance(renorm="none")
