from __future__ import annotations

import base64
import io
import json
import pickle

import pytest
from PIL import Image

from unimedvl.data.records import ImageRef, RecordError, Turn, parse_record


def png(width: int = 4, height: int = 3) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 10, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def own(**changes):
    values = {
        "main_task_type": "understanding",
        "input_img": [{"path": "a.png"}],
        "message": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "This."}],
    }
    return {**values, **changes}


def test_own_form():
    record = parse_record(json.dumps(own(modality="CT", sub_task_type="vqa", dataset="d")))
    assert (record.family, record.modality, record.subtask, record.dataset) == ("understanding", "CT", "vqa", "d")
    assert record.inputs == (ImageRef("a.png"),)
    assert record.turns == (Turn("human", "<image>\nWhat?"), Turn("gpt", "This."))


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("VQA", "understanding"),
        ("Text-to-Image", "t2i"),
        ("super_resolution", "edit"),
        ("virtual staining", "edit"),
        ("Counterfactual_Generation", "counterfactual"),
        ("reconstruction", "reconstruction"),
        ("text_only", "text"),
    ],
)
def test_families_by_their_names_in_files(name, family):
    outputs = [{"path": "b.png"}] if family in ("t2i", "edit", "counterfactual") else None
    inputs = None if family in ("t2i", "text") else [{"path": "a.png"}]
    text = "<image>Do." if family == "understanding" else "Do."
    message = [{"from": "human", "value": text}, {"from": "gpt", "value": "Done."}]
    assert (
        parse_record(own(main_task_type=name, input_img=inputs, output_img=outputs, message=message)).family == family
    )


def test_llava_form():
    turns = own()["message"]
    assert parse_record({"conversations": turns, "image": "a.png"}).inputs == (ImageRef("a.png"),)
    two = [{"from": "human", "value": "<image><image>Compare."}, turns[1]]
    assert len(parse_record({"conversations": two, "image": ["a.png", "b.png"]}).inputs) == 2
    plain = [{"from": "human", "value": "Hello."}, turns[1]]
    assert parse_record({"conversations": plain}).family == "text"


@pytest.mark.parametrize("captions", [{"a": "one", "b": "two", "c": None}, '{"a": "one", "b": "two"}', ["one", "two"]])
def test_captions_form(captions):
    record = parse_record({"image": png(), "captions": captions})
    assert (record.family, record.captions, record.turns) == ("t2i", ("one", "two"), ())
    assert record.outputs[0].read(None).size == (4, 3)


@pytest.mark.parametrize(
    "reference",
    [
        {"bytes": png()},
        {"bytes": png(), "path": None},
        {"base64": base64.b64encode(png()).decode()},
        "data:image/png;base64," + base64.b64encode(png()).decode(),
        base64.b64encode(png() + b"\0" * 2000).decode(),
        {"base64": base64.encodebytes(png()).decode()},
        {"base64": base64.urlsafe_b64encode(png()).decode().rstrip("=")},
        {"bytes": base64.b64encode(png()).decode()},
        png(),
    ],
)
def test_images_inside_a_row(reference):
    record = parse_record(own(input_img=[reference]))
    assert record.inputs[0].read(None).getpixel((0, 0)) == (200, 10, 30)


def test_a_sequence_as_datasets_store_it():
    turns = {"from": ["human", "gpt"], "value": ["<image>What?", "This."]}
    assert parse_record({"conversations": turns, "image": "a.png"}).turns[1] == Turn("gpt", "This.")


def test_broken_exif_costs_nothing(tmp_path):
    image = Image.new("RGB", (5, 4))
    image.save(tmp_path / "a.png", exif=b"Exif\0\0XXnothing")
    assert ImageRef("a.png").read(tmp_path).size == (5, 4)


def test_paths_start_at_the_root(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    assert parse_record(own()).inputs[0].read(tmp_path).size == (4, 3)
    assert parse_record(own(input_img=str(tmp_path / "a.png"))).inputs[0].read(tmp_path / "other").size == (4, 3)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "bad JSON"),
        ("", "bad JSON"),
        ("[1]", "bad JSON"),
        ('{"message": [{"from": "human", "value": "\\ud800"}]}', "missing field"),
        (own(modality="\ud800"), "not UTF-8"),
        ({"image": png(), "captions": ["\ud800"]}, "not UTF-8"),
        (own(message="[" * 100_000), "bad JSON"),
        (own(input_img=["data:image/png;base64"]), "damaged image"),
        ({}, "missing field"),
        (own(main_task_type=None), "missing field"),
        (own(message=None), "missing field"),
        (own(main_task_type="dance"), "unknown task"),
        (own(main_task_type=3), "wrong type"),
        (own(message="{"), "bad JSON"),
        (own(message=[1]), "wrong type"),
        (own(message=[{"from": "robot", "value": "x"}]), "wrong type"),
        (own(message=[{"from": "human"}]), "missing field"),
        (own(input_img=[]), "image count"),
        (own(input_img=["a.png", "b.png"]), "image count"),
        (own(input_img=[{}]), "missing image"),
        (own(input_img=[{"base64": "%%"}]), "damaged image"),
        (own(message=[{"from": "human", "value": "<image>"}]), "empty text"),
        (own(message=[{"from": "human", "value": "<image>"}, {"from": "gpt", "value": " "}]), "empty text"),
        (own(main_task_type="t2i", input_img=None), "image count"),
        (own(main_task_type="edit", output_img=["b.png", "c.png"]), "image count"),
        (own(main_task_type="edit", output_img=["b.png"], input_img=None), "image count"),
        (own(main_task_type="reconstruction", input_img=[], message=[{"from": "human", "value": "x"}]), "image count"),
        ({"image": png(), "captions": "{"}, "bad JSON"),
        ({"image": png(), "captions": {"a": ""}}, "empty text"),
        ({"image": png(), "captions": [1]}, "wrong type"),
        ({"captions": ["a"]}, "image count"),
    ],
)
def test_faults_have_reasons(row, reason):
    with pytest.raises(RecordError) as caught:
        parse_record(row)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.reason, str(again)) == (reason, str(caught.value))


def test_images_that_cannot_be_read(tmp_path):
    Image.new("1", (20_000, 9_000)).save(tmp_path / "huge.png")
    (tmp_path / "cut.png").write_bytes(png(50, 50)[:-30])
    with pytest.raises(RecordError, match="no file can have this name"):
        ImageRef("a\0.png").read(tmp_path)
    for name, reason in (("none.png", "missing image"), ("huge.png", "huge image"), ("cut.png", "damaged image")):
        with pytest.raises(RecordError, match=name) as caught:
            ImageRef(name).read(tmp_path)
        assert caught.value.reason == reason
