"""The guard of privacy: what patterns find and leave, and text drawn into images."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from unimedvl.data.curation.glyphs import longest_line
from unimedvl.data.curation.pairs import Pair
from unimedvl.data.curation.privacy import PrivacySettings, found_in, privacy
from unimedvl.errors import ConfigError

PERSONAL = [
    ("name", "Reported to Dr. Miller this morning."),
    ("name", "Mrs Smith-Jones has a cough."),
    ("name", "Patient name: Okafor"),
    ("name", "Mr. DOE was seen"),
    ("name", "Dictated by: Anna Larsen"),
    ("name", "Prof. J. Weber agrees"),
    ("name", "PATIENT NAME: JONES"),
    ("name", "Patient's name: jones"),
    ("name", "Name JONES MARY"),
    ("name", "DR. MILLER"),
    ("name", "DISCUSSED WITH MRS. O'NEILL."),
    ("name", "seen by dr. miller"),
    ("name", "Patient: John Smith"),
    ("name", "patient: SMITH, JOHN"),
    ("name", "SMITH^JOHN"),
    ("name", "smith^john^^"),
    ("name", "Müller^J"),
    ("name", "Dr. Mueller"),
    ("name", "Dr. Müller"),
    ("name", "Dr. Østergaard"),
    ("name", "Dr. \u0416\u0443\u043a\u043e\u0432\u0430"),
    ("name", "Mr. O'Brien"),
    ("name", "Mr. O\u2019Brien"),
    ("name", "Prof. van der Berg agrees"),
    ("name", "Radiologist: DR. A. WEBER"),
    ("date", "DOB 02.05.61"),
    ("date", "dob: 2.5.61"),
    ("date", "Date of birth: 02 05 1961"),
    ("date", "born 02-05-61"),
    ("date", "Exam date: 02.05.19"),
    ("date", "14 mar 2019"),
    ("date", "on 14-Mar-19"),
    ("date", "14MAR2019"),
    ("date", "MARCH 2019"),
    ("record number", "Acc# 123456"),
    ("record number", "ACC. NO. 88-1234"),
    ("record number", "mrn: ab12345"),
    ("record number", "Pat. ID: P-1234"),
    ("date", "Compared with 2019-03-14."),
    ("date", "CT of 3/14/2019 shows"),
    ("date", "seen on 14.03.2019, stable"),
    ("date", "on 03/14/19"),
    ("date", "March 14, 2019"),
    ("date", "since 14 March 2019"),
    ("date", "in Sept. 2018 there was"),
    ("date", "the 2nd of May 2020"),
    ("record number", "MRN 4471902"),
    ("record number", "MRN: A-44719"),
    ("record number", "Accession number: 88123"),
    ("record number", "accession # CT12345"),
    ("record number", "image 20394857"),
    ("record number", "SSN 123-45-6789"),
    ("phone", "call (555) 123-4567"),
    ("phone", "555-123-4567"),
    ("phone", "tel: 0351 458 2266"),
    ("phone", "+49 351 458 2266"),
    ("email", "write to j.doe@hospital.example.org"),
    ("age over 89", "A 93-year-old woman"),
    ("age over 89", "102 years old"),
    ("age over 89", "man, aged 90, with"),
    ("age over 89", "94 y/o male"),
    ("age over 89", "Age: 91"),
    ("address", "lives at 12 Baker Street"),
    ("address", "Boston, MA 02114"),
    ("address", "1600 North Park Avenue"),
]
HARMLESS = [
    "A frontal chest X-ray with clear lungs and no effusion.",
    "A 62-year-old man with a mass of 3.2 x 4.1 cm in the left upper lobe.",
    "T2 weighted MRI; the lesion of 14 mm is unchanged since 2019.",
    "Degeneration at L4/5 and L5/S1, grade 2/5 power.",
    "Kappa was 0.93, p = 0.00012345, n = 12/15 and 15/20.",
    "Slice 91 of 120; window center 40, width 400.",
    "MR angiography and DR of the hand, MS plaques, MRS peaks.",
    "The street-like pattern of the retina; 5 lobes; drive of 90 %.",
    "Ki-67 of 95 % in 400 cells at 40x, HER2 3+.",
    "Gleason 3+4=7; PSA 9.1; stage IIIB; BI-RADS 4a.",
    "Patient with pneumonia. Radiologist agrees. Age 45.",
    "May show atrophy; in March fracture patients were imaged.",
    "Voxel 0.7x0.7x3.0 mm, TR 2000, TE 30, 256 x 256 matrix.",
    "Aged 91 days, weight 3.1 kg; aged 95 % of controls.",
    "Ratio 1/2, 3/4 and 10/12; version 1.2.840.",
    "Smith fracture, Miller classification, Baker cyst, Down syndrome.",
    "Dose 120 kVp, 90 years of archives.",
    "Survival of 95 months in 1234 patients.",
    "The lesion is seen on brain MR. No other lesion.",
    "BRAIN MR. THERE IS NO MASS. CHEST DR. NORMAL FINDINGS.",
    "Axial T2 at TE 30 ms. then diffusion; signal of mr. the mass is bright.",
    "Patient: Male, 54 years old. PATIENT: MALE, SUPINE.",
    "Patient: Elderly Woman with Stroke",
    "10^6 cells, x^2 + y^n, r^k, e^{ix}",
    "ACC 2019 guidelines; acc 0.951; accuracy 95123 of 1.",
    "Born at 37.5 weeks; date palm; dated 2019.",
    "Patient name withheld. Name: anonymous",
    "It may 3 times; 12 mar per 100",
]


@pytest.mark.parametrize(("kind", "text"), PERSONAL)
def test_personal_facts_are_found(kind, text):
    assert kind in found_in(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_texts_pass(text):
    assert found_in(text) == {}


@given(st.text(alphabet=st.sampled_from("0123456789./-() +aDrM.:#@"), max_size=40))
def test_places_lie_within_the_text(text):
    for spans in found_in(text).values():
        assert all(0 <= first < last <= len(text) for first, last in spans)


def test_long_texts_take_no_long():
    for text in ("1" * 20_000, "1-" * 10_000, "Aa " * 7_000, "a@" * 10_000, "(1) " * 5_000):
        found_in(text)
    for part in ("a-", "O'", "Dr. de ", "name: ", "A^", "a", "A", "Patient: A ", "dob 1.", "Dr. A. ", "born 1 ma "):
        found_in(part * (20_000 // len(part)))


def test_flags_do_not_repeat_what_they_found():
    pair = Pair("1", "s", "understanding", text="Dr. Miller, MRN 4471902", question="Since 2019-03-14?")
    decisions = privacy([pair], PrivacySettings(pixels="none"))
    assert {decision.reason for decision in decisions} == {"name in text", "record number in text", "date in text"}
    assert {decision.action for decision in decisions} == {"flag"}
    assert not any(secret in str(decision) for decision in decisions for secret in ("Miller", "4471902", "2019"))
    (date,) = [decision for decision in decisions if decision.reason == "date in text"]
    assert date.detail == "characters 6 to 16 of its question"


def facts(**more) -> set[tuple[str, str]]:
    decisions = privacy([Pair("1", "s", "understanding", text="A scan.", more=more)], PrivacySettings(pixels="none"))
    assert {decision.action for decision in decisions} <= {"flag"}
    return {(decision.reason, decision.detail) for decision in decisions}


def test_all_turns_are_read():
    turns = [["human", "<image>Who is it?"], ["gpt", "A man."], ["human", "MRN 4471902"], ["gpt", "Of Dr. Miller."]]
    assert facts(turns=turns) == {
        ("record number in text", "characters 0 to 11 of turn 3"),
        ("name in text", "characters 3 to 13 of turn 4"),
    }
    pair = Pair("1", "s", "understanding", text="Of Dr. Miller.", question="Who is it?", more={"turns": turns[:1]})
    told = [[*turns[0]], ["gpt", "Of Dr. Miller."]]
    (decision,) = privacy([replace(pair, more={"turns": told})], PrivacySettings(pixels="none"))
    assert decision.detail == "characters 3 to 13 of its text"  # not once more as a turn


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("patient_name", "JONES MARY", "name"),
        ("PatientName", "JONES", "name"),
        ("name", "JONES, MARY", "name"),
        ("subject", "Mary Jones", "name"),
        ("referring_physician", "miller", "name"),
        ("mrn", "4471902", "record number"),
        ("MRN", 4471902, "record number"),
        ("patient_id", "A1", "record number"),
        ("PatientBirthDate", "1961", ""),
        ("PatientBirthDate", "19610502", "date"),
        ("birth_date", "61-05", "date"),
        ("study date", "20190314", "date"),
        ("home_address", "Baker St.", "address"),
        ("zip", "02114", "address"),
        ("phone_number", 5551234, "phone"),
        ("e-mail", "x", "email"),
        ("age", 93, "age over 89"),
        ("patient_age", "093Y", "age over 89"),
        ("note", "Dr. Miller saw this", "name"),
        ("note", "JONES^MARY", "name"),
        ("acquired", "2019-03-14", "date"),
        ("comments", ["fine", "MRN 4471902 too"], "record number"),
        ("mrn", "", ""),
        ("mrn", None, ""),
        ("age", 62, ""),
        ("name", "PMC5123456_fig1.jpg", ""),
        ("subject", "patient00001", ""),
        ("id", "20394857", ""),
        ("series", "1.2.840.113619.2.55.3.604688119", ""),
        ("region", {"box": [393, 26, 719, 352]}, ""),
        ("update", "today", ""),
        ("scale", 4, ""),
    ],
)
def test_facts(name, value, kind):
    found = facts(**{name: value})
    assert {reason for reason, _ in found} == ({f"{kind} in facts"} if kind else set())
    assert all(name in detail for _, detail in found)
    assert not any(str(value) in detail for _, detail in found if len(str(value)) > 2)


def test_facts_within_facts():
    assert facts(about=[{"mrn": "4471902", "who": {"first name": "Mary"}}]) == {
        ("record number in facts", "fact 'about.mrn'"),
        ("name in facts", "fact 'about.who.first name'"),
    }


# --- pixels ------------------------------------------------------------------------------------------------

WRITTEN = ("SMITH JOHN", "ID 4471902", "2019-03-14", "Dr. Miller", "ST. MARY HOSP", "M 64Y 170cm", "Acc 88123")


def tissue(number: int, side: int = 256) -> Image.Image:
    """An organ with inner structures, grain, a bright rim or dark nuclei: what UniMed-Mini looks like in small."""
    from scipy.ndimage import gaussian_filter

    generator = np.random.default_rng(number)
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    body = 1 / (1 + np.exp(-60 * (0.42 - np.hypot(rows, columns * generator.uniform(0.8, 1.3)))))
    coarse, fine = (gaussian_filter(generator.normal(size=(side, side)), sigma) * sigma for sigma in (side / 16, 2))
    gray = 90 + 60 * coarse / coarse.std() / 2 + 14 * fine / fine.std()
    if number % 3 == 0:  # cells
        for _ in range(60):
            row, column = generator.uniform(-0.5, 0.5, 2)
            gray -= 70 / (1 + np.exp(220 * (np.hypot(rows - row, columns - column) - generator.uniform(0.012, 0.03))))
        gray += 60
    elif number % 3 == 1:  # rim, and black around
        gray = (gray + 90 * np.exp(-((np.hypot(rows, columns) - 0.38) ** 2) / 0.0004)) * body
    return Image.fromarray(gray.clip(0, 255).astype(np.uint8)).convert("RGB")


def written(number: int) -> Image.Image:
    generator = np.random.default_rng(1000 + number)
    image = tissue(number)
    size = int(generator.integers(10, 20))
    top = int(generator.choice([4, image.height - size - 8]))
    strip = np.asarray(image.convert("L"))[top : top + size + 4, :150]
    color = (255,) * 3 if strip.mean() < 128 else (0,) * 3
    place = (int(generator.integers(3, 40)), top)
    ImageDraw.Draw(image).text(place, WRITTEN[number % 7], fill=color, font=ImageFont.load_default(size))
    return image


def test_burned_in_text_in_a_made_corpus(tmp_path):
    """100 clean and 100 written images: precision above 0.95, recall above 0.75."""
    pairs = []
    for number in range(200):
        (written if number % 2 else tissue)(number).save(tmp_path / f"{number}.png")
        pairs.append(Pair(f"{number:016x}", "s", "understanding", images=(str(tmp_path / f"{number}.png"),)))
    decisions = privacy(pairs)
    found = {int(decision.pair, 16) for decision in decisions}
    right = sum(number % 2 for number in found)
    print(f"precision {right / len(found):.3f}, recall {right / 100:.3f}")
    assert {decision.reason for decision in decisions} == {"burned-in text"}
    assert right / len(found) >= 0.95
    assert right / 100 >= 0.75


@pytest.mark.parametrize(("back", "fore"), [(0, 255), (255, 0), (40, 200)])
@pytest.mark.parametrize("side", [128, 512, 2048])
def test_lines_at_any_size(back, fore, side):
    image = Image.new("L", (side, side), back)
    font = ImageFont.load_default(max(12, side // 30))
    ImageDraw.Draw(image).text((5, 3), "HOSPITAL 12", fill=fore, font=font)
    assert longest_line(image) >= 4
    assert longest_line(Image.new("L", (side, side), back)) == 0


def test_text_in_the_middle_is_not_an_overlay():
    image = Image.new("L", (400, 400))
    ImageDraw.Draw(image).text((170, 190), "NODULE", fill=255, font=ImageFont.load_default(14))
    assert longest_line(image) == 0


def test_masks_are_not_read(tmp_path):
    written(1).save(tmp_path / "t.png")
    tissue(2).save(tmp_path / "i.png")
    for subtask, count in (("segmentation", 0), ("translation", 1)):
        pair = Pair("1", "s", "edit", subtask, images=(str(tmp_path / "i.png"),), target=str(tmp_path / "t.png"))
        assert len(privacy([pair, pair])) == 2 * count


def test_an_unreadable_image_is_flagged(tmp_path):
    (decision,) = privacy([Pair("1", "s", "understanding", images=(str(tmp_path / "none.png"),))])
    assert (decision.action, decision.reason) == ("flag", "unreadable image")


def test_tesseract(tmp_path, monkeypatch):
    """The lines that it reads with confidence are counted; the program itself is not needed here."""
    tissue(2).save(tmp_path / "a.png")
    pairs = [Pair("1", "s", "understanding", images=(str(tmp_path / "a.png"),))]
    words = [(1, 90, "DOE,"), (1, 80, "J."), (2, 95, "R"), (3, 20, "mumbling"), (3, -1, "")]
    data = {
        **{name: [1] * len(words) for name in ("block_num", "par_num")},
        **{name: [word[place] for word in words] for place, name in enumerate(("line_num", "conf", "text"))},
    }
    fake = types.SimpleNamespace(Output=types.SimpleNamespace(DICT="dict"), image_to_data=lambda *_, **__: data)
    monkeypatch.setitem(sys.modules, "pytesseract", fake)
    (decision,) = privacy(pairs, PrivacySettings(pixels="tesseract"))
    assert decision.score == 4
    assert privacy(pairs, PrivacySettings(pixels="tesseract", min_glyphs=5)) == []
    monkeypatch.setitem(sys.modules, "pytesseract", None)
    with pytest.raises(ConfigError, match="pytesseract"):
        privacy(pairs, PrivacySettings(pixels="tesseract"))


@pytest.mark.parametrize("values", [{"pixels": "eyes"}, {"min_glyphs": 1}])
def test_settings_that_cannot_be(values):
    with pytest.raises(ConfigError, match="privacy"):
        PrivacySettings(**values)


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ConfigError, match="scipy"):
        longest_line(tissue(0))
