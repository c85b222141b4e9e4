from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.layouts import SPECIAL, random_sample, samples_of_kinds
from unimedvl.config import ModelConfig
from unimedvl.data.packing import pack
from unimedvl.errors import ConfigError, DataError
from unimedvl.types import DroppedImage, TextSegment, VaeSegment, VitSegment

TINY = ModelConfig.preset("tiny")


@given(kinds=samples_of_kinds, seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_every_packed_batch_is_valid(kinds, seed):
    samples = [random_sample(seed + n, TINY, each) for n, each in enumerate(kinds)]
    batch = pack(samples, TINY, SPECIAL, logits="last")
    batch.validate(TINY)
    assert batch.num_documents == len(samples)
    assert len(batch.logit_index) == len(samples)
    assert sum(len(sample) for sample in samples) == len(batch.splits)
    for index in (batch.text_index, batch.vit_index, batch.latent_index, batch.ce_index, batch.velocity_index):
        assert (index.diff() > 0).all()


@given(kinds=samples_of_kinds, start=st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_start_positions_shift_positions_only(kinds, start):
    samples = [random_sample(n, TINY, each) for n, each in enumerate(kinds)]
    plain = pack(samples, TINY, SPECIAL)
    shifted = pack(samples, TINY, SPECIAL, start_positions=[start] * len(samples))
    assert torch.equal(shifted.position_ids, plain.position_ids + start)
    assert torch.equal(shifted.text_index, plain.text_index)


def test_positions_by_kind():
    """Text counts up, a clean image takes one position, a noised one shares its with what follows."""
    image = VaeSegment(latent=torch.zeros(4, 2, 2))
    target = VaeSegment(latent=torch.zeros(4, 2, 2), noised=True, noise=torch.zeros(4, 2, 2))
    vit = VitSegment(torch.zeros(3, 14, 14))
    text = TextSegment((5, 6))
    batch = pack([(text, vit, target, image, text)], TINY, SPECIAL)
    assert batch.position_ids.tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4, 5]


def test_a_batch_without_images_still_has_every_tensor():
    """An empty stream is zero rows, never None: every rank runs every module."""
    batch = pack([(TextSegment((1, 2), loss=True),)], TINY, SPECIAL)
    assert batch.latents.shape == batch.noise.shape == (0, TINY.latent_dim)
    assert batch.vit_patches.shape == (0, TINY.vit.patch_dim)
    assert batch.timesteps.shape == (0,)


def test_moving_keeps_types():
    batch = pack([random_sample(0, TINY, ["vit", "text_loss", "noised"])], TINY, SPECIAL)
    moved = batch.to("meta")
    assert moved.latents.device.type == "meta"
    assert moved.splits == batch.splits
    assert moved.latents.dtype == batch.latents.dtype
    pixels = pack([(VaeSegment(pixels=torch.zeros(3, 16, 16)),)], TINY, SPECIAL).to("meta")
    assert pixels.pending[0].pixels.device.type == "meta"


def test_a_dropped_image_takes_a_position_and_no_token():
    text = TextSegment((5, 6))
    batch = pack([(DroppedImage(), text, DroppedImage(), DroppedImage(), text)], TINY, SPECIAL)
    assert batch.position_ids.tolist() == [1, 2, 5, 6]
    assert [split.length for split in batch.splits] == [2, 2]
    assert batch.next_positions == (7,)
    batch.validate(TINY)


def test_images_wait_beside_latents():
    """Cached and new images stand in one batch; only the new ones wait for the autoencoder."""
    cached = VaeSegment(latent=torch.ones(4, 2, 2))
    waiting = VaeSegment(pixels=torch.zeros(3, 32, 16), eps=torch.zeros(4, 4, 2), key="k")
    batch = pack([(cached, waiting, cached)], TINY, SPECIAL)
    assert batch.latents.sum(dim=1).tolist() == [16, 0, 0, 16]
    assert [(item.image, item.key, item.pixels.shape[1:]) for item in batch.pending] == [(1, "k", (32, 16))]


def target(**changes):
    values = {"latent": torch.zeros(4, 2, 2), "noised": True, "timestep": 0.5, "noise": torch.zeros(4, 2, 2)}
    return VaeSegment(**{**values, **changes})


def test_a_loss_segment_of_one_token_predicts_nothing():
    batch = pack([(TextSegment((5,), loss=True),)], TINY, SPECIAL, reweight_ce=True)
    assert len(batch.ce_index) == len(batch.ce_weights) == 0


def test_interpolated_positions():
    config = dataclasses.replace(TINY, position_mode="interpolate")
    batch = pack([(VitSegment(torch.zeros(3, 28, 28)), VaeSegment(latent=torch.zeros(4, 4, 4)))], config, SPECIAL)
    assert batch.vit_position_ids.tolist() == [0, 5, 50, 55]
    assert batch.latent_position_ids.tolist() == [0, 8, 128, 136]


def test_bad_arguments():
    text = (TextSegment((1, 2)),)
    with pytest.raises(ConfigError, match="logits is 'lst'.*none, last, all"):
        pack([text], TINY, SPECIAL, logits="lst")
    with pytest.raises(DataError, match="1 start positions for 2 samples"):
        pack([text, text], TINY, SPECIAL, start_positions=[0])


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ((), "sample 0 has no segment"),
        ((TextSegment(()),), "a text segment of sample 0 has no token"),
        ((VaeSegment(),), "neither pixels nor latent"),
        ((VaeSegment(latent=torch.zeros(4, 3, 2)),), "latent of 3 x 2 .*multiples of 2"),
        ((VaeSegment(pixels=torch.zeros(3, 24, 16)),), "image of 24 x 16 .*multiples of 16"),
        ((VitSegment(torch.zeros(3, 15, 14)),), "15 x 14 does not divide into patches of 14"),
        ((VitSegment(torch.zeros(3, 14, 154)),), "grid of 1 x 11 patches is larger than the position table of 10 x 10"),
        ((VaeSegment(latent=torch.zeros(4, 2, 34)),), "grid of 1 x 17 patches is larger than .*16 x 16"),
        (
            (VitSegment(torch.zeros(1, 14, 14)),),
            r"float32 of shape \(1, 14, 14\) \(ViT segment\).*\(3, height",
        ),
        ((VitSegment(torch.zeros(3, 14, 14, dtype=torch.uint8)),), "uint8 of shape"),
        ((VitSegment(torch.zeros(3, 0, 14)),), r"shape \(3, 0, 14\)"),
        ((VaeSegment(latent=torch.zeros(3, 2, 2)),), r"shape \(3, 2, 2\) \(VAE segment\).*\(4, height"),
        ((VaeSegment(pixels=torch.zeros(1, 16, 16)),), r"shape \(1, 16, 16\)"),
        ((target(timestep=500.0),), "a noised image at timestep 500.0 with noise"),
        ((target(timestep=float("nan")),), "a noised image at timestep nan"),
        ((target(noised=False, timestep=0.7),), "a clean image at timestep 0.7"),
        ((target(noised=False, timestep=0.0),), "a clean image at timestep 0.0 with noise"),
        ((target(noise=torch.zeros(4, 4, 1)),), r"noise of shape \(4, 4, 1\) for a latent of \(4, 2, 2\)"),
        ((target(), target(noise=None)), "1 of 2 noised segments come with noise"),
        (
            (VaeSegment(pixels=torch.zeros(3, 16, 16), eps=torch.zeros(4, 4, 2)),),
            r"eps of shape \(4, 4, 2\) for .*2, 2",
        ),
        ((DroppedImage(), DroppedImage()), "sample 0 has no segment"),
    ],
)
def test_bad_samples(sample, message):
    with pytest.raises(DataError, match=message):
        pack([sample], TINY, SPECIAL)
