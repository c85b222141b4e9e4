from __future__ import annotations

import json

import pytest
from PIL import Image

from unimedvl.errors import DataError
from unimedvl.eval.readers.omni_med_vqa import read

ROW = {
    "dataset": "ACRIMA",
    "question_id": "ACRIMA_0000",
    "question_type": "Modality Recognition",
    "question": "What imaging technique was employed to obtain this picture?",
    "gt_answer": "Fundus imaging",
    "image_path": "Images/ACRIMA/Im553_g_ACRIMA.png",
    "option_A": "PET scan",
    "option_B": "CT scan",
    "option_C": "Blood test",
    "option_D": "Fundus imaging",
    "modality_type": "Fundus Photography",
}
TWO = {"question_id": "ACRIMA_0001", "option_A": "No", "option_B": "Yes", "gt_answer": "Yes"}


def omni(folder, *rows, part="Open-access", name="ACRIMA.json"):
    image = folder / ROW["image_path"]
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(image)
    file = folder / "QA_information" / part / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows))
    return folder


def short(**changes):
    """A row with two options, whose other columns are absent."""
    return {name: value for name, value in {**ROW, **TWO, **changes}.items() if name not in ("option_C", "option_D")}


def test_open_access(tmp_path):
    folder = omni(tmp_path / "OmniMedVQA", ROW, short())
    omni(
        folder, {**ROW, **TWO, "question_id": "b", "option_C": "Perhaps", "option_D": None}, name="Retinal OCT-C8.json"
    )
    omni(folder, {**ROW, "question_id": "c"}, part="Restricted-access", name="CXP.json")
    rows = read(folder)
    assert [(row.name, row.options, row.truths) for row in rows] == [
        ("omnimedvqa-ACRIMA_0000", ("PET scan", "CT scan", "Blood test", "Fundus imaging"), ("Fundus imaging",)),
        ("omnimedvqa-ACRIMA_0001", ("No", "Yes"), ("Yes",)),
        ("omnimedvqa-b", ("No", "Yes", "Perhaps"), ("Yes",)),
    ]
    assert (rows[0].kind, rows[0].modality, rows[0].closed) == ("Modality Recognition", "Fundus Photography", True)
    assert rows[1].listed == "A. No\nB. Yes"
    assert all(row.inputs[0].size == (8, 6) for row in rows)
    assert read(tmp_path) == rows == read(folder, "open-access") == read(folder / "QA_information")
    assert [row.name for row in read(folder, "restricted-access")] == ["omnimedvqa-c"]
    assert len(read(folder, "all")) == 4
    assert len(read(folder / "QA_information/Open-access/ACRIMA.json")) == 2


def test_an_answer_written_a_little_otherwise(tmp_path):
    assert read(omni(tmp_path, {**ROW, "gt_answer": " Fundus Imaging."}))[0].truths == ("Fundus imaging",)


def test_a_name_given_twice(tmp_path):
    assert [row.name[-6:] for row in read(omni(tmp_path, ROW, ROW))] == ["A_0000", "0000-2"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ROW, "gt_answer": "X-ray"}, "the answer 'X-ray' is none of the options 'PET scan', 'CT scan'"),
        ({**ROW, "gt_answer": "D"}, "the answer 'D' is none of the options"),
        ({**ROW, "gt_answer": ""}, "'gt_answer' is empty"),
        ({**ROW, "question": None}, "'question' is empty"),
        ({**ROW, "option_B": ""}, "option B is empty, but option D is not"),
        (short(option_B=""), "only one option, 'No'"),
        (short(option_A="", option_B=""), "a question without options"),
        ({**ROW, "image_path": "Images/ACRIMA/absent.png"}, r"no image file .*Images/ACRIMA/absent\.png"),
        ({"question_id": "x"}, "no column 'option_A' among question_id"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, row, message):
    with pytest.raises(DataError, match=rf"{message}.*ACRIMA\.json, row 2\)"):
        read(omni(tmp_path, ROW, row))


def test_splits(tmp_path):
    with pytest.raises(DataError, match="no split is called 'train'.*use one of test, open-access"):
        read(omni(tmp_path, ROW), "train")
    with pytest.raises(DataError, match="the folder holds no QA_information/Restricted-access"):
        read(tmp_path, "restricted-access")
