from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from PIL import Image

from unimedvl.data.curation.degradation import DegradationSettings, degrade, degraded, steps, with_planned
from unimedvl.data.curation.pairs import Pair, pair_id
from unimedvl.errors import ConfigError, DataError


def picture(width=160, height=130, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def rng():
    return np.random.default_rng(0)


def pair(number, picture, family="understanding", **more):
    one = Pair(pair_id("x", str(number)), "x", family, "caption", "CT", "train", "A scan.", more=more)
    return replace(one, target=picture) if family == "t2i" else replace(one, images=(picture,))


def test_pixels_are_averages_of_blocks_with_a_box():
    settings = DegradationSettings(kernel="box", shown="small")
    worse = np.asarray(degrade(picture(160, 128), settings, rng()), np.float64)
    blocks = np.asarray(picture(160, 128), np.float64).reshape(32, 4, 40, 4, 3).mean(axis=(1, 3))
    assert np.abs(worse - blocks).max() <= 1  # Pillow rounds to whole gray levels twice, row-wise and column-wise


@given(st.integers(8, 90), st.integers(8, 90), st.integers(2, 5), st.sampled_from(["nearest", "bicubic", "small"]))
@given_settings(deadline=None, max_examples=40)
def test_sides(width, height, factor, shown):
    worse = degrade(picture(width, height) if min(width, height) >= 10 else Image.new("RGB", (width, height)),
                    DegradationSettings(factor=factor, shown=shown), rng())  # fmt: skip
    small = (-(-width // factor), -(-height // factor))
    assert worse.size == (small if shown == "small" else (width, height))


def test_noise_has_the_stated_deviation_and_no_color():
    gray = Image.new("RGB", (800, 800), (128, 128, 128))
    worse = np.asarray(degrade(gray, DegradationSettings(noise=10, shown="small"), rng()), np.float64)
    # 40,000 values: the standard error of their deviation is 0.035, of which four are allowed; rounding adds 0.004.
    assert worse.std() == pytest.approx(10, abs=0.15)
    assert (worse[..., 0] == worse[..., 1]).all()


def test_blur_removes_what_the_nearest_kernel_would_alias():
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (160, 80))).convert("RGB")
    plain = degrade(stripes, DegradationSettings(kernel="nearest", factor=3, shown="small"), rng())
    blurred = degrade(stripes, DegradationSettings(kernel="nearest", factor=3, blur=3, shown="small"), rng())
    assert np.asarray(plain).std() > 100
    assert np.asarray(blurred)[5:-5, 5:-5].std() < 3


def test_steps_say_all_of_it():
    settings = DegradationSettings(factor=2, kernel="lanczos", blur=0.5, noise=3, shown="bicubic")
    assert steps(settings) == (
        "blurred by 0.5 pixels", "shrunk 2 times (lanczos)", "noise of 3 gray levels", "enlarged (bicubic)",
    )  # fmt: skip
    assert steps(DegradationSettings(shown="small")) == ("shrunk 4 times (bicubic)",)


def test_each_image_is_planned_once_behind_its_first_pair():
    pairs = [pair(1, "a.png", anatomy="lung", finding="effusion"), pair(2, "a.png"), pair(3, "b.png", "t2i")]
    pairs += [Pair("0" * 16, "x", "edit", "segmentation", images=("c.png",), target="d.png"),
              Pair("1" * 16, "x", "text", text="No image.")]  # fmt: skip
    found = list(with_planned(pairs, DegradationSettings(share=1, factor=2), 0))
    assert [one.subtask for one in found] == [
        "caption", "super-resolution", "caption", "caption", "super-resolution", "segmentation", "",
    ]  # fmt: skip
    planned = found[1]
    assert (planned.family, planned.target, planned.images, planned.text) == ("edit", "a.png", (), "")
    assert planned.more == {"anatomy": "lung", "scale": 2}
    assert (planned.split, planned.modality) == ("train", "CT")
    assert len({one.id for one in found}) == len(found)


def test_the_share_is_kept_and_drawn_by_seed():
    pairs = [pair(number, f"{number}.png") for number in range(2000)]

    def taken(seed):
        return {one.target for one in with_planned(pairs, DegradationSettings(share=0.3), seed) if one.target}

    assert 500 < len(taken(0)) < 700  # 600 are expected, with a deviation of 20.5
    assert taken(0) == taken(0) != taken(1)
    assert not list(filter(lambda one: one.target, with_planned(pairs, DegradationSettings(), 0)))


def test_inputs_are_made_once_and_the_same_whatever_is_beside_them(tmp_path):
    picture().save(tmp_path / "a.png")
    picture(seed=1).save(tmp_path / "b.png")
    settings = DegradationSettings(share=1, noise=5)
    pairs = list(with_planned([pair(1, str(tmp_path / "a.png")), pair(2, str(tmp_path / "b.png"))], settings, 0))
    together = degraded(pairs, settings, 0, tmp_path / "one")
    alone = [degraded([each], settings, 0, tmp_path / "two")[0] for each in reversed(pairs)][::-1]
    for one, other in zip(together, alone, strict=True):
        assert (one.id, one.steps) == (other.id, other.steps)
        for mine, its in zip(one.images, other.images, strict=True):
            assert (np.asarray(Image.open(mine)) == np.asarray(Image.open(its))).all()
    assert together[0] == pairs[0]
    assert together[1].steps[-1] == "input enlarged (nearest)"
    assert np.asarray(Image.open(together[1].images[0])).std() > 10


def test_an_image_that_is_gone_is_named(tmp_path):
    settings = DegradationSettings(share=1)
    pairs = list(with_planned([pair(1, str(tmp_path / "gone.png"))], settings, 0))
    with pytest.raises(DataError, match=r"gone\.png"):
        degraded(pairs, settings, 0, tmp_path)


@pytest.mark.parametrize("wrong", [{"share": 1.5}, {"factor": 1}, {"blur": -1}, {"noise": -0.1}])
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DegradationSettings(**wrong)
