"""The published implementation's answers and images through the public pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unimedvl.geometry import unpatchify
from unimedvl.infer.pipeline import UniMedVLPipeline
from unimedvl.infer.sampling import Euler
from unimedvl.processor import ImageTransform, ImageTransforms

# float32 latents of order 1, up to seven steps through three layers.
ATOL = 2e-4


@pytest.fixture(scope="module")
def pipe(tiny_directory, tiny_changes, golden):
    vae, vit = (ImageTransform(*golden.settings[f"{kind}_transform"]) for kind in ("vae", "vit"))
    return UniMedVLPipeline.from_pretrained(
        tiny_directory, transforms=ImageTransforms(vit, vae, vit), truncate=True, device="cpu", **tiny_changes
    )


@pytest.mark.parametrize("number", range(3))
def test_understanding(golden, pipe, images, number, monkeypatch):
    case = golden.values["vqa"][number]
    answers, logits = [], []
    run = pipe.engine.run

    def spy(sessions, batch):
        output = run(sessions, batch)
        if output.logits is not None:
            logits.append(output.logits[0].clone())
        return output

    monkeypatch.setattr(pipe.engine, "run", spy)
    # The leading bos counts in the reference's length and tokens; ids past the tokenizer's end occur there.
    text = pipe.understand(
        [images[image] for image in case["images"]],
        case["prompt"],
        max_new_tokens=case["max_length"] - 1,
        any_id=True,
        on_text=lambda _, piece: answers.append(piece),
    )
    assert text == pipe.processor.codec.decode(case["tokens"][1:])
    assert text == "".join(answers)
    expected = golden.tensors[f"vqa.{number}.logits"]
    torch.testing.assert_close(torch.stack(logits)[: len(expected)], expected[: len(logits)], atol=ATOL, rtol=0)
    if case["text"] is not None:
        assert case["text"].removeprefix("<|im_start|>") == text


def test_understanding_as_one_batch(golden, pipe, images):
    cases = golden.values["vqa"]
    shortest = min(case["max_length"] for case in cases) - 1
    texts = pipe.understand(
        [[images[image] for image in case["images"]] for case in cases],
        [case["prompt"] for case in cases],
        max_new_tokens=shortest,
        any_id=True,
    )
    assert texts == [pipe.processor.codec.decode(case["tokens"][1 : shortest + 1]) for case in cases]


@pytest.mark.parametrize("number", range(4))
def test_generation(golden, pipe, images, number, monkeypatch):
    case = golden.values["gen"][number]
    args = case["args"]
    width, height = case["size"]
    noise = unpatchify(golden.tensors[f"gen.{number}.noise"], height // 16, width // 16, 2)
    options = {
        "steps": args["num_timesteps"],
        "shift": args["timestep_shift"],
        "text_scale": args["cfg_text_scale"],
        "image_scale": args["cfg_img_scale"],
        "interval": tuple(args["cfg_interval"]),
        "renorm": args.get("cfg_renorm_type", "global"),
        "renorm_min": args.get("cfg_renorm_min", 0.0),
    }
    latents, velocities = [], []
    advance = Euler.advance

    def spy(solver, x, velocity):
        velocities.append(velocity.clone())
        return advance(solver, x, velocity)

    monkeypatch.setattr(Euler, "advance", spy)
    original = pipe.autoencoder().decode
    monkeypatch.setattr(pipe.autoencoder(), "decode", lambda x: latents.append(x[0]) or original(x))
    inputs = [item if isinstance(item, str) else images[item] for item in case["inputs"]]
    result = pipe.interleave(inputs, size=(width, height) if len(inputs) == 1 else None, latents=noise, **options)
    assert result.image.size == (width, height)
    expected = unpatchify(golden.tensors[f"gen.{number}.latent"], height // 16, width // 16, 2)
    torch.testing.assert_close(latents[0], expected, atol=ATOL, rtol=0)
    for place, name in ((0, "first"), (case["steps"] - 1, "last")):
        reference = golden.tensors[f"gen.{number}.velocity.{name}"]
        torch.testing.assert_close(velocities[place], reference, atol=ATOL, rtol=0)
    difference = np.abs(np.asarray(result.image).astype(int) - golden.tensors[f"gen.{number}.image"].numpy())
    assert difference.max() <= 1
    # Truncation to integers turns a rounding difference into a whole step on the few pixels at a border.
    assert (difference > 0).mean() < 0.01
    if len(inputs) == 1:
        image = pipe.generate(inputs[0], size=(width, height), latents=[noise], **options)
        assert np.array_equal(np.asarray(image), np.asarray(result.image))
