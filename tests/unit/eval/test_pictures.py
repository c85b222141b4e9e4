"""PSNR, SSIM and Dice against formulas."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import structural_similarity

from unimedvl.data.records import ImageRef
from unimedvl.eval import edits, pictures
from unimedvl.eval.rows import Row


def random_image(seed, side=32):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def test_psnr_is_the_formula():
    one, two = random_image(0), random_image(1)
    error = np.square(np.asarray(one, float) - np.asarray(two, float)).mean()
    assert pictures.psnr(one, two) == pytest.approx(10 * math.log10(255**2 / error))
    assert pictures.psnr(one, one) == 100


def test_ssim_is_the_mean_over_channels():
    one, two = random_image(0), random_image(1)
    each = [structural_similarity(np.asarray(one)[..., c], np.asarray(two)[..., c], data_range=255) for c in range(3)]
    assert pictures.ssim(one, two) == pytest.approx(np.mean(each))


def test_dice_by_hand():
    one, two = np.array([[1, 1, 0, 0]], bool), np.array([[1, 0, 1, 0]], bool)
    assert pictures.dice(one, two) == 0.5
    assert pictures.dice(one & False, two & False) == 1
    assert pictures.dice(one, ~one) == 0


def test_iou_by_hand():
    one, two = np.array([[1, 1, 0, 0]], bool), np.array([[1, 0, 1, 0]], bool)
    assert pictures.iou(one, two) == 1 / 3
    assert pictures.iou(one & False, two & False) == 1
    assert pictures.iou(one, ~one) == 0
    assert pictures.iou(one, one) == 1


def test_iou_follows_from_dice():
    one, two = (np.asarray(random_image(seed).convert("L")) > 100 for seed in (0, 1))
    dice = pictures.dice(one, two)
    assert pictures.iou(one, two) == pytest.approx(dice / (2 - dice))


def test_the_best_threshold_and_band_are_found():
    gray = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    image = Image.fromarray(gray).convert("RGB")
    level, score = pictures.best_threshold([image], [gray >= 100])
    assert (96 < level <= 100, score) == (True, 1.0)
    assert pictures.best_band([image], [(gray >= 40) & (gray < 80)]) == ((40, 80), 1.0)


def test_bicubic_undoes_the_shown_small_image():
    small = random_image(3, 8)
    shown = small.resize((32, 32), Image.Resampling.NEAREST)
    assert edits.bicubic(shown) == small.resize((32, 32), Image.Resampling.BICUBIC)


def as_png(image: Image.Image) -> ImageRef:
    file = io.BytesIO()
    image.save(file, "PNG")
    return ImageRef(data=file.getvalue())


def test_scores_of_an_edit():
    target, source = random_image(0), random_image(1)
    row = Row("a", "edit", "virtual staining", prompt="stain", images=(as_png(source),), wanted=as_png(target))
    scored = edits.scores([row], [target], [source])
    assert scored["ways"]["model"] == {"psnr": 100.0, "ssim": pytest.approx(1.0)}
    assert scored["ways"]["identity"] == scored["ways"]["autoencoder (ceiling)"]
    masks = edits.scores([replace(row, kind="segmentation")], [target], [source])
    assert masks["dice"]["model"] == 1.0
