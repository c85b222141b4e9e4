"""PMC-OA, Quilt-1M, PubMedVision, CheXpert Plus and ICG-CXR on small trees of their layouts."""

from __future__ import annotations

import csv
import json

import pytest

from unimedvl.data.curation.ingest import READERS, ReaderSettings, Skipped
from unimedvl.errors import DataError


def lines(path, *values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def sheet(path, *values):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(values[0]))
        writer.writeheader()
        writer.writerows(values)


@pytest.mark.parametrize("folder", ["", "images", "caption_T060_filtered_top4_sep_v0_subfigures"])
def test_pmc_oa(folder, tmp_path, picture):
    image = picture(tmp_path / folder / "PMC1_Fig1_2.jpg")
    lines(tmp_path / "train.jsonl", {"image": "PMC1_Fig1_2.jpg", "caption": "A liver.", "subset": "compound"})
    lines(tmp_path / "valid.jsonl", {"image": "PMC1_Fig1_2.jpg", "caption": "The same."})
    lines(tmp_path / "pmc_oa.jsonl", {"image": "PMC1_Fig1_2.jpg", "caption": "Again.", "split": "test"})
    pairs = {pair.text: pair for pair in READERS["pmc_oa"](tmp_path, ReaderSettings())}
    first = pairs["A liver."]
    assert (first.source, first.family, first.subtask) == ("PMC-OA", "understanding", "caption")
    assert first.images == (str(image),)
    assert first.more == {"name": "PMC1_Fig1_2.jpg", "subset": "compound"}
    assert [pairs[text].split for text in ("A liver.", "The same.", "Again.")] == ["train", "validation", "test"]
    (one,) = READERS["pmc_oa"](tmp_path / "pmc_oa.jsonl", ReaderSettings(family="t2i"))
    assert (one.images, one.target) == ((), str(image))


QUILT = {"": 0, "caption": "Tumor cells.", "image_path": "a_1.jpg", "subset": "quilt", "split": "val",
         "pathology": "['Breast']", "magnification": "1.0", "noisy_text": "uh tumor", "roi_text": "[]"}  # fmt: skip


@pytest.mark.parametrize("folder", ["", "quilt_1m", "images"])
def test_quilt_1m(folder, tmp_path, picture):
    image = picture(tmp_path / folder / "a_1.jpg")
    sheet(tmp_path / "quilt_1M_lookup.csv", QUILT, {**QUILT, "split": "", "subset": "train", "pathology": ""})
    first, second = READERS["quilt_1m"](tmp_path, ReaderSettings())
    assert (first.source, first.modality, first.text) == ("Quilt-1M", "HIS", "Tumor cells.")
    assert first.images == (str(image),)
    assert first.more == {"name": "a_1.jpg", "subset": "quilt", "pathology": "['Breast']", "magnification": "1.0"}
    assert (first.split, second.split) == ("validation", "train")


def vision(image, *turns, **more):
    said = [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(turns)]
    return {"image": image, "conversations": said, "id": "pubmedvision_1", "modality": "Computed Tomography",
            "body_part": "Chest", **more}  # fmt: skip


def test_pubmedvision(tmp_path, picture):
    images = [str(picture(tmp_path / "images" / name)) for name in ("a.jpg", "b.jpg")]
    rows = [
        vision(["images/a.jpg", "images/b.jpg"], "<image>\n<image>\nWhat?", "A lung.", "And?", "A heart."),
        vision(["images/b.jpg"], "Which?", "This.", modality="Others"),
    ]
    (tmp_path / "PubMedVision_Alignment_VQA.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "PubMedVision_InstructionTuning_VQA.json").write_text(json.dumps(rows[1:]))
    pairs = list(READERS["pubmedvision"](tmp_path, ReaderSettings()))
    assert [(pair.question, pair.text) for pair in pairs] == [
        ("What?", "A lung."),
        ("And?", "A heart."),
        ("Which?", "This."),
        ("Which?", "This."),
    ]
    assert [pair.images for pair in pairs[1:3]] == [tuple(images), (images[1],)]
    assert [pair.modality for pair in pairs] == ["CT", "CT", "", ""]
    assert pairs[1].more == {
        "id": "pubmedvision_1",
        "body_part": "Chest",
        "part": "PubMedVision_Alignment_VQA",
        "round": 1,
    }
    assert len({pair.id for pair in pairs}) == 4


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([], "no list of questions"),
        (["What?"], "no list of questions"),
        (["What?", 3], "turn 2 is no text of gpt"),
    ],
)
def test_a_dialogue_that_cannot_be(turns, expected, tmp_path, picture):
    picture(tmp_path / "images" / "a.jpg")
    (tmp_path / "PubMedVision_Alignment_VQA.json").write_text(json.dumps([vision(["images/a.jpg"], *turns)]))
    with pytest.raises(DataError, match=f"{expected}.*row 1"):
        list(READERS["pubmedvision"](tmp_path, ReaderSettings()))


CHEXPERT = {
    "path_to_image": "train/patient1/study2/view1_frontal.jpg",
    "frontal_lateral": "Frontal",
    "deid_patient_id": "patient1",
    "report": "ACCESSION NUMBER: XYZZY",
    "section_findings": "Clear lungs.",
    "section_impression": "Normal.",
    "section_accession_number": "XYZZY",
    "age": "sixty-one",
    "race": "White",
    "insurance_type": "Medicare",
    "split": "train",
}


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("folder", ["", "PNG"])
def test_chexpert_plus(folder, suffix, tmp_path, picture):
    image = picture(tmp_path / folder / f"train/patient1/study2/view1_frontal{suffix}")
    rows = [
        CHEXPERT,
        {**CHEXPERT, "section_findings": "", "split": "valid"},
        {**CHEXPERT, "section_findings": "", "section_impression": ""},
    ]
    sheet(tmp_path / "df_chexpert_plus_240401.csv", *rows)
    skipped = Skipped()
    first, second = READERS["chexpert_plus"](tmp_path, ReaderSettings(), skipped)
    assert (first.text, first.images) == ("Findings: Clear lungs.\nImpression: Normal.", (str(image),))
    assert (first.modality, first.subtask, first.split) == ("CXR", "report", "train")
    assert first.more == {"anatomy": "chest", "view": "frontal", "subject": "patient1"}
    assert (second.text, second.split) == ("Impression: Normal.", "validation")
    assert skipped.counts == {"neither findings nor impression": 1}
    assert not any(word in repr(first) for word in ("sixty-one", "White", "Medicare", "XYZZY", "ACCESSION"))


ICG = {"image_before": "1.png", "image_after": "2.png", "instruction": "Add an effusion.", "report": "An effusion."}


def test_icg_cxr(tmp_path, picture):
    before, after = (str(picture(tmp_path / name)) for name in ("1.png", "2.png"))
    lines(tmp_path / "x.jsonl", {**ICG, "split": "test", "subject": "p1"})
    sheet(tmp_path / "y.csv", {"a": "1.png", "b": "2.png", "c": "Ask.", "d": "Say."})
    (pair,) = READERS["icg_cxr"](tmp_path / "x.jsonl", ReaderSettings())
    assert (pair.family, pair.modality, pair.split) == ("counterfactual", "CXR", "test")
    assert (pair.images, pair.target, pair.question, pair.text) == ((before,), after, *list(ICG.values())[2:])
    assert pair.more == {"anatomy": "chest", "subject": "p1"}
    own = ReaderSettings(image_column="a", target_column="b", question_column="c", text_column="d")
    (pair,) = READERS["icg_cxr"](tmp_path / "y.csv", own)
    assert (pair.images, pair.target, pair.question, pair.text) == ((before,), after, "Ask.", "Say.")
    assert pair.source == "ICG-CXR"


def test_what_changes_and_where(tmp_path, picture):
    for name in ("1.png", "2.png"):
        picture(tmp_path / name)
    rows = [{**ICG, "change": "Add", "finding": "pleural effusion", "side": " LEFT"}, {**ICG, "change": "remove"}]
    lines(tmp_path / "x.jsonl", *rows)
    first, second = READERS["icg_cxr"](tmp_path / "x.jsonl", ReaderSettings())
    assert first.more == {"anatomy": "chest", "change": "add", "finding": "pleural effusion", "side": "left"}
    assert second.more == {"anatomy": "chest", "change": "remove"}


@pytest.mark.parametrize(
    ("column", "value", "remedy"), [("change", "worse", "add, remove"), ("side", "up", "left, right, both")]
)
def test_another_change_or_side(column, value, remedy, tmp_path, picture):
    for name in ("1.png", "2.png"):
        picture(tmp_path / name)
    lines(tmp_path / "x.jsonl", {**ICG, column: value})
    with pytest.raises(DataError, match=f"no known {column}: '{value}' .*line 1.*{remedy}"):
        list(READERS["icg_cxr"](tmp_path / "x.jsonl", ReaderSettings()))


CASES = {
    "pmc_oa": ("x.jsonl", {"image": "a.png", "caption": "x"}, "image"),
    "quilt_1m": ("quilt_1M_lookup.csv", QUILT, "image_path"),
    "pubmedvision": ("PubMedVision_Alignment_VQA.json", vision(["a.png"], "What?", "This."), "image"),
    "chexpert_plus": ("df_chexpert_plus_240401.csv", CHEXPERT, "path_to_image"),
    "icg_cxr": ("x.jsonl", ICG, "image_before"),
}


def put(path, values):
    if path.suffix == ".csv":
        sheet(path, values)
    else:
        path.write_text(json.dumps([values] if path.suffix == ".json" else values))


@pytest.mark.parametrize("name", CASES)
def test_missing_images_stop_or_count(name, tmp_path):
    file, values, _ = CASES[name]
    put(tmp_path / file, values)
    with pytest.raises(DataError, match="no such image"):
        list(READERS[name](tmp_path, ReaderSettings()))
    skipped = Skipped()
    assert list(READERS[name](tmp_path, ReaderSettings(on_missing="skip"), skipped)) == []
    assert skipped.counts == {"no such image": 1}


@pytest.mark.parametrize("name", CASES)
def test_a_missing_column_is_named(name, tmp_path):
    file, values, column = CASES[name]
    put(tmp_path / file, {key: value for key, value in values.items() if key != column})
    with pytest.raises(DataError, match=f"no column '{column}': there are .*(row|line)"):
        list(READERS[name](tmp_path, ReaderSettings()))


FAULTS = {
    "pmc_oa": ({"split": "DOE"}, "no known split"),
    "quilt_1m": ({"image_path": ""}, "'image_path' names no image"),
    "pubmedvision": ({"conversations": [3]}, "conversations are no list of questions and answers"),
    "chexpert_plus": ({"split": "DOE"}, "no known split"),
    "icg_cxr": ({"change": "DOE"}, "no known change"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_faulty_row_stops_or_counts(name, tmp_path, picture):
    file, values, column = CASES[name]
    for image in ("a.png", "1.png", "2.png"):
        picture(tmp_path / image)
    good = values if name == "icg_cxr" else {**values, column: "a.png"}
    change, reason = FAULTS[name]
    rows = [{**good, **change}, good]
    if file.endswith(".csv"):
        sheet(tmp_path / file, *rows)
    elif file.endswith(".jsonl"):
        lines(tmp_path / file, *rows)
    else:
        (tmp_path / file).write_text(json.dumps(rows))
    with pytest.raises(DataError, match=reason):
        list(READERS[name](tmp_path, ReaderSettings()))
    skipped = Skipped()
    assert len(list(READERS[name](tmp_path, ReaderSettings(on_missing="skip"), skipped))) == 1
    assert skipped.counts == {reason: 1}
    ((place,),) = skipped.first.values()
    assert place.startswith(f"{tmp_path / file}, ")
