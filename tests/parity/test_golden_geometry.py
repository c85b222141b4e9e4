"""Transforms, sizes and position ids against the published implementation, exactly."""

from __future__ import annotations

import pytest
import torch

from unimedvl.geometry import patchify, position_ids, resize_size, unpatchify


def test_resize_sizes(golden):
    cases = golden.values["resize_sizes"]
    assert len(cases) == 84
    for case in cases:
        size = resize_size(case["width"], case["height"], *case["args"])
        assert size == (case["out_width"], case["out_height"]), case


@pytest.mark.parametrize("kind", ["vae", "vit"])
@pytest.mark.parametrize("number", range(3))
def test_transforms(golden, transforms, images, kind, number):
    pixels = getattr(transforms, kind)(images[number])
    assert torch.equal(pixels, golden.tensors[f"transform.{kind}.{number}"])


def test_position_ids(golden):
    names = [name for name in golden.tensors if name.startswith("posid.")]
    assert len(names) == 6
    for name in names:
        _, mode, *sizes = name.split(".")
        height, width, patch, side = map(int, sizes)
        assert torch.equal(position_ids(height // patch, width // patch, side, mode), golden.tensors[name]), name


def test_patchify(golden):
    image = golden.tensors["transform.vit.0"]
    patches = patchify(image, 14)
    assert torch.equal(patches, golden.tensors["patchify"])
    assert torch.equal(unpatchify(patches, image.shape[1] // 14, image.shape[2] // 14, 14), image)
