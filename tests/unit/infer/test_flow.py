"""Sampling: batches of mixed sizes, branches, solvers, and what guidance must not ignore."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unimedvl.errors import ConfigError, DataError
from unimedvl.infer.flow import Contexts, FlowLoop, FlowSampler, noise_for
from unimedvl.infer.sampling import PRESETS, SOLVERS, Guidance, ImageOptions
from unimedvl.infer.session import Session
from unimedvl.types import VaeSegment

# float32 latents of order 1 after a few guided steps, sums taken in another order.
ATOL = 1e-4
CASES = [
    ("Generate an MRI of the brain.", None, (64, 48), ImageOptions(PRESETS["t2i"], 6, seed=1)),
    ("Stain it.", 0, (96, 64), ImageOptions(PRESETS["edit"], 6, seed=2)),
    ("Transform this slice.", 2, (32, 96), ImageOptions(Guidance(3.0, 1.5, (0.4, 1.0), "channel", 0.2), 6, seed=3)),
]


def sampler(pipe, images, case, cache=None):
    """A sampler with the contexts that its guidance needs."""
    prompt, image, size, options = case
    engine, processor = pipe.engine, pipe.processor
    cache = cache or engine.cache(2000)
    full, without_images = Session(cache.open(250)), Session(cache.open(150))
    if image is not None:
        pixels, seen = processor.to_condition(images[image])
        with torch.no_grad():
            latent = pipe.autoencoder().encode(pixels[None])[0]
        engine.append([full], [[VaeSegment(latent=latent), seen]])
    without_text = full.fork(80)
    engine.append([full, without_images], [[processor.text(prompt)]] * 2)
    contexts = Contexts(full, without_text, without_images)
    return FlowSampler(engine, contexts, options, noise_for(engine, size, options.seed))


def finish(pipe, *samplers):
    loop = FlowLoop(pipe.engine)
    while not all(each.done for each in samplers):
        loop.step(samplers)
    return [each.latent for each in samplers]


def test_a_batch_of_mixed_sizes_equals_each_alone(pipe, images):
    cache = pipe.engine.cache(3000)
    together = finish(pipe, *(sampler(pipe, images, case, cache) for case in CASES))
    for latent, case in zip(together, CASES, strict=True):
        (alone,) = finish(pipe, sampler(pipe, images, case))
        torch.testing.assert_close(latent, alone, atol=ATOL, rtol=0)


def test_two_generations_interleaved_equal_each_alone(pipe, images):
    cache = pipe.engine.cache(2000)
    first, second = (sampler(pipe, images, case, cache) for case in CASES[:2])
    loops = FlowLoop(pipe.engine), FlowLoop(pipe.engine)
    while not (first.done and second.done):
        loops[0].step([first])
        loops[1].step([second])
    for latent, case in ((first.latent, CASES[0]), (second.latent, CASES[1])):
        (alone,) = finish(pipe, sampler(pipe, images, case))
        assert torch.equal(latent, alone)


def test_images_of_different_step_counts_in_one_batch(pipe, images):
    cases = [(*CASES[0][:3], ImageOptions(PRESETS["t2i"], steps)) for steps in (3, 7)]
    cache = pipe.engine.cache(2000)
    together = finish(pipe, *(sampler(pipe, images, case, cache) for case in cases))
    for latent, case in zip(together, cases, strict=True):
        (alone,) = finish(pipe, sampler(pipe, images, case))
        torch.testing.assert_close(latent, alone, atol=ATOL, rtol=0)


def test_text_scale_one_is_no_guidance_exactly(pipe):
    plain = pipe.generate("Brain.", size=(64, 48), steps=5, preset="none", seed=4)
    scaled = pipe.generate(
        "Brain.", size=(64, 48), steps=5, text_scale=1.0, image_scale=3.0, interval=(0.0, 1.0), renorm="channel", seed=4
    )
    assert np.array_equal(np.asarray(plain), np.asarray(scaled))
    guided = pipe.generate("Brain.", size=(64, 48), steps=5, text_scale=4.0, seed=4)
    assert not np.array_equal(np.asarray(plain), np.asarray(guided))


@pytest.mark.parametrize(
    ("contexts", "missing"), [({}, "text"), ({"without_images": 1}, "text"), ({"without_text": 1}, "image")]
)
def test_a_missing_context_is_never_ignored(pipe, contexts, missing):
    session = Session(pipe.engine.cache(10).open(10))
    given = Contexts(session, **dict.fromkeys(contexts, session))
    with pytest.raises(ConfigError, match=f"{missing} guidance is on, but its context is missing"):
        FlowSampler(pipe.engine, given, ImageOptions(PRESETS["edit"]), torch.zeros(4, 4, 4))


def test_guidance_outside_its_interval_needs_one_branch(pipe, images):
    options = ImageOptions(PRESETS["t2i"], 6, shift=1.0)
    one = sampler(pipe, images, (*CASES[0][:3], options))
    branches = []
    loop = FlowLoop(pipe.engine)
    while not one.done:
        # 0.4 itself is outside, and in float32 a hair above 0.4.
        branches.append((one.timestep > 0.4001, len(one.branches())))
        loop.step([one])
    assert set(branches) == {(True, 2), (False, 1)}


def test_fewer_steps_with_multistep_solvers(pipe, monkeypatch):
    """At 16 steps UniPC and DPM++ land nearer to the 200-step Euler path than Euler does, in the mean over seeds."""
    latents = []
    original = pipe.autoencoder().decode

    def keep(x):
        latents.append(x[0].clone())
        return original(x)

    monkeypatch.setattr(pipe.autoencoder(), "decode", keep)

    def end_points(**options):
        latents.clear()
        pipe.generate(["An MRI of the brain."] * 6, size=(64, 48), seed=list(range(6)), **options)
        return torch.stack(latents)

    reference = end_points(steps=200)
    distance = {
        name: (end_points(steps=16, solver=name) - reference).flatten(1).norm(dim=1).mean().item() for name in SOLVERS
    }
    assert distance["unipc"] < 0.8 * distance["euler"], distance
    assert distance["dpm++"] < 0.8 * distance["euler"], distance


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_follow_a_straight_path_exactly(name):
    """Constant velocity: every solver must arrive at noise - velocity."""
    solver = SOLVERS[name](9, 3.0)
    noise, velocity = torch.randn(6, 4), torch.randn(6, 4)
    x = noise
    for _ in solver.timesteps:
        x = solver.advance(x, velocity)
    # The multistep solvers start a hair below 1 and work in log space.
    torch.testing.assert_close(x, noise - velocity, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("size", "message"),
    [((65, 48), "size 65 x 48.*multiples of 16"), ((272, 16), "at most 256"), ((0, 16), "positive multiples")],
)
def test_bad_sizes(pipe, size, message):
    with pytest.raises(DataError, match=message):
        pipe.generate("Brain.", size=size)


def test_noise_depends_on_the_seed_alone(pipe):
    assert torch.equal(noise_for(pipe.engine, (64, 48), 5), noise_for(pipe.engine, (64, 48), 5))
    assert not torch.equal(noise_for(pipe.engine, (64, 48), 5), noise_for(pipe.engine, (64, 48), 6))
    assert noise_for(pipe.engine, (64, 48), 5).shape == (4, 6, 8)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ImageOptions(steps=1), "1 timesteps.*at least 2"),
        (lambda: ImageOptions(shift=0.0), "shift is 0.0"),
        (lambda: ImageOptions(solver="heun"), "solver is 'heun'.*euler, unipc"),
        (lambda: Guidance(renorm_min=2.0), "renorm_min is 2.0"),
        (lambda: Guidance(interval=(0.9, 0.1)), "interval is"),
    ],
)
def test_bad_options(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
