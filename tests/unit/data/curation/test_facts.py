"""Texts that say the same in other words, and those that lose, add or turn a fact."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimedvl.data.curation.facts import lost, own_words, sides

KEPT = [
    ("Convert this T1 scan of the brain into T2.", "Using this T1-weighted cerebral scan, generate the T2 one."),
    ("Synthesize the T2 image from T1.", "From the T1 picture, please produce its T2 counterpart."),
    ("Enhance the chest X-ray by 4x.", "Raise the thoracic radiograph's resolution 4-fold."),
    ("Stain the H&E slide as HER2 IHC.", "Render the hematoxylin and eosin slide as HER2 immunohistochemistry."),
    ("The left upper lobe holds a mass of 3 cm.", "A 3 cm mass lies in the superior lobe on the left."),
    ("There is no pleural effusion.", "The pleura is without effusion."),
    ("No effusion or pneumothorax.", "Neither effusion nor pneumothorax."),
    ("Effusion is absent.", "There is no effusion."),
    ("Segment the kidneys on the axial CT.", "Outline both renal contours in the transverse computed tomography."),
    ("A defect of 0.5 \u00b5m at 40\u00d7.", "At 40x, a 0.5 \u03bcm defect."),
]
BAD = [
    ("Convert this T1 scan into T2.", "Convert this T2 scan into T1.", "T1 was given and is now wanted"),
    ("Synthesize T2 from T1.", "Synthesize T1 from T2.", "T1 was given"),
    ("Convert this T1 scan into T2.", "Convert this scan into T2.", "modality 'T1' is lost"),
    ("Make a CT of it.", "Make a cone-beam CT of it.", "modality 'CT' is lost"),
    ("Sharpen this MRI.", "Sharpen this CT.", "modality 'MRI' is lost"),
    ("Sharpen this picture.", "Sharpen this MRI.", "modality 'MRI' is added"),
    ("A mass in the liver.", "A mass in the spleen.", "anatomy 'liver' is lost"),
    ("A mass in the left lung.", "A mass in the right lung.", "position 'left' is lost"),
    ("A mass in the left lung.", "A mass in the lung.", "position 'left' is lost"),
    ("A mass in the lung.", "A mass in the left lung.", "position 'left' is added"),
    ("The upper pole.", "The lower pole.", "position 'upper' is lost"),
    ("The medial wall.", "The lateral wall.", "position 'medial' is lost"),
    ("Bilateral opacities.", "Lateral opacities.", "position 'bilateral' is lost"),
    ("A node of 3 mm.", "A node of 3 cm.", "number '3 mm' is lost"),
    ("A node of 3 mm.", "A node of 8 mm.", "number '3 mm' is lost"),
    ("A node of 3.5 mm.", "A node of 35 mm.", "number '3.5 mm' is lost"),
    ("Density of -50 HU.", "Density of 50 HU.", "number '-50 hu' is lost"),
    ("A 5 ms echo.", "A 5 m echo.", "number '5 ms' is lost"),
    ("Make it larger.", "Make it 2x larger.", "number '2 x' is added"),
    ("There is no effusion.", "There is an effusion.", "negation of 'effusion' is lost"),
    ("There is an effusion.", "There is no effusion.", "negation of 'effusion' is added"),
    ("No effusion. Edema is present.", "Effusion is present. No edema.", "negation of 'effusion' is lost"),
    ("The heart isn't enlarged.", "The heart is enlarged.", "negation"),
    ("Free of metastases.", "Full of metastases.", "negation"),
    ("No effusion, mass or cyst.", "No effusion or cyst, but a mass.", "negation of 'mas' is lost"),
    ("No mass in the left lung. Edema.", "A mass. No edema in the left lung.", "negation of 'mas' is lost"),
    ("The heart is normal.", "The heart is not normal.", "negation of 'normal' is added"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), KEPT)
def test_the_same_in_other_words(old, new):
    assert lost(old, new) == ""
    assert lost(new, old) == ""
    assert lost(old, old) == ""


WORDS = """no not without mass left right lung T1 T2 MRI from to generate 3 mm 4x absent . ; but effusion"""


@given(st.text() | st.lists(st.sampled_from(WORDS.split())).map(" ".join))
def test_a_text_says_what_it_says(text):
    assert lost(text, text) == ""


@pytest.mark.parametrize(("old", "new", "told"), BAD)
def test_another_fact(old, new, told):
    assert told in lost(old, new)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the LEFT lung", {"left"}),
        ("bilaterally", {"left", "right"}),
        ("cleft, bright", set()),
        ("left and right", {"left", "right"}),
    ],
)
def test_sides(text, found):
    assert sides(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Nodules in the LEFT lung", {"nodule"}),
        ("a SPECT image", {"spect"}),
        ("the contrast-enhanced T1 scan", {"scan"}),
        ("3 mm, no wider", {"wider"}),
    ],
)
def test_words_without_other_names(text, found):
    assert own_words(text) == found
