"""The packed training forward and backward against the published implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unimedvl.data.packing import pack
from unimedvl.data.records import parse_record
from unimedvl.data.tasks import Drafter, Dropout, TrainTransforms
from unimedvl.geometry import patchify
from unimedvl.model.attention import SdpaPlan
from unimedvl.model.layout import dense_mask, documents_of, image_documents
from unimedvl.model.loss import training_loss
from unimedvl.model.vae import encode_latents
from unimedvl.types import VaeSegment

# float32 on outputs of order 1, through three layers: what the reference's own kernels differ by.
ATOL = 2e-4


@pytest.fixture
def batch(train_samples, codec, tiny_config):
    return pack(train_samples, tiny_config, codec.special)


def test_layout(golden, batch):
    tensors = golden.tensors
    pairs = {
        "text_ids": "packed_text_ids",
        "text_index": "packed_text_indexes",
        "position_ids": "packed_position_ids",
        "vit_index": "packed_vit_token_indexes",
        "vit_position_ids": "packed_vit_position_ids",
        "vit_patches": "packed_vit_tokens",
        "latent_index": "packed_vae_token_indexes",
        "latent_position_ids": "packed_latent_position_ids",
        "ce_index": "ce_loss_indexes",
        "ce_labels": "packed_label_ids",
        "velocity_index": "mse_loss_indexes",
    }
    for name, reference in pairs.items():
        assert torch.equal(getattr(batch, name), tensors[f"train.{reference}"]), name
    targets = batch.latent_image % 2 == 0  # of the six images every other is a target
    assert torch.equal(batch.noise[targets], tensors["train.noise"][targets])
    assert [split.length for split in batch.splits] == golden.values["train.split_lens"]
    assert [split.mode for split in batch.splits] == golden.values["train.attn_modes"]
    assert [list(shape) for shape in batch.latent_shapes] == golden.values["train.latent_shapes"]
    assert list(batch.vit_lengths) == tensors["train.vit_token_seqlens"].tolist()


RECORDS = {
    0: {"main_task_type": "vqa", "input_img": [0]},
    1: {"main_task_type": "t2i", "output_img": [1]},
    2: {"main_task_type": "edit", "input_img": [2], "output_img": [1]},
    4: {"main_task_type": "text"},
    5: {"main_task_type": "vqa", "input_img": [1, 2]},
}


@pytest.mark.parametrize("number", RECORDS)
def test_records_make_the_reference_samples(number, golden, train_samples, codec, images, transforms, tiny_config):
    """The samples of the reference batch that are records of one family, from JSON to the packed layout."""
    texts = [entry for entry in golden.samples[number] if entry[0] == "text"]
    record = RECORDS[number]
    marks = "<image>" * len(record.get("input_img", ())) if record["main_task_type"] == "vqa" else ""
    turns = [{"from": "gpt" if loss else "human", "value": text} for _, text, loss in texts]
    turns[0]["value"] = marks + turns[0]["value"]
    named = {key: [str(image) for image in record[key]] for key in ("input_img", "output_img") if key in record}
    drafter = Drafter(codec, tiny_config, TrainTransforms(transforms.vit, transforms.vae), Dropout(0, 0, 0))
    seeds = np.random.SeedSequence(number)
    draft = drafter.draft(
        parse_record({**record, **named, "message": turns}), lambda ref: (images[int(ref.path)], ""), seeds
    )
    ours = pack([drafter.realize(draft, seeds)], tiny_config, codec.special)
    reference = pack([train_samples[number]], tiny_config, codec.special)
    assert ours.splits == reference.splits
    layout = ("position_ids", "text_ids", "text_index", "vit_patches", "vit_position_ids", "vit_index", "ce_index")
    layout += ("latent_position_ids", "latent_index", "latent_image", "velocity_index", "ce_labels", "ce_weights")
    for name in layout:
        assert torch.equal(getattr(ours, name), getattr(reference, name)), name
    assert ours.latent_shapes == reference.latent_shapes
    clean = [not segment.noised for segment in train_samples[number] if isinstance(segment, VaeSegment)]
    assert (ours.timesteps == 0).tolist() == clean


def test_ce_weights(golden, train_samples, codec, tiny_config):
    weights = pack(train_samples, tiny_config, codec.special, reweight_ce=True).ce_weights
    torch.testing.assert_close(weights, golden.tensors["train.ce_loss_weights"])


def test_masks(golden, batch):
    documents = documents_of(batch.splits)
    assert [document.length for document in documents] == golden.values["train.sample_lens"]
    for number, document in enumerate(documents):
        assert torch.equal(dense_mask(document), golden.tensors[f"train.mask.{number}"]), number


def test_vision_encoder(golden, batch, tiny_model):
    plan = SdpaPlan(image_documents(batch.vit_lengths), torch.device("cpu"))
    with torch.no_grad():
        out = tiny_model.vit_model(batch.vit_patches, batch.vit_position_ids, plan)
        connected = tiny_model.connector(out)
    torch.testing.assert_close(out, golden.tensors["vit.out"], atol=ATOL, rtol=0)
    torch.testing.assert_close(connected, golden.tensors["vit.connected"], atol=ATOL, rtol=0)


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
def test_forward_and_gradients(golden, batch, tiny_model, checkpointing):
    output = tiny_model(batch, checkpointing=checkpointing)
    torch.testing.assert_close(output.ce, golden.tensors["train.ce"], atol=ATOL, rtol=0)
    torch.testing.assert_close(output.squared_error, golden.tensors["train.mse"], atol=ATOL, rtol=0)

    loss = training_loss(output.ce_sum, output.ce_count, output.mse_sum, output.mse_count)
    assert loss.item() == pytest.approx(golden.values["train.loss"], abs=1e-5)

    loss.backward()
    expected = {name: norm for name, norm in golden.values["train.grad_norms"].items() if norm is not None}
    parameters = dict(tiny_model.named_parameters())
    assert parameters.keys() == expected.keys()
    for name, norm in expected.items():
        # A key bias moves all scores of a query alike, so its gradient is zero but for rounding.
        assert parameters[name].grad.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-7), name


def test_autoencoder(golden, tiny_autoencoder):
    tensors = golden.tensors
    pixels = tensors["transform.vae.0"][None]
    mean, logvar = tensors["vae.moments"].chunk(2, dim=1)
    with torch.no_grad():
        moments = tiny_autoencoder.moments(pixels)
        torch.testing.assert_close(moments, (mean, (logvar / 2).exp()), atol=ATOL, rtol=0)
        latent = tiny_autoencoder.encode(pixels, tensors["vae.eps"])
        torch.testing.assert_close(latent, tensors["vae.latent"], atol=ATOL, rtol=0)
        decoded = tiny_autoencoder.decode(tensors["vae.latent"])
        torch.testing.assert_close(decoded, tensors["vae.decoded"], atol=ATOL, rtol=0)
        padded = tiny_autoencoder.encode(tensors["train.padded_images"])
        torch.testing.assert_close(padded, tensors["train.padded_latent"], atol=ATOL, rtol=0)


def test_images_are_encoded_at_their_own_size(images, transforms, codec, tiny_autoencoder, tiny_config):
    """A neighbor in the batch must not change an image's latent, which padding would (by up to 0.66 here)."""
    pixels = [transforms.vae(images[number]) for number in (0, 1, 2, 0)]
    together = pack([(VaeSegment(pixels=image),) for image in pixels], tiny_config, codec.special)
    encoded = encode_latents(together, tiny_autoencoder, tiny_config)
    with torch.no_grad():
        alone = [patchify(tiny_autoencoder.encode(image[None])[0], tiny_config.latent_patch_size) for image in pixels]
    # Convolutions of a batch of two and of one may take other kernels.
    torch.testing.assert_close(encoded.latents, torch.cat(alone), atol=1e-5, rtol=0)
    assert encoded.pending == ()

    eps = [torch.randn(tiny_config.vae.latent_channels, *(side // 8 for side in image.shape[1:])) for image in pixels]
    drawn = [(VaeSegment(pixels=x, eps=e, key=str(n)),) for n, (x, e) in enumerate(zip(pixels, eps, strict=True))]
    kept = {}
    packed = pack(drawn, tiny_config, codec.special)
    sampled = encode_latents(packed, tiny_autoencoder, tiny_config, lambda key, *moments: kept.update({key: moments}))
    assert list(kept) == ["0", "1", "2", "3"]
    torch.testing.assert_close(kept["1"][0], tiny_autoencoder.moments(pixels[1][None])[0][0], atol=1e-5, rtol=0)
    with torch.no_grad():
        alone = [tiny_autoencoder.encode(x[None], e[None])[0] for x, e in zip(pixels, eps, strict=True)]
    expected = torch.cat([patchify(latent, tiny_config.latent_patch_size) for latent in alone])
    torch.testing.assert_close(sampled.latents, expected, atol=1e-5, rtol=0)
