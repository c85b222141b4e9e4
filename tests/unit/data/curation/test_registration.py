"""Checks of registration: agreement of edges against known shifts, and swapped pairs in a small corpus."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from unimedvl.data.curation.pairs import Pair
from unimedvl.data.curation.registration import (
    RegistrationSettings,
    agreement,
    mutual_information,
    registration,
)
from unimedvl.errors import ConfigError


def field(seed: int, side: int = 160, sigma: float = 8.0):
    from scipy.ndimage import gaussian_filter

    values = gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), sigma)
    low, high = np.quantile(values, [0.01, 0.99])
    return np.clip((values - low) / (high - low), 0, 1)


def shown(values) -> Image.Image:
    return Image.fromarray(np.rint(255 * values).astype(np.uint8))


OTHER_MODALITY = {
    "same": lambda values: values,
    "inverted": lambda values: 1 - values,
    "bent": lambda values: np.abs(values - 0.4),
    "mask": lambda values: (values > 0.5).astype(float),
    "noisy": lambda values: np.clip(0.7 * values + np.random.default_rng(9).normal(0, 0.03, values.shape), 0, 1),
}


@pytest.mark.parametrize("how", OTHER_MODALITY)
def test_modalities_of_one_anatomy_agree_and_those_of_two_do_not(how):
    for seed in range(20):
        values = field(seed)
        assert agreement(shown(values), shown(OTHER_MODALITY[how](values))) > 0.5
        assert abs(agreement(shown(values), shown(OTHER_MODALITY[how](field(seed + 100))))) < 0.4


def test_agreement_of_known_edges():
    steps = np.tile(np.linspace(0, 1, 128), (128, 1))
    assert agreement(shown(steps), shown(steps)) == pytest.approx(1, abs=1e-6)
    assert agreement(shown(steps), shown(steps.T)) == pytest.approx(-1, abs=1e-6)
    assert agreement(shown(steps), shown(np.ones((128, 128)))) == 0


def test_a_shift_lowers_the_agreement():
    values = field(3, sigma=4)
    found = [agreement(shown(values), shown(np.roll(values, shift, axis=1))) for shift in (0, 4, 16)]
    assert found[0] > 0.99
    assert found[0] > found[1] > found[2]
    assert abs(found[2]) < 0.3


def test_mutual_information():
    values = field(1)
    assert mutual_information(shown(values), shown(values)) == pytest.approx(1)
    assert mutual_information(shown(values), shown(1 - values)) > 0.8
    assert mutual_information(shown(values), shown(np.zeros_like(values))) == 0
    independent = np.random.default_rng(0).random((2, 128, 128))
    # By chance about (16 - 1)^2 / (2 * 128^2) nats, of ln 16.
    assert mutual_information(*map(shown, independent)) == pytest.approx(225 / 2 / 128**2 / np.log(16), rel=0.3)


def pair_of(folder, number: int, one, two, subtask: str = "translation", family: str = "edit") -> Pair:
    names = [str(folder / f"{number}-{side}.png") for side in ("in", "out")]
    for values, name in zip((one, two), names, strict=True):
        (values if isinstance(values, Image.Image) else shown(values)).save(name)
    return Pair(f"{number:016x}", "s", family, subtask, images=(names[0],), target=names[1])


def test_planted_swaps(tmp_path):
    """200 pairs of two modalities; of 20 the targets were swapped, two and two."""
    made = [OTHER_MODALITY["bent"](field(number, 128)) for number in range(200)]
    swapped = set(range(0, 200, 10))
    places = list(range(200))
    for number in range(0, 200, 20):
        places[number], places[number + 10] = number + 10, number
    targets = [made[place] for place in places]
    pairs = [pair_of(tmp_path, number, field(number, 128), target) for number, target in enumerate(targets)]
    decisions = registration(pairs)
    found = {number for number, decision in enumerate(decisions) if decision.action == "drop"}
    right = len(found & swapped)
    print(f"precision {right / len(found):.3f}, recall {right / len(swapped):.3f}")
    assert right / len(found) >= 0.95
    assert right / len(swapped) >= 0.95
    assert all(decision.score is not None for decision in decisions)
    assert {decision.reason for decision in decisions} == {"registered", "not registered"}
    assert registration(pairs[7:13]) == decisions[7:13]


@pytest.mark.parametrize(
    ("subtask", "sizes", "expected"),
    [
        ("translation", ((128, 128), (128, 128)), "registered"),
        ("translation", ((128, 128), (256, 256)), "sizes differ"),
        ("super-resolution", ((150, 100), (600, 400)), "registered"),
        ("super-resolution", ((151, 100), (603, 401)), "registered"),
        ("super-resolution", ((100, 150), (600, 400)), "sizes differ"),
    ],
)
def test_sizes(tmp_path, subtask, sizes, expected):
    one, two = (shown(field(0, 200)).resize(size, Image.Resampling.BICUBIC) for size in sizes)
    (decision,) = registration([pair_of(tmp_path, 0, one, two, subtask)])
    assert decision.reason == expected
    (lenient,) = registration([pair_of(tmp_path, 0, one, two, subtask)], RegistrationSettings(same_size=False))
    assert lenient.reason == "registered"


def test_staining_has_its_own_bound(tmp_path):
    from scipy.ndimage import gaussian_filter

    loose = gaussian_filter(0.4 * field(0) + 0.6 * field(1), 1)
    score = agreement(shown(field(0)), shown(loose))
    assert 0.15 < score < 0.6
    for subtask, bounds in (("translation", {"min_agreement": score + 0.01}), ("virtual staining", {})):
        (decision,) = registration([pair_of(tmp_path, 0, field(0), loose, subtask)], RegistrationSettings(**bounds))
        assert (decision.action, decision.score) == ("drop" if bounds else "keep", pytest.approx(score))


def test_pairs_without_two_images_are_left_alone(tmp_path):
    pair = pair_of(tmp_path, 0, field(0), field(1), family="t2i")
    assert registration([pair, Pair("1", "s", "understanding", images=pair.images)]) == []


def test_an_unreadable_image(tmp_path):
    pair = pair_of(tmp_path, 0, field(0), field(0))
    (tmp_path / "0-out.png").write_bytes(b"no image")
    (decision,) = registration([pair])
    assert (decision.action, decision.reason) == ("drop", "unreadable image")


def test_faults(monkeypatch):
    with pytest.raises(ConfigError, match="min_agreement"):
        RegistrationSettings(min_agreement=1.5)
    image = shown(field(0))
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ConfigError, match="scipy"):
        agreement(image, image)
