from __future__ import annotations

import json

import pandas as pd
import pytest
from PIL import Image

from unimedvl.errors import DataError
from unimedvl.eval.readers.reports import read
from unimedvl.infer.tasks import InferSettings, Prompts

IU = {
    "id": "CXR2384_IM-0942",
    "report": "The heart size is normal. The lungs are clear.",
    "image_path": ["CXR2384_IM-0942/0.png", "CXR2384_IM-0942/1.png"],
    "split": "test",
}
MIMIC = {
    "id": "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014",
    "study_id": 50414267,
    "subject_id": 10000032,
    "report": "There is no focal consolidation.",
    "image_path": ["p10/p10000032/s50414267/02aa804e.jpg"],
    "split": "test",
}
PLUS = {
    "path_to_image": "valid/patient64541/study1/view1_frontal.jpg",
    "path_to_dcm": "valid/patient64541/study1/view1_frontal.dcm",
    "frontal_lateral": "Frontal",
    "deid_patient_id": "patient64541",
    "report": "NARRATIVE: ...",
    "section_findings": "Clear lungs.",
    "section_impression": "1. No acute disease.\n2. Stable.",
    "split": "valid",
}


def pictures(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(folder / name)


def annotated(folder, **splits):
    folder.mkdir(exist_ok=True)
    pictures(folder / "images", *IU["image_path"], *MIMIC["image_path"])
    (folder / "annotation.json").write_text(json.dumps(splits))
    return folder


def plus(folder, *changes):
    pictures(folder, PLUS["path_to_image"])
    pd.DataFrame([{**PLUS, **change} for change in changes]).to_csv(folder / "df_chexpert_plus_240401.csv", index=False)
    return folder


def test_annotations(tmp_path):
    folder = annotated(tmp_path / "iu_xray", train=[{**IU, "id": "t"}], val=[{**IU, "id": "v"}], test=[IU, MIMIC])
    rows = read(folder)
    assert [(row.name, row.task, row.truths, len(row.inputs)) for row in rows] == [
        (f"report-{IU['id']}", "report", (IU["report"],), 2),
        (f"report-{MIMIC['id']}", "report", (MIMIC["report"],), 1),
    ]
    assert rows[0].call(InferSettings()).wording == Prompts().report
    assert read(folder / "annotation.json") == rows == read(tmp_path)
    assert [row.name for row in read(folder, "validation")] == ["report-v"]


def test_a_list_of_annotations(tmp_path):
    folder = annotated(tmp_path)
    (folder / "annotation.json").write_text(json.dumps([IU, {**MIMIC, "split": "train"}]))
    assert [row.name for row in read(folder)] == [f"report-{IU['id']}"]


def test_chexpert_plus(tmp_path):
    folder = plus(tmp_path, {}, {"section_findings": None}, {"section_findings": "", "section_impression": None},
                  {"split": "train", "path_to_image": "train/patient1/study1/view1_frontal.jpg"})  # fmt: skip
    rows = read(folder, "valid")
    assert [row.name for row in rows] == [
        "report-valid-patient64541-study1-view1_frontal",
        "report-valid-patient64541-study1-view1_frontal-2",
        "report-valid-patient64541-study1-view1_frontal-3",
    ]
    assert [row.truth for row in rows] == [
        "Findings: Clear lungs.\nImpression: 1. No acute disease.\n2. Stable.",
        "Impression: 1. No acute disease.\n2. Stable.",
        "NARRATIVE: ...",
    ]
    assert rows[0].inputs[0].size == (8, 6)
    with pytest.raises(DataError, match="no row is of the split 'test'.*use one of train, valid"):
        read(folder)


def test_images_turned_to_png(tmp_path):
    plus(tmp_path, {"path_to_image": "valid/a.jpg"})
    pictures(tmp_path / "PNG", "valid/a.png")
    assert read(tmp_path, "valid")[0].images[0].path == "PNG/valid/a.png"
    pictures(tmp_path, "valid/a.jpg")
    assert read(tmp_path, "valid")[0].images[0].path == "valid/a.jpg"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"report": " "}, "'report' is empty"),
        ({"report": 3.5, "image_path": []}, "'image_path' is empty"),
        ({"image_path": ["CXR1/0.png"]}, r"no image file .*CXR1/0\.png"),
        ({"image_path": [None]}, "'image_path' is empty"),
    ],
)
def test_annotations_that_cannot_be_used(tmp_path, change, message):
    with pytest.raises(DataError, match=rf"{message}.*annotation\.json, test, row 2\)"):
        read(annotated(tmp_path, test=[IU, {**IU, **change}]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"section_findings": "", "section_impression": "", "report": ""}, "'report' is empty"),
        ({"path_to_image": ""}, "'path_to_image' is empty"),
        ({"path_to_image": "valid/b.jpg"}, r"no image file .*valid/b\.jpg"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, change, message):
    """The first row stands on two lines."""
    with pytest.raises(DataError, match=rf"{message}.*240401\.csv, line 4\)"):
        read(plus(tmp_path, {}, change), "valid")


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match="no split is called 'test'.*use one of train, val"):
        read(annotated(tmp_path, train=[IU], val=[IU]))
    with pytest.raises(DataError, match="holds a dict, not a list .*annotation.json, test"):
        read(annotated(tmp_path, test=IU))
    with pytest.raises(DataError, match="no row to ask"):
        read(annotated(tmp_path, test=[]))
    with pytest.raises(DataError, match="no column 'image_path' among id, report"):
        read(annotated(tmp_path, test=[{"id": "x", "report": "y"}]))
    (tmp_path / "annotation.json").write_text('{"test": [')
    with pytest.raises(DataError, match="bad JSON: .*annotation.json, line 1"):
        read(tmp_path)
    (tmp_path / "a").mkdir()
    for name in ("x.csv", "y.csv"):
        (tmp_path / "a" / name).touch()
    with pytest.raises(DataError, match=r"several files could be meant: x\.csv, y\.csv"):
        read(tmp_path / "a")
