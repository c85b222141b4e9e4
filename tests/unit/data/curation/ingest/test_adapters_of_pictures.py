"""IXI, BraTS 2023, SynthRAD and BCI on small trees of their layouts."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from unimedvl.data.curation.ingest import READERS, ReaderSettings, Skipped
from unimedvl.errors import ConfigError, DataError

GRAYS = np.arange(4 * 5 * 3, dtype=np.float32).reshape(4, 5, 3)


def settings(tmp_path, **values):
    return ReaderSettings(images_out=tmp_path / "out", **values)


def test_ixi(tmp_path, volume):
    root = tmp_path / "raw"
    for name in ("IXI012-HH-1211", "IXI002-Guys-0828"):
        for contrast in ("T2", "PD"):
            volume(root / f"IXI-{contrast}" / f"{name}-{contrast}.nii.gz", GRAYS)
    pairs = list(READERS["ixi"](root, settings(tmp_path)))
    assert [pair.more["subject"] for pair in pairs] == ["IXI002"] * 3 + ["IXI012"] * 3
    first = pairs[0]
    assert (first.source, first.family, first.subtask, first.modality) == ("IXI", "edit", "cross-modal", "MRI")
    words = {
        "modality": "proton-density-weighted MRI",
        "target_modality": "T2-weighted MRI",
        "anatomy": "brain",
    }
    about = {"subject": "IXI002", "slice": "axial-0000", "site": "Guys", "from": "PD", "to": "T2"}
    assert first.more == {**about, **words}
    assert "PD-axial-0000" in first.images[0]
    assert "T2-axial-0000" in first.target
    assert first.steps[0] == "PD: axial slice 0 of 3"
    assert sum(step.startswith("T2: ") for step in first.steps) == sum(step.startswith("PD: ") for step in first.steps)
    assert len({pair.id for pair in pairs}) == 6


def test_one_contrast_alone(tmp_path, volume):
    volume(tmp_path / "raw" / "IXI-T1" / "IXI002-Guys-0828-T1.nii.gz", GRAYS)
    one, *_ = READERS["ixi"](tmp_path / "raw", settings(tmp_path, contrasts=("T1",)))
    assert (one.family, one.target, one.more["contrast"]) == ("understanding", "", "T1")
    assert (one.more["modality"], one.more["anatomy"]) == ("T1-weighted MRI", "brain")
    assert "target_modality" not in one.more
    assert len(one.images) == 1
    drawn, *_ = READERS["ixi"](tmp_path / "raw", settings(tmp_path, contrasts=("T1",), family="t2i"))
    assert (drawn.images, drawn.target) == ((), one.images[0])


def test_a_missing_contrast_and_another_grid(tmp_path, volume):
    root = tmp_path / "raw"
    for name, shape in (("T1", (6, 5, 3)), ("T2", (4, 5, 3))):
        volume(root / f"IXI-{name}" / f"IXI002-Guys-0828-{name}.nii.gz", np.random.default_rng(0).normal(size=shape))
    for contrasts, expected in ((("PD-T2",), "no volume PD .*IXI002"), (("T1-T2",), "not lie on one grid.*register")):
        with pytest.raises(DataError, match=expected):
            list(READERS["ixi"](root, settings(tmp_path, contrasts=contrasts)))
    skipped = Skipped()
    given = settings(tmp_path, contrasts=("PD-T2", "T1-T2", "T1"), on_missing="skip")
    assert len(list(READERS["ixi"](root, given, skipped))) == 3
    assert skipped.counts == {"no volume PD": 1, "two volumes do not lie on one grid": 1}


def test_one_grid_up_to_rounding(tmp_path, volume):
    moved = np.eye(4)
    moved[0, 3] = 0.01
    volume(tmp_path / "raw" / "IXI002-Guys-0828-T2.nii.gz", GRAYS, moved)
    volume(tmp_path / "raw" / "IXI002-Guys-0828-PD.nii.gz", GRAYS)
    assert len(list(READERS["ixi"](tmp_path / "raw", settings(tmp_path)))) == 3
    moved[0, 3] = 1
    volume(tmp_path / "raw" / "IXI002-Guys-0828-T2.nii.gz", GRAYS, moved)
    with pytest.raises(DataError, match="one grid"):
        list(READERS["ixi"](tmp_path / "raw", settings(tmp_path)))


@pytest.mark.parametrize("contrast", ["T9", "T1-T2-PD", "T1-T1", ""])
def test_contrasts_that_cannot_be(contrast, tmp_path):
    with pytest.raises(ConfigError, match="contrasts"):
        list(READERS["ixi"](tmp_path, settings(tmp_path, contrasts=(contrast,))))


def brats(root, volume, name="BraTS-GLI-00005-001", seg=True):
    for contrast in ("t1n", "t1c", "t2w", "t2f"):
        volume(root / name / f"{name}-{contrast}.nii.gz", GRAYS)
    if seg:
        labels = np.zeros((4, 5, 3), dtype=np.uint8)
        labels[0, 0], labels[1, 1], labels[2, 2] = 3, 1, 2
        volume(root / name / f"{name}-seg.nii.gz", labels)


def test_brats2023(tmp_path, volume):
    brats(tmp_path / "raw" / "TrainingData", volume)
    pairs = list(READERS["brats2023"](tmp_path / "raw", settings(tmp_path, axes=(0, 2))))
    assert len(pairs) == 2 * (4 + 3)
    assert {(pair.more["from"], pair.more["to"]) for pair in pairs} == {("t2w", "t2f"), ("t2f", "t2w")}
    first = pairs[0]
    assert (first.source, first.subtask, first.modality) == ("BraTS 2023", "cross-modal", "MRI")
    assert (first.more["subject"], first.more["visit"]) == ("BraTS-GLI-00005", "001")
    # Two directions show the same files.
    assert len(list((tmp_path / "out").rglob("*.png"))) == 14


def test_only_what_is_shown_must_be_filled(tmp_path, volume):
    dark = np.zeros((4, 5, 3), dtype=np.float32)
    dark[0, 0, 0] = 1
    brats(tmp_path / "raw", volume)
    volume(tmp_path / "raw" / "BraTS-GLI-00005-001" / "BraTS-GLI-00005-001-t2f.nii.gz", dark)
    skipped = Skipped()
    given = settings(tmp_path, least_filled=0.5)
    pairs = list(READERS["brats2023"](tmp_path / "raw", given, skipped))
    assert [(pair.more["from"], pair.more["slice"]) for pair in pairs] == [
        ("t2w", f"axial-000{number}") for number in range(3)
    ]
    assert skipped.counts == {"a slice with too little in it": 3}


@pytest.mark.parametrize(
    ("mask", "white", "step"),
    [
        ("seg", [(0, 4), (1, 3), (2, 2)], "labels 1, 2, 3 of 0 to 3 as white"),
        ("core", [(0, 4), (1, 3)], "labels 1, 3 of 0 to 3 as white"),
        ("enhancing", [(0, 4)], "labels 3 of 0 to 3 as white"),
    ],
)
def test_brats2023_tumors(mask, white, step, tmp_path, volume):
    brats(tmp_path / "raw", volume)
    brats(tmp_path / "raw", volume, "BraTS-GLI-00006-000", seg=False)
    skipped = Skipped()
    given = settings(tmp_path, contrasts=(f"t2f-{mask}",), on_missing="skip")
    first, *_ = pairs = list(READERS["brats2023"](tmp_path / "raw", given, skipped))
    assert len(pairs) == 3
    assert (first.family, first.subtask) == ("edit", "segmentation")
    assert skipped.counts == {f"no volume {mask}": 1}
    shown = np.asarray(Image.open(first.target))[..., 0]
    # The picture's lower left corner is the first voxel: rows run down, canonical axes to the front.
    assert shown.shape == (5, 4)
    assert sorted((int(x), int(y)) for y, x in zip(*np.nonzero(shown), strict=True)) == white
    assert set(shown[shown > 0].tolist()) == {255}
    assert first.steps[-1] == f"{mask}: {step}"


@pytest.mark.parametrize("contrasts", ["seg-t2f", "core-seg"])
def test_of_a_mask_no_image_is_made(contrasts, tmp_path):
    with pytest.raises(ConfigError, match=f"'{contrasts}' begin with a mask .*image first"):
        list(READERS["brats2023"](tmp_path, settings(tmp_path, contrasts=(contrasts,))))


def test_synthrad(tmp_path, volume):
    root = tmp_path / "raw"
    hounsfield = np.full((4, 5, 3), -1000, dtype=np.int16)
    hounsfield[0] = 1000
    for case, source in (("Task1/brain/1BA001", "mr"), ("Task2/pelvis/2PA001", "cbct")):
        volume(root / case / f"{source}.nii.gz", GRAYS)
        volume(root / case / "ct.nii.gz", hounsfield)
        volume(root / case / "mask.nii.gz", np.ones((4, 5, 3), dtype=np.uint8))
    pairs = list(READERS["synthrad"](root, settings(tmp_path)))
    assert [(pair.more["subject"], pair.more["from"], pair.more["anatomy"]) for pair in pairs[::3]] == [
        ("1BA001", "mr", "brain"),
        ("2PA001", "cbct", "pelvis"),
    ]
    assert [pair.modality for pair in pairs[::3]] == ["MRI", "CT"]  # of what is shown
    assert np.asarray(Image.open(pairs[0].target))[0, :, 0].tolist() == [255, 0, 0, 0]
    assert "ct: window center 0, width 2000" in pairs[0].steps
    assert any(step.startswith("mr: percentiles") for step in pairs[0].steps)
    assert "cbct: window center 0, width 2000" in pairs[3].steps
    (turned, *_) = READERS["synthrad"](root / "Task1", settings(tmp_path, contrasts=("ct-mr",), window=(40, 400)))
    assert (turned.modality, turned.more["target_modality"]) == ("CT", "MRI")
    assert "ct: window center 40, width 400" in turned.steps


def test_bci(tmp_path, picture):
    for stain in ("HE", "IHC"):
        picture(tmp_path / stain / "train" / "00000_train_1+.png")
        picture(tmp_path / stain / "test" / "00003_test_0.png")
    test, train = READERS["bci"](tmp_path, ReaderSettings(license="own words"))
    assert (test.split, test.more["her2"], train.split, train.more["her2"]) == ("test", "0", "train", "1+")
    assert train.more == {"modality": "H&E", "target_modality": "HER2 IHC", "anatomy": "breast", "her2": "1+"}
    assert (train.family, train.subtask, train.modality) == ("edit", "virtual staining", "HIS")
    assert train.images[0].endswith("HE/train/00000_train_1+.png")
    assert train.target.endswith("IHC/train/00000_train_1+.png")
    assert {train.source, train.license} == {"BCI", "own words"}


def test_bci_with_a_partner_missing_or_another_name(tmp_path, picture):
    for name in ("HE/train/00000_train_1+.png", "HE/train/00001_train_2+.png", "IHC/train/00000_train_1+.png"):
        picture(tmp_path / name)
    with pytest.raises(DataError, match=r"no partner in IHC .*00001_train_2\+\.png"):
        list(READERS["bci"](tmp_path, ReaderSettings()))
    for stain in ("HE", "IHC"):
        picture(tmp_path / stain / "train" / "00000_train.png")
    with pytest.raises(DataError, match=r"no name of this data set .*00000_train\.png"):
        list(READERS["bci"](tmp_path, ReaderSettings(on_missing="skip")))
