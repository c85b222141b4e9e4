"""A harness's prompts and generation options as ours, and the entry point by which lmms-eval finds us."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unimedvl.errors import ConfigError, DataError
from unimedvl.eval import bridges
from unimedvl.eval.bridges import context, placed, report, shown, text_options
from unimedvl.infer.decoding import TextOptions
from unimedvl.infer.tasks import InferSettings

PROJECT = Path(__file__).parents[4]
PIPE = SimpleNamespace(settings=InferSettings(text=TextOptions(max_new_tokens=48, repetition_penalty=1.1)))


@pytest.fixture(autouse=True)
def _nothing_reported_yet():
    report.cache_clear()


def images(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (4 + number, 4)) for number in range(count)]


def kinds(items) -> list[str | int]:
    """Texts as they are, images by the number that :func:`images` gave them."""
    return [item if isinstance(item, str) else item.image.width - 4 for item in items]


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({}, {}),
        ({"max_new_tokens": 16, "temperature": 0, "do_sample": False}, {"max_new_tokens": 16}),
        ({"max_gen_toks": 7}, {"max_new_tokens": 7}),
        ({"max_tokens": 7}, {"max_new_tokens": 7}),
        ({"temperature": 0.7, "top_p": 0.9}, {"temperature": 0.7, "top_p": 0.9}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"do_sample": True, "temperature": None, "top_p": None}, {"temperature": 1.0}),
        ({"do_sample": True, "temperature": 0.2}, {"temperature": 0.2}),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.5}, {}),
        ({"temperature": 0, "top_p": 0, "top_k": 1, "num_beams": 1}, {}),
        ({"until": "\n\n"}, {"stop": ("\n\n",)}),
        ({"until": ["a", "", "b"]}, {"stop": ("a", "b")}),
        ({"until": None}, {}),
        ({"repetition_penalty": 1.3, "seed": 5}, {"repetition_penalty": 1.3, "seed": 5}),
    ],
)
def test_generation_options_become_ours(given_, expected, caplog):
    defaults = {"max_new_tokens": 48, "repetition_penalty": 1.1}
    assert text_options(PIPE, given_) == TextOptions(**{**defaults, **expected})  # pyright: ignore[reportArgumentType]
    assert not caplog.records


def test_options_of_the_harness_are_left_as_they_were():
    given_ = {"until": ["x"], "do_sample": False, "top_p": 0.3}
    text_options(PIPE, given_)  # pyright: ignore[reportArgumentType]
    assert given_ == {"until": ["x"], "do_sample": False, "top_p": 0.3}


def test_an_unknown_option_is_reported_once(caplog):
    for _ in range(3):
        options = text_options(PIPE, {"num_beams": 5, "temperature": 0.5, "top_k": 50})  # pyright: ignore[reportArgumentType]
        assert options.temperature == 0.5
    said = sorted(record.getMessage() for record in caplog.records)
    assert [line.split(" has no")[0] for line in said] == [
        "the generation option num_beams=5",
        "the generation option top_k=50",
    ]


@pytest.mark.parametrize(
    ("given_", "match"),
    [
        ({"temperature": 0.5, "top_p": 0}, "top_p is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": "many"}, "'many' (max_new_tokens); give int"),
    ],
)
def test_a_value_that_cannot_work_is_refused(given_, match):
    with pytest.raises(ConfigError, match=re.escape(match)):
        text_options(PIPE, given_)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("Which organ?", 0, ["Which organ?"]),
        ("Which organ?", 2, [0, 1, "Which organ?"]),
        ("<image>\nWhich organ?", 1, [0, "Which organ?"]),
        ("Before: <image> After: <image> What changed?", 2, ["Before:", 0, "After:", 1, "What changed?"]),
        ("What is this? <image>", 1, ["What is this?", 0]),
    ],
)
def test_images_stand_where_their_marks_are(text, count, expected, caplog):
    assert kinds(placed(text, images(count))) == expected
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [("<image> and <image>?", 1, [0, "and ?"]), ("<image>\nWhich?", 3, [0, 1, 2, "Which?"]), ("A <image>", 0, ["A"])],
)
def test_marks_that_do_not_match_are_reported(text, count, expected, caplog):
    assert kinds(placed(text, images(count))) == expected
    (record,) = caplog.records
    assert f"{text.count('<image>')} <image> marks for {count} images" in record.getMessage()


@given(st.lists(st.sampled_from(["<image>", "word", "two words", " ", "\n", "<imag", "e>"])), st.integers(0, 4))
def test_no_image_and_no_word_is_lost(parts, count):
    text = " ".join(parts)
    if not count and not text.replace("<image>", "").strip():
        return
    items = placed(text, images(count))
    assert [item for item in kinds(items) if isinstance(item, int)] == list(range(count))
    words = " ".join(item for item in items if isinstance(item, str)).split()
    assert words == text.replace("<image>", " ").split()


def test_texts_that_follow_each_other_are_one():
    (image,) = images(1)
    assert kinds(context([" a ", "", "b\n", shown(image), "c", "\n", "d"])) == ["a\nb", 0, "c\nd"]


def test_nothing_to_ask_is_refused():
    with pytest.raises(DataError, match="neither text nor image"):
        placed(" \n", [])


def test_an_image_may_be_a_path(tmp_path):
    path = tmp_path / "gray.png"
    Image.new("L", (5, 4), 7).save(path)
    assert shown(str(path)).image.getpixel((0, 0)) == (7, 7, 7)
    assert shown(path).image.size == shown(path.read_bytes()).image.size == (5, 4)


@pytest.mark.parametrize(
    ("visual", "match"),
    [({"array": [0.0], "sampling_rate": 1}, "a dict where an image should be"), ("film.mp4", "film.mp4")],
)
def test_what_is_no_image_is_refused(visual, match):
    with pytest.raises(DataError, match=match):
        shown(visual)


def test_the_manifest_names_a_class_that_is_there(monkeypatch):
    @dataclass
    class ModelManifest:
        model_id: str
        simple_class_path: str | None = None

    for name in ("lmms_eval", "lmms_eval.models", "lmms_eval.models.registry_v2"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["lmms_eval.models.registry_v2"].ModelManifest = ModelManifest  # pyright: ignore[reportAttributeAccessIssue]
    manifest = bridges.lmms_eval_manifest()
    assert manifest.model_id == "unimedvl"
    module, name = manifest.simple_class_path.rsplit(".", 1)
    source = importlib.util.find_spec(module)
    assert source is not None
    assert source.origin is not None
    assert f"class {name}(lmms)" in Path(source.origin).read_text()


def test_the_package_registers_the_manifest():
    text = (PROJECT / "pyproject.toml").read_text()
    (line,) = re.findall(r'^\[project\.entry-points\."lmms_eval\.models"\]\n(.+)$', text, re.MULTILINE)
    module, name = re.fullmatch(r'unimedvl = "(.+):(.+)"', line).groups()  # pyright: ignore[reportOptionalMemberAccess]
    assert getattr(importlib.import_module(module), name) is bridges.lmms_eval_manifest
