"""What the full, text and image contexts of guidance hold, token by token and position by position."""

from __future__ import annotations

from unimedvl.imaging import read_image
from unimedvl.infer.requests import Request
from unimedvl.infer.sampling import Guidance, ImageOptions
from unimedvl.infer.tasks import Call, with_options

GUIDED = ImageOptions(Guidance(3.0, 2.0, (0.0, 1.0)), steps=2)


def contexts_of(pipe, monkeypatch, request):
    """The three contexts as FlowSampler gets them: (cache length, position)."""
    from unimedvl.infer import runner

    seen = {}
    original = runner.FlowSampler

    def spy(engine, contexts, options, latent):
        for name in ("full", "without_text", "without_images"):
            session = getattr(contexts, name)
            seen[name] = None if session is None else (len(session), session.position, session)
        return original(engine, contexts, options, latent)

    monkeypatch.setattr(runner, "FlowSampler", spy)
    pipe.run([request])
    return seen


def tokens(pipe, text):
    return len(pipe.processor.text(text).token_ids)


def image_tokens(pipe, image):
    pixels, seen = pipe.processor.to_condition(image)
    vae = pixels[0].numel() // pipe.engine.model.config.latent_stride**2 + 2
    vit = seen.pixels[0].numel() // 14**2 + 2
    return vae + vit


def test_image_text_image_text(pipe, images, monkeypatch):
    first, second = images[0], images[1]
    request = Request(
        (read_image(first), "Transform this slice.", read_image(second), "Now compare."),
        ("image",),
        "vae+vit",
        image=GUIDED,
    )
    seen = contexts_of(pipe, monkeypatch, request)
    one, two = tokens(pipe, "Transform this slice."), tokens(pipe, "Now compare.")
    pictures = image_tokens(pipe, first) + image_tokens(pipe, second)
    # An image takes two positions, one for its latents and one for its ViT patches.
    assert seen["full"][:2] == (pictures + one + two, 4 + one + two)
    assert seen["without_text"][:2] == (pictures + one, 4 + one)
    # Images that are missing from the image context do not advance its positions.
    assert seen["without_images"][:2] == (one + two, one + two)


def test_an_image_at_the_end_is_in_the_text_context(pipe, images, monkeypatch):
    request = Request(("Sharpen.", read_image(images[1])), ("image",), "vae+vit", image=GUIDED)
    seen = contexts_of(pipe, monkeypatch, request)
    assert seen["without_text"][:2] == seen["full"][:2]
    assert seen["without_images"][:2] == (tokens(pipe, "Sharpen."),) * 2


def test_thinking(pipe, images, monkeypatch):
    """The system text is in the full and the image context, before the prompt; the plan in the full one only."""
    settings = with_options(pipe.settings, max_new_tokens=3, steps=2, text_scale=3.0, image_scale=2.0)
    call = Call("t2i", (), "A brain.", settings, think=True)
    seen = contexts_of(pipe, monkeypatch, call.request())
    system, prompt, plan = tokens(pipe, settings.prompts.think), tokens(pipe, "A brain."), 3 + 2
    assert seen["full"][:2] == (system + prompt + plan,) * 2
    assert seen["without_text"][:2] == (system,) * 2
    assert seen["without_images"][:2] == (system + prompt,) * 2


def test_an_answer_joins_the_full_context_only(pipe, images, monkeypatch):
    settings = with_options(pipe.settings, max_new_tokens=4, steps=2, interval=(0.0, 1.0))
    call = Call("edit", (read_image(images[0]),), "Stain it.", settings)
    seen = contexts_of(pipe, monkeypatch, call.request())
    picture, prompt, answer = image_tokens(pipe, images[0]), tokens(pipe, "Stain it."), 4 + 2
    assert seen["full"][:2] == (picture + prompt + answer, 2 + prompt + answer)
    assert seen["without_text"][:2] == (picture, 2)
    assert seen["without_images"][:2] == (prompt, prompt)
