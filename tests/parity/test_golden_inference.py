"""Cached decoding and guided sampling against the published implementation."""

from __future__ import annotations

import pytest
import torch

from unimedvl.data.packing import pack
from unimedvl.geometry import patchify, unpatchify
from unimedvl.infer.sampling import Guidance, time_grid
from unimedvl.model.cache import KVCache
from unimedvl.types import TextSegment, VaeSegment, VitSegment

# float32 on logits, velocities and latents of order 1, through three layers and up to seven steps.
ATOL = 2e-4


class Context:
    """A cache row and the position that follows it."""

    def __init__(self, row, position, model, special):
        self.row, self.position, self.model, self.special = row, position, model, special

    def fork(self):
        return Context(self.row.fork(128), self.position, self.model, self.special)

    def append(self, *segments, logits="none"):
        batch = pack([segments], self.model.config, self.special, start_positions=[self.position], logits=logits)
        self.position = int(batch.position_ids[-1]) + 1
        with torch.no_grad():
            return self.model(batch, [self.row])


@pytest.mark.parametrize("number", range(3))
def test_understanding(golden, tiny_model, codec, images, transforms, number):
    case = golden.values["vqa"][number]
    context = Context(KVCache(tiny_model.config.llm, 256).open(256), 0, tiny_model, codec.special)
    for image in case["images"]:
        context.append(VitSegment(transforms.vit(images[image])))
    context.append(codec.segment(case["prompt"]))
    assert (len(context.row), context.position) == (case["context_len"], case["rope"])

    tokens, logits = [codec.special.bos], []
    while len(tokens) < case["max_length"]:
        output = context.append(TextSegment((tokens[-1],)), logits="last")
        logits.append(output.logits[0])
        tokens.append(int(logits[-1].argmax()))
    assert tokens == case["tokens"]
    expected = golden.tensors[f"vqa.{number}.logits"]
    torch.testing.assert_close(torch.stack(logits)[: len(expected)], expected[: len(logits)], atol=ATOL, rtol=0)


def guided_contexts(inputs, model, codec, images, transforms, autoencoder):
    """Full context, everything before the last text, and texts only; and the last image's size."""
    cache = KVCache(model.config.llm, 4 * 256)
    full, without_images = (Context(cache.open(256), 0, model, codec.special) for _ in range(2))
    without_text = full.fork()
    size = None
    for entry in inputs:
        if isinstance(entry, str):
            without_text.row.close()
            without_text = full.fork()
            full.append(codec.segment(entry))
            without_images.append(codec.segment(entry))
        else:
            image = transforms.vae.resize(images[entry])
            size = image.size
            with torch.no_grad():
                latent = autoencoder.encode(transforms.vae(images[entry])[None])[0]
            full.append(VaeSegment(latent=latent), VitSegment(transforms.vit(image)))
    return (full, without_text, without_images), size


@pytest.mark.parametrize("number", range(4))
def test_generation(golden, tiny_model, tiny_autoencoder, codec, images, transforms, number):
    case, tensors = golden.values["gen"][number], golden.tensors
    args = case["args"]
    guidance = Guidance(
        args["cfg_text_scale"],
        args["cfg_img_scale"],
        tuple(args["cfg_interval"]),
        args.get("cfg_renorm_type", "global"),
        args.get("cfg_renorm_min", 0.0),
    )
    contexts, size = guided_contexts(case["inputs"], tiny_model, codec, images, transforms, tiny_autoencoder)
    width, height = size or args["image_shapes"][::-1]
    assert [width, height] == case["size"]
    grid_height, grid_width = height // 16, width // 16

    x = tensors[f"gen.{number}.noise"]
    grid = time_grid(args["num_timesteps"], args["timestep_shift"])
    assert len(grid) - 1 == case["steps"]
    lengths = [len(context.row) for context in contexts]
    for step, (now, then) in enumerate(zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True)):
        branches = contexts if guidance.active(now) else contexts[:1]
        segment = VaeSegment(latent=unpatchify(x, grid_height, grid_width, 2), noised=True, timestep=now)
        batch = pack(
            [(segment,)] * len(branches),
            tiny_model.config,
            codec.special,
            start_positions=[branch.position for branch in branches],
        )
        with torch.no_grad():
            velocity = tiny_model(batch, [branch.row for branch in branches]).velocity
        velocities = velocity.unflatten(0, (len(branches), -1))
        velocity = guidance.combine(*velocities) if len(branches) > 1 else velocities[0]
        if step == 0:
            torch.testing.assert_close(velocity, tensors[f"gen.{number}.velocity.first"], atol=ATOL, rtol=0)
        x = x - velocity * (now - then)
    assert [len(context.row) for context in contexts] == lengths, "sampling must leave no trace in the contexts"
    torch.testing.assert_close(velocity, tensors[f"gen.{number}.velocity.last"], atol=ATOL, rtol=0)
    torch.testing.assert_close(x, tensors[f"gen.{number}.latent"], atol=ATOL, rtol=0)

    with torch.no_grad():
        decoded = tiny_autoencoder.decode(unpatchify(x, grid_height, grid_width, 2)[None])[0]
    pixels = ((decoded * 0.5 + 0.5).clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0)
    difference = (pixels.int() - tensors[f"gen.{number}.image"].int()).abs()
    assert difference.max() <= 1
    # Truncation to integers turns a rounding difference into a whole step on the few pixels at a border.
    assert (difference > 0).float().mean() < 0.01
    assert torch.equal(patchify(unpatchify(x, grid_height, grid_width, 2), 2), x)
