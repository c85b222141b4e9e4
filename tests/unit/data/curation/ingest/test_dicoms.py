"""DICOM series: order, windows, and that nothing about a person leaves the file."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from unimedvl.data.curation.ingest import READERS, ReaderSettings, Skipped
from unimedvl.data.curation.pairs import pair_id
from unimedvl.errors import ConfigError, DataError

read = READERS["dicom"]
FLAT = [1, 0, 0, 0, 1, 0]


def slab(value, side=4):
    return np.full((side, side), value, dtype=np.int16)


def gray(pair):
    return int(np.asarray(Image.open(pair.images[0]))[0, 0, 0])


def test_slices_come_by_position_not_by_name_or_number(tmp_path, dicom):
    for name, height, number in (("c", 10, 1), ("a", 20, 3), ("b", 15, 2)):
        dicom(tmp_path / f"{name}.dcm", slab(height), ImagePositionPatient=[0, 0, 30 - height], InstanceNumber=number,
              ImageOrientationPatient=FLAT)  # fmt: skip
    pairs = list(read(tmp_path, ReaderSettings(images_out=tmp_path / "out", window=(127.5, 255))))
    assert [gray(pair) for pair in pairs] == [20, 15, 10]
    assert [pair.steps[0] for pair in pairs] == [f"slice {number} of 3 by position" for number in range(3)]
    assert pairs[0].steps[-1] == "window center 127.5, width 255"
    assert [pair.more["slice"] for pair in pairs] == [0, 1, 2]


def test_the_distance_runs_along_the_normal(tmp_path, dicom):
    """Sagittal: rows run along the y axis, columns down the z axis, and the normal along -x."""
    for name, x in (("a", 1.0), ("b", 3.0), ("c", 2.0)):
        dicom(tmp_path / name, slab(int(x * 40)), ImagePositionPatient=[x, 0, 0],
              ImageOrientationPatient=[0, 1, 0, 0, 0, -1])  # fmt: skip
    pairs = list(read(tmp_path, ReaderSettings(images_out=tmp_path / "out", window=(127.5, 255))))
    assert [gray(pair) for pair in pairs] == [120, 80, 40]


def test_without_positions_the_number_counts(tmp_path, dicom):
    dicom(tmp_path / "a.dcm", slab(100), InstanceNumber=2, ImagePositionPatient=[0, 0, 0], ImageOrientationPatient=FLAT)
    dicom(tmp_path / "b.dcm", slab(50), InstanceNumber=1)
    pairs = list(read(tmp_path, ReaderSettings(images_out=tmp_path / "out", window=(127.5, 255))))
    assert [gray(pair) for pair in pairs] == [50, 100]
    assert pairs[0].steps[0] == "slice 0 of 2 by instance number"


def test_series_lie_in_any_folder(tmp_path, dicom):
    for name, series in (("x/1", "1.2.3"), ("y/1", "1.2.3"), ("x/2", "4.5.6")):
        dicom(tmp_path / name, slab(5), SeriesInstanceUID=series)
    (tmp_path / "x" / "readme.txt").write_text("no image")
    pairs = list(read(tmp_path, ReaderSettings(images_out=tmp_path / "out")))
    assert sorted(pair.more["slice"] for pair in pairs) == [0, 0, 1]
    assert len({pair.more["series"] for pair in pairs}) == 2
    assert {pair.more["study"] for pair in pairs} == {""}
    assert len({pair.images for pair in pairs}) == len({pair.id for pair in pairs}) == 3


def test_a_study_keeps_its_series_together(tmp_path, dicom):
    for name, series, study in (("1", "1.2.3", "9.1"), ("2", "4.5.6", "9.1"), ("3", "7.8.9", "9.2")):
        dicom(tmp_path / name, slab(5), SeriesInstanceUID=series, StudyInstanceUID=study)
    pairs = list(read(tmp_path, ReaderSettings(images_out=tmp_path / "out", source="s")))
    assert len({pair.more["series"] for pair in pairs}) == 3
    assert sorted(pair.more["study"] for pair in pairs) == sorted(
        pair_id("s", study) for study in ("9.1", "9.1", "9.2")
    )


def test_every_nth_slice(tmp_path, dicom):
    for number in range(5):
        dicom(tmp_path / str(number), slab(number), InstanceNumber=number)
    pairs = list(read(tmp_path, ReaderSettings(images_out=tmp_path / "out", step=2)))
    assert [pair.more["slice"] for pair in pairs] == [0, 2, 4]


SECRETS = {
    "PatientName": "SECRET^JANE",
    "PatientID": "SECRET-4711",
    "PatientBirthDate": "19610203",
    "AccessionNumber": "SECRET-ACC",
    "InstitutionName": "SECRET HOSPITAL",
    "ReferringPhysicianName": "SECRET^DOCTOR",
    "StudyDescription": "SECRET study",
    "SeriesDescription": "SECRET series",
    "ImageComments": "SECRET words",
    "StudyInstanceUID": "1.2.840.4711",
    "SeriesInstanceUID": "1.2.840.4711.1",
    "StudyDate": "20010203",
    "BodyPartExamined": "SECRET PART",
    "Laterality": "SECRET SIDE",
    "VOILUTFunction": "SECRET FUNCTION",
    "WindowCenter": 5,
    "WindowWidth": 10,
}


@pytest.mark.filterwarnings("ignore:End of file")
@pytest.mark.parametrize("modality", ["CT", "SECRET"])
def test_nothing_about_a_person_leaves_the_file(modality, tmp_path, dicom):
    """Names of folders and files count as well."""
    root = tmp_path / "raw"
    dicom(root / "SECRET_JANE" / "SECRET.dcm", np.arange(16).reshape(4, 4), **{**SECRETS, "Modality": modality})
    (root / "SECRET_JANE" / "SECRET_damaged.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    skipped = Skipped()
    given = ReaderSettings(images_out=tmp_path / "out", source="s", on_missing="skip")
    (pair,) = read(root, given, skipped)
    assert pair.modality == ("CT" if modality == "CT" else "")
    assert pair.steps[-1] == "window of the file, center 5, width 10"
    told = json.dumps(asdict(pair)) + json.dumps([skipped.counts, skipped.first])
    (file,) = (tmp_path / "out").rglob("*.png")
    assert sum(skipped.counts.values()) == 1
    for secret in ("SECRET", "4711", "1961", "2001", "1.2.840"):
        assert secret.lower() not in told.replace(str(tmp_path), "").lower()
        assert secret.encode().lower() not in file.read_bytes().lower()
        assert secret.lower() not in str(file.relative_to(tmp_path)).lower()
    assert set(Image.open(file).info) == set()


@pytest.mark.parametrize(
    ("modality", "tags", "expected"),
    [
        ("DX", {"BodyPartExamined": "CHEST"}, ("CXR", "chest", None)),
        ("DX", {"BodyPartExamined": "HAND", "Laterality": "R"}, ("XR", "hand", "right")),
        ("MG", {"BodyPartExamined": "BREAST", "ImageLaterality": "L"}, ("mammography", "breast", "left")),
        ("MR", {"BodyPartExamined": "LSPINE", "Laterality": "U"}, ("MRI", "lumbar spine", None)),
        ("CT", {"BodyPartExamined": "CHESTABDPELVIS"}, ("CT", "chest, abdomen and pelvis", None)),
        ("CT", {}, ("CT", None, None)),
    ],
)
def test_what_the_standard_defines_is_told(modality, tags, expected, tmp_path, dicom):
    dicom(tmp_path / "a.dcm", slab(3), Modality=modality, **tags)
    (pair,) = read(tmp_path, ReaderSettings(images_out=tmp_path / "out"))
    assert (pair.modality, pair.more.get("anatomy"), pair.more.get("side")) == expected


def test_frames_of_an_enhanced_file_come_by_their_positions(tmp_path, dicom):
    frames = []
    for height in (7.0, 3.0, 5.0):
        position, orientation, group = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, height]
        orientation.ImageOrientationPatient = FLAT
        group.PlanePositionSequence = Sequence([position])
        group.PlaneOrientationSequence = Sequence([orientation])
        frames.append(group)
    pixels = np.stack([slab(70), slab(30), slab(50)])
    dicom(tmp_path / "a.dcm", pixels, PerFrameFunctionalGroupsSequence=Sequence(frames))
    pairs = list(read(tmp_path, ReaderSettings(images_out=tmp_path / "out", window=(127.5, 255))))
    assert [gray(pair) for pair in pairs] == [30, 50, 70]


def test_copies_and_files_without_pixels_are_counted(tmp_path, dicom):
    path = dicom(tmp_path / "a.dcm", slab(3))
    (tmp_path / "b.dcm").write_bytes(path.read_bytes())
    report = dicom(tmp_path / "c.dcm", slab(3))
    import pydicom

    dataset = pydicom.dcmread(report)
    del dataset.Rows, dataset.Columns, dataset.PixelData
    dataset.save_as(report)
    skipped = Skipped()
    assert len(list(read(tmp_path, ReaderSettings(images_out=tmp_path / "out"), skipped))) == 1
    assert skipped.counts == {"an instance that came before": 1, "no pixels, such as a report": 1}


def test_no_series_and_damaged_pixels_stop_or_count(tmp_path, dicom):
    dicom(tmp_path / "a.dcm", slab(3), SeriesInstanceUID="")
    with pytest.raises(DataError, match=r"no SeriesInstanceUID .*a\.dcm"):
        list(read(tmp_path, ReaderSettings(images_out=tmp_path / "out")))
    skipped, given = Skipped(), ReaderSettings(images_out=tmp_path / "out", on_missing="skip")
    path = dicom(tmp_path / "b.dcm", slab(3, side=64))
    path.write_bytes(path.read_bytes()[:-4000])
    assert list(read(tmp_path, given, skipped)) == []
    assert skipped.counts.pop("no SeriesInstanceUID") == 1
    assert skipped.counts == {"the DICOM file is damaged": 1}
    assert all(str(tmp_path) not in place for places in skipped.first.values() for place in places)


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_a_number_that_is_none(tmp_path, dicom):
    path = dicom(tmp_path / "a.dcm", slab(3), InstanceNumber=77)
    content = path.read_bytes()
    assert content.count(b"IS\x02\x0077") == 1
    path.write_bytes(content.replace(b"IS\x02\x0077", b"IS\x02\x001A"))
    with pytest.raises(DataError, match=r"damaged.*a\.dcm") as caught:
        list(read(tmp_path, ReaderSettings(images_out=tmp_path / "out")))
    assert "\n" not in str(caught.value)
    skipped = Skipped()
    assert list(read(tmp_path, ReaderSettings(images_out=tmp_path / "out", on_missing="skip"), skipped)) == []
    assert skipped.counts == {"the DICOM file is damaged": 1}


def test_without_pydicom_nothing_is_skipped_in_silence(tmp_path, dicom, monkeypatch):
    dicom(tmp_path / "a.dcm", slab(3))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ConfigError, match=r"pydicom.*unimedvl\[io\]"):
        list(read(tmp_path, ReaderSettings(images_out=tmp_path / "out", on_missing="skip")))


def test_reading_again_writes_nothing(tmp_path, dicom):
    for number in range(3):
        dicom(tmp_path / "in" / str(number), slab(number), InstanceNumber=number)
    given = ReaderSettings(images_out=tmp_path / "out")
    first = list(read(tmp_path / "in", given))
    times = [file.stat().st_mtime_ns for file in sorted((tmp_path / "out").rglob("*.png"))]
    assert list(read(tmp_path / "in", given)) == first
    assert [file.stat().st_mtime_ns for file in sorted((tmp_path / "out").rglob("*.png"))] == times
