"""What each reader tells of its pairs stands in the sentences that wordings make of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from unimedvl.data.curation.ingest import READERS, ReaderSettings
from unimedvl.data.curation.pairs import pair_id
from unimedvl.data.curation.templates import SLOTS, values_of, worded

GRAYS = np.arange(4 * 5 * 3, dtype=np.float32).reshape(4, 5, 3)
SEEDS = 40  # so many that a slot that one wording in ten has comes at least once


@pytest.fixture
def raw(tmp_path, picture, volume):
    """One subject or pair of each layout."""
    for contrast in ("T1", "T2", "PD", "MRA"):
        volume(tmp_path / "ixi" / f"IXI002-Guys-0828-{contrast}.nii.gz", GRAYS)
    for contrast in ("t1n", "t1c", "t2w", "t2f", "seg"):
        values = GRAYS if contrast != "seg" else (GRAYS % 4).astype(np.uint8)
        volume(tmp_path / "brats2023" / f"BraTS-GLI-00005-001-{contrast}.nii.gz", values)
    for case, source in (("brain/1BA001", "mr"), ("pelvis/2PA001", "cbct")):
        for name in (source, "ct"):
            volume(tmp_path / "synthrad" / case / f"{name}.nii.gz", GRAYS)
    for name in ("bci/HE/train/00000_train_1+", "bci/IHC/train/00000_train_1+", "paired/input/a", "paired/target/a",
                 "masks/images/a", "masks/masks/a", "icg_cxr/1", "icg_cxr/2"):  # fmt: skip
        picture(tmp_path / f"{name}.png", 200)
    return tmp_path


def read(raw, name, **values):
    out = {"images_out": raw / "out"} if "images_out" in READERS[name].uses else {}
    return next(iter(READERS[name](raw / name, ReaderSettings(**out, **values))))


def sentences(pair):
    """(instruction, response) of the pair as it would be worded under other ids and seeds."""
    made = (worded(replace(pair, id=pair_id("x", str(seed))), seed) for seed in range(SEEDS))
    return [(each.question, each.text) for each in made]


def check(pair, always):
    """``always`` stands in every instruction, and every slot that has a value is filled somewhere."""
    said = sentences(pair)
    assert not [question for question, _ in said if always.lower() not in question.lower()]
    joined = " ".join(map(" ".join, said)).lower()
    values = {name: value for name, value in values_of(pair).items() if name in SLOTS}
    assert not {name: value for name, value in values.items() if value.lower() not in joined}
    assert "{" not in joined


CONTRASTS = {
    "ixi": {
        "T1": "T1-weighted MRI",
        "T2": "T2-weighted MRI",
        "PD": "proton-density-weighted MRI",
        "MRA": "MR angiography",
    },
    "brats2023": {
        "t1n": "T1-weighted MRI",
        "t1c": "contrast-enhanced T1-weighted MRI",
        "t2w": "T2-weighted MRI",
        "t2f": "T2-FLAIR MRI",
    },
}
DIRECTIONS = [
    (name, one, two) for name, known in CONTRASTS.items() for one in known for two in known if one != two
]  # fmt: skip


@pytest.mark.parametrize(("name", "shown", "made"), DIRECTIONS)
def test_one_sequence_to_another(name, shown, made, raw):
    pair = read(raw, name, contrasts=(f"{shown}-{made}",))
    spoken = CONTRASTS[name]
    told = (pair.more["modality"], pair.more["target_modality"], pair.more["anatomy"])
    assert told == (spoken[shown], spoken[made], "brain")
    check(pair, spoken[made])


@pytest.mark.parametrize(
    ("contrasts", "shown", "finding"),
    [
        ("t2f-seg", "T2-FLAIR MRI", "tumor"),
        ("t1c-core", "contrast-enhanced T1-weighted MRI", "tumor core"),
        ("t1c-enhancing", "contrast-enhanced T1-weighted MRI", "enhancing tumor"),
    ],
)
def test_tumors(contrasts, shown, finding, raw):
    pair = read(raw, "brats2023", contrasts=(contrasts,))
    assert (pair.more["modality"], pair.more["finding"], pair.more["anatomy"]) == (shown, finding, "brain")
    assert "target_modality" not in pair.more
    check(pair, finding)


@pytest.mark.parametrize(
    ("contrasts", "shown", "made", "anatomy"),
    [
        ("mr-ct", "MRI", "CT", "brain"),
        ("ct-mr", "CT", "MRI", "brain"),
        ("cbct-ct", "cone-beam CT", "CT", "pelvis"),
        ("ct-cbct", "CT", "cone-beam CT", "pelvis"),
    ],
)
def test_ct_for_radiotherapy(contrasts, shown, made, anatomy, raw):
    pair = read(raw, "synthrad", contrasts=(contrasts,))
    assert (pair.more["modality"], pair.more["target_modality"], pair.more["anatomy"]) == (shown, made, anatomy)
    check(pair, made)


def test_stains(raw):
    check(read(raw, "bci"), "HER2 IHC")


CHANGES = [
    {"change": "add", "finding": "pleural effusion", "side": "left"},
    {"change": "remove", "finding": "pneumothorax", "side": "right"},
    {"change": "add", "finding": "cardiomegaly"},
    {"change": "remove", "finding": "left lower lobe pneumonia", "side": "left"},
    {"change": "add", "finding": "pulmonary edema", "side": "both"},
    {},
]


@pytest.mark.parametrize("facts", CHANGES)
def test_counterfactuals(facts, raw):
    row = {"image_before": "1.png", "image_after": "2.png", "instruction": "", "report": "", **facts}
    (raw / "icg_cxr" / "x.jsonl").write_text(json.dumps(row) + "\n")
    pair = read(raw, "icg_cxr")
    assert pair.more == {"anatomy": "chest", **facts}
    check(pair, facts.get("finding", ""))


@pytest.mark.parametrize(
    ("name", "values", "facts", "always"),
    [
        ("paired", {"subtask": "super-resolution", "modality": "CXR"}, {"scale": 4.0, "anatomy": "chest"}, ""),
        ("paired", {"subtask": "cross-modal", "modality": "CT"}, {"target_modality": "PET", "anatomy": "lung"}, "PET"),
        ("paired", {"subtask": "virtual staining", "modality": "HIS"}, {"target_modality": "Masson's"}, "Masson's"),
        ("paired", {"family": "counterfactual", "modality": "CFP"},
         {"finding": "drusen", "change": "add", "side": "left", "anatomy": "eye"}, "drusen"),
        ("masks", {"modality": "CT"}, {"finding": "nodule", "anatomy": "lung", "side": "right"}, "nodule"),
        ("masks", {"modality": "CT"}, {"anatomy": "spleen"}, "spleen"),
    ],
)  # fmt: skip
def test_facts_of_the_settings(name, values, facts, always, raw):
    pair = read(raw, name, facts=facts, **values)
    assert pair.more == facts
    check(pair, always)
