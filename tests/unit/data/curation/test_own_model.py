"""Our own model as captioner and scorer: the bundled one, which knows small pictures of a few kinds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from unimedvl.bundled import FOLDER
from unimedvl.data.curation.own_model import OwnModel, seed_of
from unimedvl.errors import UniMedVLError

pytestmark = pytest.mark.skipif(not (FOLDER / "unimedvl_config.json").is_file(), reason="no bundled weights")


@pytest.fixture(scope="module")
def model() -> OwnModel:
    return OwnModel("bundled", max_new_tokens=12)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (128, 128, 3), dtype=np.uint8))


def fundus() -> Image.Image:
    rows, columns = np.mgrid[:128, :128] / 64 - 1
    radius = np.hypot(rows, columns)
    disk = np.hypot(rows, columns - 0.4) < 0.15
    red = np.where(radius < 0.9, 190, 0) + 50 * disk
    green = np.where(radius < 0.9, 85, 0) + 130 * disk
    return Image.fromarray(np.stack([red, green, green // 3], axis=-1).astype(np.uint8))


def test_captions_follow_from_seed_and_key_alone(model):
    images, keys = [picture(0), picture(1)], ["p", "q"]
    found = model.captions(images, keys, 3, 0)
    assert [len(own) for own in found] == [3, 3]
    assert all(isinstance(text, str) for own in found for text in own)
    assert model.captions(images[1:], keys[1:], 3, 0) == found[1:]
    assert model.captions(images, keys, 3, 1) != found


def test_more_captions_than_are_written_at_once(model):
    assert [len(own) for own in model.captions([picture(0)] * 4, list("abcd"), 5, 0)] == [5] * 4


def test_the_text_that_fits_scores_higher(model):
    texts = ["A fundus photograph of the retina, color.", "A frontal chest X-ray.", "An ultrasound image of the heart."]
    scores = model.scores([fundus()] * 3, texts)
    assert int(np.argmax(scores)) == 0
    assert scores[0] > 0


def test_the_likelihood_against_decoding_by_hand(model):
    """Without an image: cross-entropies of the tokens after a question, from logits."""
    from unimedvl.data.packing import pack

    pipe, text = model.pipe, "A frontal chest X-ray."
    question, answer = pipe.processor.text("What does this image show?"), pipe.processor.codec.segment(text)
    batch = pack([(question, answer)], pipe.engine.model.config, pipe.engine.special, logits="all")
    with torch.inference_mode():
        logits = pipe.engine.model(batch).logits.float()
    first = len(question.token_ids)
    chosen = logits.log_softmax(-1)[range(first, first + len(answer.token_ids) - 1), list(answer.token_ids[1:])]
    # The loss is computed in chunks of another size.
    assert model._log_likelihood(text, None) == pytest.approx(float(chosen.mean()), abs=1e-4)


def test_seeds_differ():
    seeds = {seed_of(seed, key, number) for seed in range(5) for key in ("", "a", "b") for number in range(5)}
    assert len(seeds) == 75
    assert all(0 <= seed < 2**62 for seed in seeds)


def test_a_directory_without_a_model(tmp_path):
    with pytest.raises(UniMedVLError):
        OwnModel(str(tmp_path)).captions([picture(0)], ["a"], 1, 0)
