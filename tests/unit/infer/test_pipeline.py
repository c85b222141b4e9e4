"""Tasks through the public pipeline: what each shows to the model, batches, and refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from unimedvl import NOTICE, UniMedVLPipeline
from unimedvl.errors import CheckpointError, ConfigError, DataError
from unimedvl.imaging import read_image
from unimedvl.infer.placement import as_device, as_dtype
from unimedvl.infer.tasks import Call, InferSettings, with_options

FAST = {"steps": 4, "max_new_tokens": 4}


@pytest.fixture
def requests_seen(pipe, monkeypatch):
    seen = []
    original = pipe.runner.run

    def spy(requests, **options):
        seen.extend(requests)
        return original(requests, **options)

    monkeypatch.setattr(pipe.runner, "run", spy)
    return seen


def words(request):
    return [item if isinstance(item, str) else "IMAGE" for item in request.inputs]


def test_ragged_batch_equals_single_answers(pipe, images):
    ragged = [[images[0]], [], [images[1], images[2]]]
    prompts = ["What is shown?", "Describe pneumonia.", "Compare."]
    batch = pipe.understand(ragged, prompts, max_new_tokens=6)
    assert batch == [pipe.understand(own, text, max_new_tokens=6) for own, text in zip(ragged, prompts, strict=True)]


def test_batched_images_equal_single_ones(pipe, images):
    """B = 3 edits with mixed sizes, answers first and guidance on: tokens equal, pixels within one gray level."""
    ragged, prompts = [[images[0]], [images[1]], [images[2]]], ["Stain it.", "Segment the heart.", "Sharpen."]
    batch = pipe.edit(ragged, prompts, **FAST)
    for own, text, together in zip(ragged, prompts, batch, strict=True):
        alone = pipe.edit(own, text, **FAST)
        assert together.token_ids == alone.token_ids
        difference = np.abs(np.asarray(together.image).astype(int) - np.asarray(alone.image))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01


def test_edit_says_first_and_the_answer_shapes_the_image(pipe, images, requests_seen):
    answered = pipe.edit([images[0]], "Stain it.", **FAST)
    direct = pipe.edit([images[0]], "Stain it.", mode="direct", **FAST)
    assert answered.text
    assert direct.text is None
    assert [request.outputs for request in requests_seen] == [("text", "image"), ("image",)]
    assert all(request.images_as == "vae+vit" for request in requests_seen)
    assert not np.array_equal(np.asarray(answered.image), np.asarray(direct.image))


def test_understand_then_edit(pipe, images, requests_seen):
    result = pipe.edit([images[0]], "Stain it.", mode="understand", **FAST)
    question, drawing = requests_seen
    assert (question.outputs, question.images_as) == (("text",), "vit")
    assert drawing.outputs == ("image",)
    assert words(drawing) == ["IMAGE", f"Stain it.\n\n{result.text}"]
    direct = pipe.edit([images[0]], f"Stain it.\n\n{result.text}", mode="direct", **FAST)
    assert np.array_equal(np.asarray(result.image), np.asarray(direct.image))


def test_counterfactual_explains_without_seeing_its_image(pipe, images):
    result = pipe.counterfactual([images[0]], "Remove the opacity.", **FAST)
    direct = pipe.edit([images[0]], "Remove the opacity.", mode="direct", **FAST)
    answered = pipe.edit([images[0]], "Remove the opacity.", **FAST)
    assert np.array_equal(np.asarray(result.image), np.asarray(direct.image))
    assert result.token_ids == answered.token_ids


def test_thinking_plans_before_it_draws(pipe, requests_seen):
    planned = pipe.generate("A brain MRI.", size=(64, 48), think=True, **FAST)
    plain = pipe.generate("A brain MRI.", size=(64, 48), **FAST)
    assert requests_seen[0].system == InferSettings().prompts.think
    assert requests_seen[0].outputs == ("text", "image")
    assert not np.array_equal(np.asarray(planned), np.asarray(plain))


def test_history_is_part_of_the_question(pipe, images, requests_seen):
    call = Call(
        "vqa",
        (read_image(images[0]),),
        "And where?",
        with_options(pipe.settings, max_new_tokens=3),
        history=(("What?", "A lung."),),
    )
    pipe.perform([call])
    assert words(requests_seen[0]) == ["IMAGE", "What?", "A lung.", "And where?"]


def test_reports_carry_the_notice_and_default_prompts(pipe, images, requests_seen):
    settings = with_options(pipe.settings, max_new_tokens=3)
    report, caption = pipe.perform(
        [Call(task, (read_image(images[0]),), None, settings) for task in ("report", "caption")]
    )
    assert report.text.endswith(NOTICE)
    assert NOTICE not in caption.text
    prompts = pipe.settings.prompts
    assert [words(request)[-1] for request in requests_seen] == [prompts.report, prompts.caption]


def test_reconstruction_through_the_autoencoder(pipe, images):
    (made,) = pipe.reconstruct([images[0]])
    with torch.no_grad():
        pixels, _ = pipe.processor.to_condition(images[0])
        expected = pipe.autoencoder().decode(pipe.autoencoder().encode(pixels[None]))[0]
    assert made.size == (pixels.shape[2], pixels.shape[1])
    values = ((expected * 0.5 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(made), values)


def test_streams_are_numbered_by_call(pipe, images):
    settings = with_options(pipe.settings, max_new_tokens=6, steps=2, size=(32, 32))
    shown = (read_image(images[0]),)
    calls = [
        Call("t2i", (), "Brain.", settings),
        Call("vqa", shown, "What?", settings),
        Call("counterfactual", shown, "Remove it.", settings),
    ]
    pieces = {}
    results = pipe.perform(calls, on_text=lambda n, piece: pieces.update({n: pieces.get(n, "") + piece}))
    assert pieces == {1: results[1].text, 2: results[2].text}


def test_records_of_understood_edits_are_whole(pipe, images):
    result = pipe.edit([images[0]], "Stain it.", mode="understand", **FAST)
    assert result.finish == "length"
    assert result.settings["mode"] == "understand"
    assert result.settings["text"]["max_new_tokens"] == 4
    assert result.settings["image"]["steps"] == 4


def test_single_images_and_numpy_seeds(pipe, images, tmp_path):
    images[0].save(tmp_path / "a.png")
    expected = pipe.understand([images[0]], "What?", max_new_tokens=4)
    for image in (images[0], tmp_path / "a.png", str(tmp_path / "a.png")):
        assert pipe.understand(image, "What?", max_new_tokens=4) == expected
    pair = [pipe.generate("Brain.", size=(32, 32), steps=2, seed=seed) for seed in (3, np.int64(3))]
    assert np.array_equal(*map(np.asarray, pair))
    assert pipe.generate([]) == []


def test_seeds_and_prompts_of_a_batch(pipe):
    same = pipe.generate(["Brain.", "Brain."], size=(64, 48), seed=[1, 1], steps=3)
    assert np.array_equal(np.asarray(same[0]), np.asarray(same[1]))
    other = pipe.generate(["Brain.", "Brain."], size=(64, 48), seed=[1, 2], steps=3)
    assert not np.array_equal(np.asarray(other[0]), np.asarray(other[1]))


def test_results_tell_how_they_were_made(pipe, tmp_path):
    result = pipe.interleave(["A brain MRI."], size=(64, 48), steps=3, seed=9)
    result.save_image(tmp_path / "x.png")
    stored = json.loads(Image.open(tmp_path / "x.png").text["unimedvl"])
    assert stored == json.loads(json.dumps(result.settings))
    assert stored["inputs"] == ["A brain MRI."]
    assert stored["image"]["seed"] == 9
    assert stored["image"]["steps"] == 3
    assert stored["size"] == [64, 48]
    assert stored["model"] == pipe.model_id
    assert set(result.timings) == {"inputs", "context", "text", "image", "total"}
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"], "nothing half-written stays"


def test_what_was_done_to_pixels_is_in_the_settings(pipe):
    deep = Image.fromarray(np.array([[0, 3000], [100, 9]] * 8, dtype=np.uint16))
    result = pipe.perform([Call("vqa", (read_image(deep),), "What?", with_options(pipe.settings, max_new_tokens=2))])[0]
    assert result.settings["inputs"][0]["steps"] == ["range 0 to 3000 scaled to 8 bits"]


@pytest.mark.parametrize("device_map", ["offload", "auto", {0: "cpu", 1: "cpu", 2: "cpu"}])
def test_placed_by_accelerate(saved_tiny, pipe, images, device_map):
    placed = UniMedVLPipeline.from_pretrained(saved_tiny, device="cpu", device_map=device_map)
    if device_map == "offload":
        assert next(placed.engine.model.parameters()).is_meta
    assert placed.understand([images[0]], "What?", max_new_tokens=5) == pipe.understand(
        [images[0]], "What?", max_new_tokens=5
    )
    mine, other = (p.edit([images[0]], "Stain it.", **FAST).image for p in (placed, pipe))
    assert np.array_equal(np.asarray(mine), np.asarray(other))


def test_understanding_only(saved_tiny, pipe, images):
    small = UniMedVLPipeline.from_pretrained(saved_tiny, device="cpu", und_only=True)
    assert not any("moe_gen" in name for name, _ in small.engine.model.named_parameters())
    assert small.understand([images[0]], "What?", max_new_tokens=5) == pipe.understand(
        [images[0]], "What?", max_new_tokens=5
    )
    with pytest.raises(ConfigError, match="loaded without the half that makes images"):
        small.generate("Brain.", size=(64, 48))
    with pytest.raises(ConfigError, match="loaded without the half that makes images"):
        small.edit([images[0]], "Stain it.", mode="direct")


def test_a_checkpoint_without_the_autoencoder_still_answers(tiny_model, tiny_directory, tmp_path, images):
    from unimedvl.model.weights import save_checkpoint

    save_checkpoint(tmp_path / "x", tiny_model, tokenizer_from=tiny_directory)
    pipe = UniMedVLPipeline.from_pretrained(tmp_path / "x", device="cpu")
    assert pipe.understand([images[0]], "What?", max_new_tokens=3)
    with pytest.raises(CheckpointError, match="ae.safetensors is missing"):
        pipe.generate("Brain.", size=(64, 48))


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda p, i: p.understand([i[0]], " "), DataError, "the text is empty"),
        (lambda p, i: p.generate(""), DataError, "the text is empty"),
        (lambda p, i: p.understand([i[0]], ["a", "b"]), DataError, "2 prompts and 1 single images"),
        (lambda p, i: p.understand([i[0], i[1]], ["a", "b"]), DataError, "2 prompts and 2 single images.*one list"),
        (lambda p, i: p.edit([], "Stain."), DataError, "edit needs an image"),
        (lambda p, i: p.interleave([]), DataError, "nothing to start from"),
        (lambda p, i: p.generate("a", step=3), ConfigError, "no option is called 'step'.*known: .*steps"),
        (lambda p, i: p.generate("a", preset="best"), ConfigError, "no preset is called 'best'.*t2i, edit, none"),
        (lambda p, i: p.edit([i[0]], "a", mode="fast"), ConfigError, "no mode is called 'fast'"),
        (lambda p, i: p.understand(["/nowhere.png"], "a"), DataError, "no such file"),
        (lambda p, i: p.generate("a", size=(64, 48), latents=[torch.zeros(4, 2, 2)]), DataError, "latent of shape"),
        (lambda p, i: p.generate(["a", "b"], seed=[1]), DataError, "1 seeds for 2 prompts"),
        (lambda p, i: p.generate("a", seed=-1), ConfigError, "seed is -1"),
        (lambda p, i: p.generate("a", text_scale=float("nan")), ConfigError, "text_scale is nan"),
        (lambda p, i: p.generate("a", shift=float("nan")), ConfigError, "shift is nan"),
        (lambda p, i: p.generate("a", interval=(2.0, 3.0)), ConfigError, "interval is"),
        (lambda p, i: p.generate("a", steps="many"), ConfigError, r"'many' \(steps\); give int"),
        (lambda p, i: p.understand([], "a", max_new_tokens=10**9), DataError, "exceed the 4096"),
        (lambda p, i: Call("reconstruct", (1, 2)), DataError, "2 images to reconstruct.*one a call"),
        (lambda p, i: as_device("foo"), ConfigError, "device 'foo'"),
        (lambda p, i: as_device("cuda:77"), ConfigError, "device 'cuda:77'"),
        (lambda p, i: as_dtype("int8"), ConfigError, "dtype is 'int8'.*bfloat16"),
        (lambda p, i: Call("paint"), ConfigError, "no task is called 'paint'.*vqa, report"),
        (lambda p, i: Call("vqa").wording, DataError, "vqa needs a prompt"),
    ],
)
def test_refusals(pipe, images, act, error, message):
    with pytest.raises(error, match=message):
        act(pipe, images)
