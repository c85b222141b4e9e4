"""Duplicates against a search over all pairs, and on a corpus with planted copies and leaks."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from unimedvl.data.curation.duplicates import DuplicateSettings, Entry, duplicates, entry, normalized
from unimedvl.data.curation.fingerprints import Fingerprint, fingerprints
from unimedvl.data.curation.pairs import Pair
from unimedvl.errors import ConfigError, DataError

WIDE = DuplicateSettings(difference=2.0)


def blobs(seed: int, side: int = 128) -> Image.Image:
    from scipy.ndimage import gaussian_filter

    generator = np.random.default_rng(seed)
    field = gaussian_filter(generator.normal(size=(side, side)), 10)
    low, high = np.quantile(field, [0.01, 0.99])
    gray = np.clip(30 + 160 * (field - low) / (high - low), 0, 255)
    return Image.fromarray((gray + generator.normal(0, 3, gray.shape)).clip(0, 255).astype(np.uint8))


def print_of(number: int, exact: str = "") -> Fingerprint:
    return Fingerprint(exact or f"{number:064x}", number, bytes(range(256)))


def item(pair: str, *images: Fingerprint, split: str = "train", key: str = "k") -> Entry:
    return Entry(pair, split, key.encode(), images)


def found(entries, options=WIDE) -> dict[str, tuple[str, str]]:
    return {one.pair: (one.reason, one.detail.split()[-1]) for one in duplicates(entries, options)}


# --- pairs -------------------------------------------------------------------------------------------------


def test_the_first_of_equal_pairs_stays():
    image, near_it = print_of(0), print_of(0b111)
    entries = [item("a", image), item("b", image), item("c", near_it), item("d", print_of(2**40 - 1))]
    assert found(entries) == {"b": ("exact duplicate", "a"), "c": ("near duplicate", "a")}
    assert found(entries[::-1]) == {"b": ("near duplicate", "c"), "a": ("near duplicate", "c")}


def test_other_questions_about_an_image_stay():
    assert not found([item("a", print_of(0), key="one"), item("b", print_of(0), key="two")])


@pytest.mark.parametrize("order", [1, -1])
def test_no_image_stands_in_two_splits(order):
    entries = [
        item("train", print_of(1), key="1"),
        item("near", print_of(3), key="2"),
        item("validation", print_of(1), split="validation", key="3"),
        item("test", print_of(1), split="test", key="4"),
        item("other", print_of(2**50 - 1), key="5"),
        item("held", print_of(2**63 - 2**20), split="validation", key="6"),
        item("leaked", print_of(2**63 - 2**20), key="6"),
    ][::order]
    assert found(entries) == {
        "train": ("leaked from test", "test"),
        "near": ("leaked from test", "test"),
        "validation": ("leaked from test", "test"),
        "leaked": ("leaked from validation", "held"),
    }


def test_leaks_do_not_pass_through_a_third():
    """The last is near to the second only, which leaks, and not to the held-out one."""
    one, two, three = print_of(0), print_of(0b11111), print_of(0b11111_11111)
    entries = [item("a", one, split="test"), item("b", two), item("c", three)]
    assert found(entries) == {"b": ("leaked from test", "a")}
    # Near to a held-out image that is itself near to another one.
    entries = [item("a", one, split="test"), item("b", two, split="test", key="x"), item("c", three)]
    assert found(entries) == {"c": ("leaked from test", "b")}


def test_any_image_of_a_pair_leaks():
    fresh, held = print_of(2**50 - 1), print_of(0)
    entries = [item("a", fresh, held), item("b", held, split="test")]
    assert found(entries) == {"a": ("leaked from test", "b")}


def test_facts_pass_through_json():
    one = item("a", print_of(2**64 - 1), print_of(3), split="test", key="\x00\xff")
    one = replace(one, asked=b"\x01\xfe", short=True)
    assert Entry.from_facts("a", json.loads(json.dumps(one.facts()))) == one
    for wrong in (
        {},
        {**one.facts(), "images": [["x"]]},
        {**one.facts(), "key": "no hex"},
        {**one.facts(), "asked": None},
    ):
        with pytest.raises(DataError, match="pair a"):
            Entry.from_facts("a", wrong)


def test_a_hash_alone_makes_no_duplicate():
    """Two pictures of one hash and of different thumbnails."""
    other = Fingerprint("f" * 64, 0, bytes(range(255, -1, -1)))
    assert not found([item("a", print_of(0)), item("b", other)], DuplicateSettings())
    assert found([item("a", print_of(0)), item("b", other)], WIDE)


def test_pairs_without_images():
    assert found([item("a"), item("b"), item("c", key="x")]) == {"b": ("exact duplicate", "a")}
    assert not found([])


@pytest.mark.parametrize("order", [1, -1])
def test_a_text_of_the_test_is_not_trained_on(order):
    entries = [item("train", key="k"), item("test", split="test", key="k"), item("validation", split="validation")]
    leaked = ("leaked from test", "test")
    assert found(entries[::order]) == {"train": leaked, "validation": ("leaked from test", "test")}
    # The same question with another answer; of images, the image decides.
    asked = [replace(one, key=one.pair.encode(), asked=b"q") for one in entries]
    assert found(asked[::order]) == {"train": leaked, "validation": leaked}
    entries = [item("train", print_of(2**40 - 1)), item("test", print_of(1), split="test")]
    assert not found([replace(one, asked=b"q") for one in entries][::order])


def test_other_answers_to_a_question_stay_and_are_flagged():
    files = {"i": print_of(1), "copy": print_of(3), "other": print_of(2**50 - 1)}

    def asked(name: str, text: str, image: str = "i", question: str = "Is there an effusion?"):
        return entry(Pair(name, "s", "understanding", "vqa", text=text, question=question, images=(image,)), files)

    entries = [
        asked("yes", "Yes."),
        asked("no", "No", "copy"),
        asked("again", "yes"),
        asked("elsewhere", "No", "other"),
        asked("else", "Left", question="Where?"),
        asked("long", "An effusion of the left side is seen, which " + "fills " * 20),
    ]
    assert [(one.pair, one.action, one.reason) for one in duplicates(entries, WIDE)] == [
        ("yes", "flag", "other answer to the same question"),
        ("no", "flag", "other answer to the same question"),
        ("again", "drop", "exact duplicate"),
    ]
    assert found(entries)["yes"][1] == "no"


def test_later_turns_tell_dialogues_apart():
    def dialogue(*texts: str, **values):
        turns = [[("human", "gpt")[number % 2], text] for number, text in enumerate(texts)]
        values = {"question": texts[0], "text": texts[1], "more": {"turns": turns}, **values}
        return entry(Pair("x", "s", "understanding", images=("i",), **values), {"i": print_of(1)})

    one = dialogue("What?", "A scan.", "Of what?", "The chest.")
    assert one.key != dialogue("What?", "A scan.", "Of what?", "The head.").key
    assert one.asked == dialogue("What?", "A scan.", "Of what?", "The head.").asked
    assert one.asked != dialogue("What?", "A scan.", "Where?", "The chest.").asked
    assert one.key == dialogue("<image>what", "A scan", "Of what", "The chest").key
    plain = entry(Pair("x", "s", "understanding", images=("i",), question="What?", text="A scan."), {"i": print_of(1)})
    assert plain.key == dialogue("<image>What?", "A scan.").key


def leaking(count: int, gap: float) -> list[Entry]:
    """Test images of one hash, and a copy of each in training; ``gap`` says how much they differ."""
    generator = np.random.default_rng(count)
    base = generator.normal(0, 24, 256)

    def print_near(thumb, name):
        return Fingerprint(name, 7, np.clip(np.rint(128 + thumb), 0, 255).astype(np.uint8).tobytes())

    entries = []
    for number in range(count):
        thumb = base + generator.normal(0, gap, 256)
        copy = thumb + generator.normal(0, 0.4, 256)
        entries.append(item(f"e{number}", print_near(thumb, f"e{number}"), split="test", key=f"e{number}"))
        entries.append(item(f"t{number}", print_near(copy, f"t{number}"), key=f"t{number}"))
    return entries


@pytest.mark.parametrize("count", [300, 1500])
def test_leaks_among_images_of_one_hash(count):
    """More test images of one hash than are compared in step: 1 - correlation is 0.03 between, 0.0003 of copies."""
    decisions = duplicates(leaking(count, 4.5))
    leaked = {one.pair for one in decisions if one.reason == "leaked from test"}
    assert leaked == {f"t{number}" for number in range(count)}
    (told,) = [one for one in decisions if one.pair not in leaked]
    assert (told.action, told.reason, told.score) == ("flag", "searched in part", 2 * count)


def test_small_crowds_are_searched_wholly():
    decisions = duplicates(leaking(250, 4.5))
    assert {(one.action, one.reason) for one in decisions} == {("drop", "leaked from test")}
    assert len(decisions) == 250


def test_many_images_of_one_hash_and_thumbnail():
    """Nothing here tells them apart: all of training leak."""
    entries = [item(f"e{n}", print_of(7, f"{n:064x}"), split="test", key=f"e{n}") for n in range(600)]
    entries += [item(f"t{n}", print_of(7, f"{n + 600:064x}"), key=f"t{n}") for n in range(600)]
    decisions = duplicates(entries, DuplicateSettings())
    assert {one.pair for one in decisions if one.reason == "leaked from test"} == {f"t{n}" for n in range(600)}


def test_what_makes_pairs_the_same():
    files = {"i": print_of(1), "m": print_of(2), "n": print_of(3)}

    def key(**values):
        return entry(Pair("x", "s", **{"family": "understanding", "images": ("i",), **values}), files).key

    assert key(text="Chest X-ray.") == key(text="chest  x ray")
    assert key(question="Where?", text="Left") == key(question="where", text="left.")
    assert key(question="Where?", text="Left") != key(question="Where?", text="Right")
    assert key(question="Left") != key(text="Left")
    assert key(family="edit") == key(family="edit")
    assert key(text="left") != key(text="right")
    assert key(text="left") != key(text="left", family="t2i")
    masks = [
        entry(Pair("x", "s", "edit", "segmentation", images=("i",), target=mask, text="t"), files) for mask in "mn"
    ]
    assert masks[0].key != masks[1].key
    assert masks[0].images == (files["i"],)
    assert entry(Pair("x", "s", "edit", "translation", images=("i",), target="m"), files).images == (
        files["i"],
        files["m"],
    )
    assert entry(Pair("x", "s", "t2i", target="i"), files).split == "train"


@given(st.text())
def test_normalizing_twice_changes_nothing(text):
    assert normalized(normalized(text)) == normalized(text)


def test_planted_copies_and_leaks(tmp_path):
    """180 different images and 20 planted: precision and recall are both 1 here."""
    pairs, truth = [], {}
    for number in range(180):
        file = tmp_path / f"{number}.png"
        blobs(number).save(file)
        split = "test" if number >= 160 else "train"
        pairs.append(Pair(f"{number:016x}", "s", "understanding", split=split, text=f"t{number}", images=(str(file),)))
    altered = [
        lambda image, file: image.save(file.with_suffix(".png")),
        lambda image, file: image.save(file.with_suffix(".jpg"), quality=70),
        lambda image, file: image.resize((200, 200)).save(file.with_suffix(".png")),
        lambda image, file: ImageEnhance.Brightness(image).enhance(0.85).save(file.with_suffix(".png")),
    ]
    for number in range(20):
        of, change = (number if number < 12 else 150 + number), altered[number % 4]
        change(blobs(of), tmp_path / f"copy{number}")
        (file,) = tmp_path.glob(f"copy{number}.*")
        same = Pair(f"{1000 + number:016x}", "s", "understanding", text=f"t{of}", images=(str(file),), split="train")
        pairs.append(same)
        kind = "exact duplicate" if number % 4 == 0 else "near duplicate"
        truth[same.id] = "leaked from test" if of >= 160 else kind
    entries = [entry(pair, prints) for pair, prints in zip(pairs, fingerprints(pairs), strict=True)]
    assert {one.pair: one.reason for one in duplicates(entries)} == truth
    assert sum(reason == "leaked from test" for reason in truth.values()) == 8


@pytest.mark.parametrize("values", [{"distance": -1}, {"distance": 11}, {"difference": 3}, {"difference": -0.1}])
def test_settings_that_cannot_be(values):
    with pytest.raises(ConfigError, match="give 0 to"):
        DuplicateSettings(**values)
