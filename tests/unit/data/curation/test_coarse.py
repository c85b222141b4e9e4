"""The coarse filter: each bound at its edge, and planted faults in a small corpus."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from unimedvl.data.curation.coarse import CoarseSettings, coarse, contrast_of, said, turns_of
from unimedvl.data.curation.pairs import Pair
from unimedvl.errors import ConfigError

TEXT = "A chest X-ray."


def noise(width: int = 140, height: int = 140, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(60, 200, (height, width), dtype=np.uint8))


def pair_of(folder, image: Image.Image | None = None, name: str = "a.png", **values) -> Pair:
    file = folder / name
    if image is not None:
        image.save(file)
    return Pair(**{"id": "1", "source": "s", "family": "understanding", "text": TEXT, "images": (str(file),), **values})


def reasons(*pairs: Pair, **bounds) -> list[str]:
    return [decision.reason for decision in coarse(pairs, CoarseSettings(**bounds))]


@pytest.mark.parametrize(
    ("length", "expected"), [(9, ["text too short"]), (10, []), (1024, []), (1025, ["text too long"])]
)
def test_lengths_of_texts(tmp_path, length, expected):
    assert reasons(pair_of(tmp_path, noise(), text="x" * length)) == expected
    assert reasons(pair_of(tmp_path, noise(), text="  " + "x" * length + "\n")) == expected


def test_a_short_answer_to_a_question_stays(tmp_path):
    pair = pair_of(tmp_path, noise(), question="Is there an effusion?", text="Yes")
    assert said(pair) == "Is there an effusion? Yes"
    assert reasons(pair) == []


def dialogue(folder, *texts: str, family: str = "understanding") -> Pair:
    turns = [[("human", "gpt")[number % 2], text] for number, text in enumerate(texts)]
    asked, answered = texts[0].replace("<image>", "").strip(), texts[1]
    return pair_of(folder, noise(), family=family, question=asked, text=answered, more={"turns": turns})


def test_every_round_of_a_dialogue_is_judged(tmp_path):
    first = ("<image>What is seen?", "A chest X-ray.")
    assert reasons(dialogue(tmp_path, *first, "Any effusion?", "word " * 600)) == ["text too long"]
    assert reasons(dialogue(tmp_path, *first, "Any effusion? " * 90, "No.")) == ["text too long"]
    # Each round may be as long as a pair of its own.
    assert reasons(dialogue(tmp_path, *first, "Why?", "word " * 190, "And so?", "word " * 190)) == []
    assert reasons(dialogue(tmp_path, "<image>", "CT.", "Eh?", "No.")) == ["text too short"]
    pair = dialogue(tmp_path, *first, "Any effusion?", " No. ")
    assert turns_of(pair)[0] == ("human", "What is seen?")
    assert [text for _, text in turns_of(pair)][2:] == ["Any effusion?", "No."]


@pytest.mark.parametrize("text", ["", "  ", "<image>"])
@pytest.mark.parametrize("family", ["understanding", "text"])
def test_a_question_without_an_answer(tmp_path, family, text):
    assert reasons(pair_of(tmp_path, noise(), family=family, question="Is there an effusion?", text=text)) == [
        "no answer"
    ]


def test_questions_of_edits_are_answered_by_images(tmp_path):
    noise(seed=1).save(tmp_path / "t.png")
    values = {"question": "Sharpen this image.", "text": "", "target": str(tmp_path / "t.png")}
    assert reasons(pair_of(tmp_path, noise(), family="edit", **values)) == []


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("<image>What is it?", "An X-ray.", "Of what part?"), ["no answer"]),
        (("<image>What is it?", "An X-ray.", "Of what part?", ""), ["no answer"]),
        (("<image>What is it?", "", "Of what part?", "The chest."), ["no answer"]),
        (("<image>", "An X-ray of the chest.", "Of what part?", "The chest."), []),
    ],
)
def test_a_turn_without_an_answer(tmp_path, texts, expected):
    assert reasons(dialogue(tmp_path, *texts)) == expected


def test_two_questions_in_a_row_have_one_answer(tmp_path):
    turns = [["human", "<image>A man of 60."], ["human", "What is it?"], ["gpt", "An X-ray."]]
    assert reasons(pair_of(tmp_path, noise(), question="A man of 60.", text="An X-ray.", more={"turns": turns})) == []


def test_pairs_of_images_get_their_text_later(tmp_path):
    made = noise(seed=1)
    made.save(tmp_path / "t.png")
    values = {"text": "", "target": str(tmp_path / "t.png")}
    assert reasons(pair_of(tmp_path, noise(), family="edit", **values)) == []
    assert reasons(pair_of(tmp_path, noise(), family="t2i", **values)) == ["text too short"]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((128, 128), []),
        ((127, 300), ["image too small"]),
        ((300, 127), ["image too small"]),
        ((1024, 128), []),
        ((1025, 128), ["image too narrow"]),
    ],
)
def test_sides(tmp_path, size, expected):
    assert reasons(pair_of(tmp_path, noise(*size))) == expected


def test_sides_are_read_from_the_header(tmp_path, monkeypatch):
    pair = pair_of(tmp_path, noise(100, 100))
    monkeypatch.setattr("unimedvl.data.curation.coarse.read_image", None)
    assert reasons(pair) == ["image too small"]


def test_sides_of_a_format_whose_header_says_nothing(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    volume = np.random.default_rng(0).integers(0, 200, (100, 140, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "v.nii")
    assert reasons(pair_of(tmp_path, name="v.nii")) == ["image too small"]


def test_every_image_of_a_pair_is_looked_at(tmp_path):
    noise(100, 200).save(tmp_path / "t.png")
    (decision,) = coarse([pair_of(tmp_path, noise(), target=str(tmp_path / "t.png"))])
    assert (decision.reason, decision.score) == ("image too small", 100)
    assert "t.png: 100 x 200" in decision.detail


@pytest.mark.parametrize("content", [b"", b"no image at all", None])
def test_unreadable_images(tmp_path, content):
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    (decision,) = coarse([pair_of(tmp_path)])
    assert (decision.reason, decision.action) == ("unreadable image", "drop")
    assert "a.png" in decision.detail


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_torn_image_has_a_good_header(tmp_path, name):
    pair = pair_of(tmp_path, noise(300, 300), name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    assert reasons(pair) == ["unreadable image"]


def test_plain_images(tmp_path):
    assert reasons(pair_of(tmp_path, Image.new("RGB", (140, 140), "gray"))) == ["plain image"]
    faint = Image.fromarray(np.tile(np.array([100, 106], np.uint8), (140, 70)))
    assert contrast_of(faint) == pytest.approx(3)
    assert reasons(pair_of(tmp_path, faint)) == []
    assert reasons(pair_of(tmp_path, faint), min_contrast=3.1) == ["plain image"]


def test_a_mask_may_be_empty(tmp_path):
    Image.new("L", (140, 140)).save(tmp_path / "t.png")
    values = {"family": "edit", "target": str(tmp_path / "t.png")}
    assert reasons(pair_of(tmp_path, noise(), subtask="segmentation", **values)) == []
    assert reasons(pair_of(tmp_path, noise(), subtask="translation", **values)) == ["plain image"]


def test_planted_faults(tmp_path):
    """160 good pairs, 8 of each of 5 faults: all of them, and nothing else, is found, in order."""
    faults = {
        "text too short": {"text": "CT."},
        "text too long": {"text": "long " * 300},
        "image too small": {"image": noise(96, 140)},
        "plain image": {"image": Image.new("L", (140, 140), 9)},
        "image too narrow": {"image": noise(1300, 130)},
    }
    pairs, truth = [], []
    for number in range(200):
        values = {"image": noise(seed=number)}
        if number % 5 == 0:
            reason = list(faults)[number // 5 % 5]
            values |= faults[reason]
            truth.append((f"{number:016x}", reason))
        pairs.append(pair_of(tmp_path, name=f"{number}.png", id=f"{number:016x}", **values))
    found = coarse(pairs)
    assert [(decision.pair, decision.reason) for decision in found] == truth
    assert {decision.action for decision in found} == {"drop"}
    chunked = [decision for first in range(0, 200, 33) for decision in coarse(pairs[first : first + 33])]
    assert chunked == found


@pytest.mark.parametrize(
    "values", [{"min_characters": 20, "max_characters": 10}, {"min_side": 0}, {"max_aspect": 0.5}, {"min_contrast": -1}]
)
def test_settings_that_cannot_be(values):
    with pytest.raises(ConfigError, match="coarse"):
        CoarseSettings(**values)
