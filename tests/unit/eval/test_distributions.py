"""Distances of sets of features against their formulas written out in numpy and scipy, and cases by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.spatial.distance import cdist
from torchmetrics.image.kid import KernelInceptionDistance

from unimedvl.errors import ConfigError, DataError
from unimedvl.eval import distributions
from unimedvl.eval.distributions import distribution, fid, kid, manifold_scores


def features(seed, count, dims, mean=0.0, scale=1.0):
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(dims, dims))
    return (generator.normal(size=(count, dims)) @ mixing * scale + mean).astype(np.float32)


def line(*places):
    return np.array(places, dtype=np.float32)[:, None]


def frechet(real, made):
    """The formula with scipy's matrix square root."""
    real, made = real.astype(float), made.astype(float)
    root = scipy.linalg.sqrtm(np.cov(real, rowvar=False) @ np.cov(made, rowvar=False))
    shift = np.square(real.mean(axis=0) - made.mean(axis=0)).sum()
    return shift + np.trace(np.cov(real, rowvar=False) + np.cov(made, rowvar=False) - 2 * np.real(root))


def frechet_of_few(real, made):
    """The trace of the root is the sum of singular values of the sets' products: exact with few images."""
    real, made = real.astype(float), made.astype(float)
    one, two = real - real.mean(axis=0), made - made.mean(axis=0)
    scale = np.sqrt((len(one) - 1) * (len(two) - 1))
    root = np.linalg.svd(one @ two.T, compute_uv=False).sum() / scale
    spread = np.square(one).sum() / (len(one) - 1) + np.square(two).sum() / (len(two) - 1)
    return np.square(real.mean(axis=0) - made.mean(axis=0)).sum() + spread - 2 * root


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_fid_is_the_formula(offset):
    real, made = features(0, 300, 12, offset), features(1, 200, 12, offset + 0.5, 1.3)
    # Eigenvalues against a matrix square root, both float64.
    assert fid(real, made) == pytest.approx(frechet(real, made), rel=1e-6)


def test_fid_of_fewer_images_than_features():
    real, made = features(0, 20, 48), features(1, 15, 48, 0.5)
    # Roots of eigenvalues that should be 0: 48 of them, each off by the root of float64's 1e-16.
    assert fid(real, made) == pytest.approx(frechet_of_few(real, made), rel=1e-5)
    scored = distribution(real, made)
    assert "rank deficient: 20 real and 15 made images for 48 features" in scored.notes[0]
    assert distribution(features(0, 50, 4), features(1, 50, 4)).notes == ()


def test_fid_by_hand():
    """Means 1 and 3; variances 2 (of 0 and 2) and 8 (of 1 and 5): 4 + (sqrt 8 - sqrt 2)^2 = 4 + 2."""
    assert fid(line(0, 2), line(1, 5)) == pytest.approx(6)
    square = np.array([[0, 0], [2, 0], [0, 2], [2, 2]], np.float32)
    assert fid(square, square + np.array([3, 4], np.float32)) == pytest.approx(25)
    # Variances of 4/3 and 16/3 in two directions: 2 (sqrt(16/3) - sqrt(4/3))^2 = 2 * 4/3, means 1 and 2 apart: 2.
    assert fid(square, 2 * square) == pytest.approx(8 / 3 + 2)


def test_equal_sets_are_at_no_distance():
    real = features(0, 60, 8)
    # Of variances around 8.
    assert 0 <= fid(real, real[::-1]) < 1e-5


def squared_mmd(real, made):
    """The unbiased estimate, summed pair by pair."""

    def kernel(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    def within(rows):
        pairs = [kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]
        return sum(pairs) / len(pairs)

    real, made = real.astype(float), made.astype(float)
    return within(real) + within(made) - 2 * np.mean([kernel(x, y) for x in real for y in made])


def test_kid_is_the_formula():
    real, made = features(0, 25, 5), features(1, 25, 5, 0.5)
    found = kid(real, made)
    assert found.mean == pytest.approx(squared_mmd(real, made), rel=1e-9)
    assert (found.spread, found.subsets, found.subset_size) == (0, 1, 25)


def test_kid_by_hand():
    """Kernel (xy + 1)^3: real 0 and 1 give 1, made 1 and 2 give 27, across 1, 1, 8 and 27, on average 37/4."""
    assert kid(line(0, 1), line(1, 2)).mean == pytest.approx(1 + 27 - 2 * 37 / 4)


@pytest.mark.filterwarnings("ignore:Metric `Kernel")
def test_subsets_of_kid(monkeypatch):
    monkeypatch.setattr(distributions, "_SUBSET", 20)
    real, made = features(0, 60, 4), features(1, 50, 4, 0.3)
    found = kid(real, made, subsets=200)
    assert (found.subsets, found.subset_size) == (200, 20)
    whole = squared_mmd(real, made)
    # The estimate is unbiased, so subsets scatter around that of everything.
    assert abs(found.mean - whole) < 4 * found.spread / np.sqrt(200)
    library = KernelInceptionDistance(torch.nn.Identity(), subsets=200, subset_size=20)
    library.update(torch.from_numpy(real), real=True)
    library.update(torch.from_numpy(made), real=False)
    mean, spread = library.compute()
    # Two times 200 random subsets.
    assert found.mean == pytest.approx(float(mean), abs=6 * found.spread / np.sqrt(200))
    assert found.spread == pytest.approx(float(spread), rel=0.5)


def test_kid_with_unequal_sets_draws_the_larger_one():
    found = kid(features(0, 60, 4), features(1, 10, 4), subsets=7)
    assert (found.subsets, found.subset_size) == (7, 10)
    assert found.spread > 0


def test_seeds_leave_the_global_state_alone():
    real, made = features(0, 60, 4), features(1, 10, 4)
    before = torch.random.get_rng_state()
    assert distribution(real, made, seed=1) == distribution(real, made, seed=1)
    assert kid(real, made, seed=1) != kid(real, made, seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_manifolds_on_a_line_by_hand():
    """One neighbor. Real 0, 1, 3 with radii 1, 1, 2; made 2, 6, 7 with radii 4, 1, 1.

    2 lies in the balls of 1 (edge) and 3; 6 and 7 in none. Made 2 reaches -2 to 6, and so 0, 1 and 3.
    """
    scored = manifold_scores(line(0, 1, 3), line(2, 6, 7), neighbors=1)
    assert scored.precision == pytest.approx(1 / 3)
    assert scored.recall == 1
    assert scored.density == pytest.approx(2 / 3)
    assert scored.coverage == pytest.approx(2 / 3)


def test_manifolds_of_three_neighbors_by_hand():
    """Real 0 to 4: the third neighbor is 3, 2, 2, 2, 3 away; made 4 and what is far away."""
    scored = manifold_scores(line(0, 1, 2, 3, 4), line(4, 100, 101, 102))
    # 4 lies in the balls of 2, 3 and 4.
    assert (scored.precision, scored.density) == (1 / 4, pytest.approx(3 / (3 * 4)))
    # The made balls: 4 reaches to 102, and so everything real.
    assert (scored.recall, scored.coverage, scored.neighbors) == (1, pytest.approx(3 / 5), 3)


@pytest.mark.parametrize("block", [10_000_000, 100])
def test_manifolds_are_the_formulas(monkeypatch, block):
    monkeypatch.setattr(distributions, "_PAIRS_AT_ONCE", block)
    real, made = features(0, 80, 6, 50.0), features(1, 60, 6, 50.5, 0.7)
    scored = manifold_scores(real, made, neighbors=3)

    def radii(rows):
        return np.sort(cdist(rows, rows), axis=1)[:, 3]  # 0 is the row itself

    in_real = cdist(made, real) <= radii(real)
    in_made = cdist(real, made) <= radii(made)
    assert scored.precision == in_real.any(axis=1).mean()
    assert scored.recall == in_made.any(axis=1).mean()
    assert scored.density == pytest.approx(in_real.sum() / (3 * 60))
    assert scored.coverage == in_real.any(axis=0).mean()


def test_copies_of_copies_lie_in_balls_without_size():
    real = np.repeat(features(0, 6, 40, 1e3), 5, axis=0)
    scored = manifold_scores(real, real[::5])
    assert (scored.precision, scored.coverage) == (1, 1)


def test_few_images_have_no_manifold():
    scored = distribution(features(0, 3, 2), features(1, 9, 2))
    assert scored.manifold is None
    assert any("more than 3 images" in note for note in scored.notes)
    assert (scored.n_real, scored.n_made, scored.dims) == (3, 9, 2)
    with pytest.raises(DataError, match="3 real and 9 made images for 3 neighbors"):
        manifold_scores(features(0, 3, 2), features(1, 9, 2))


@pytest.mark.parametrize("score", [fid, kid, manifold_scores, distribution])
@pytest.mark.parametrize(
    ("real", "made", "problem"),
    [
        (np.zeros((1, 2)), np.zeros((5, 2)), r"\(1, 2\) and \(5, 2\)"),
        (np.zeros((5, 2)), np.zeros((5, 3)), r"\(5, 3\)"),
        (np.zeros((5, 0)), np.zeros((5, 0)), r"\(5, 0\)"),
        (np.zeros(5), np.zeros(5), r"\(5,\)"),
        (np.zeros((5, 2)), np.array([[0, 0], [0, np.nan]] * 3), "made image 1"),
    ],
)
def test_features_that_cannot_be_compared(score, real, made, problem):
    with pytest.raises(DataError, match=problem):
        score(real, made)


def test_settings_that_cannot_be():
    real = features(0, 9, 2)
    with pytest.raises(ConfigError, match="0 subsets"):
        kid(real, real, subsets=0)
    with pytest.raises(ConfigError, match="0 neighbors"):
        manifold_scores(real, real, neighbors=0)


@pytest.mark.parametrize(
    ("package", "score"),
    [("torchmetrics.image.fid", fid), ("torchmetrics.image.kid", kid), ("sklearn.neighbors", manifold_scores)],
)
def test_an_absent_package_is_named(monkeypatch, package, score):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"needs .*unimedvl\[eval\]"):
        score(features(0, 9, 2), features(1, 9, 2))
