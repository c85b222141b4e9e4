"""Questions and captions of UniMed-Mini, with answers that are true by construction."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from unimedvl.data.mini.views import SIDE, View

SPOKEN = {
    "CFP": "fundus photograph",
    "HIS": "histology image",
    "CXR": "chest X-ray",
    "XR": "bone X-ray",
    "CT": "CT scan",
    "MRI": "MRI scan",
    "US": "ultrasound image",
}
_BODIES = ("abdomen", "brain", "chest", "colon", "head", "heart", "leg", "lymph node", "retina", "shoulder")
# A "no" must be true: a picture of the one may show the other.
_OVERLAPS = {
    "abdomen": ("colon",),
    "back": ("abdomen", "chest", "colon", "shoulder"),
    "brain": ("head",),
    "chest": ("heart", "shoulder", "abdomen"),
    "head": ("brain",),
    "heart": ("chest",),
    "pelvis": ("abdomen", "colon"),
    "soft tissue": _BODIES,
}

_WORD = {"CFP": "fundus photography", "HIS": "histology", "CXR": "X-ray", "XR": "X-ray", "CT": "CT", "MRI": "MRI",
         "US": "ultrasound"}  # fmt: skip

_QUESTIONS = {
    "modality": ("Which imaging modality is this?", "How was this image made?", "What kind of imaging is shown?"),
    "body part": ("Which body part is shown?", "What part of the body is this?", "Which organ or region is imaged?"),
    "plane": ("In which plane is this slice?", "What is the slice plane?", "Is this slice axial, coronal or sagittal?"),
    "position": ("Which part of the brain does this slice cut?", "Where in the brain is this slice?"),
    "side": ("Which side of the patient's chest is shown?", "Is this the left or the right lung of the patient?"),
}
_ASK_CAPTION = ("Describe this image.", "Write a short caption for this image.", "What does this image show?")
_ASK_IMAGE = (
    "Please generate a realistic {caption}",
    "Make an image: {caption}",
    "Draw {caption}",
)

# Facts about imaging, each asked in several wordings; the last is kept for validation and the one before for test.
_FACTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Computed tomography.", ("What does CT stand for?", "Spell out CT.", "CT is short for what?",
                              "Which words does CT abbreviate?")),
    ("Magnetic resonance imaging.", ("What does MRI stand for?", "Spell out MRI.", "MRI is short for what?",
                                     "Which words does MRI abbreviate?")),
    ("Optical coherence tomography.", ("What does OCT stand for?", "Spell out OCT.", "OCT is short for what?",
                                       "Which words does OCT abbreviate?")),
    ("Sound waves.", ("What does ultrasound use to make images?", "Which waves make an ultrasound image?",
                      "Ultrasound images are made with what?", "What kind of waves does ultrasound send?")),
    ("X-rays.", ("What does CT use to make images?", "Which radiation makes a CT image?",
                 "CT images are made with what?", "What kind of rays does CT send?")),
    ("The retina.", ("What does a fundus photograph show?", "Which tissue is seen on a fundus photograph?",
                     "A fundus photograph is a picture of what?", "What is imaged by fundus photography?")),
    ("Cells and tissue.", ("What does histology show?", "What is seen on a histology slide?",
                           "A histology image is a picture of what?", "What is imaged by histology?")),
    ("Yes.", ("Does CT use ionizing radiation?", "Is ionizing radiation used in CT?",
              "Are patients exposed to ionizing radiation in CT?", "CT uses ionizing radiation: true?")),
    ("No.", ("Does MRI use ionizing radiation?", "Is ionizing radiation used in MRI?",
             "Are patients exposed to ionizing radiation in MRI?", "MRI uses ionizing radiation: true?")),
    ("No.", ("Does ultrasound use ionizing radiation?", "Is ionizing radiation used in ultrasound?",
             "Are patients exposed to ionizing radiation in ultrasound?", "Ultrasound uses ionizing radiation: true?")),
    ("Axial, coronal and sagittal.", ("Which are the three standard planes?", "Name the three anatomical planes.",
                                      "In which planes are slices cut?", "What are the usual slice planes called?")),
    ("Blue.", ("Which color does hematoxylin give nuclei?", "What color are nuclei after hematoxylin?",
               "Hematoxylin stains nuclei in which color?", "Nuclei stained with hematoxylin look how?")),
    ("Brown.", ("Which color does DAB give?", "What color is a DAB stain?", "DAB stains in which color?",
                "Tissue stained with DAB looks how?")),
    ("White.", ("How does bone look on CT?", "What shade is bone on a CT image?", "On CT, bone appears how?",
                "Which shade has bone on CT?")),
    ("Black.", ("How does air look on CT?", "What shade is air on a CT image?", "On CT, air appears how?",
                "Which shade has air on CT?")),
)  # fmt: skip


def caption(view: View) -> str:
    """One sentence of what is known about a view."""
    what = f"{view.plane} {SPOKEN[view.modality]}" if view.plane else SPOKEN[view.modality]
    side = f"{view.side} side of the " if view.side else ""
    level = f", {view.level} part" if view.level else ""
    article = "An" if what[0] in "aeiou" else "A"
    return f"{article} {what} of the {side}{view.body}{level}, {view.detail}."


def questions(view: View, rng: np.random.Generator) -> Iterator[tuple[str, str, str]]:
    """Kind, question and answer; yes and no are equally likely."""
    answers = {
        "modality": _WORD[view.modality],
        "body part": view.body,
        "plane": view.plane,
        "position": view.level,
        "side": view.side,
    }
    for kind, answer in answers.items():
        if answer:
            yield kind, _one(_QUESTIONS[kind], rng), f"{answer[0].upper()}{answer[1:]}."
    word = _WORD[view.modality]
    # CT is made with X-rays, so neither answer to "by X-ray?" would be right.
    words = {*_WORD.values()} - {word} - ({"X-ray"} if word == "CT" else set())
    bodies = [body for body in _BODIES if body not in (view.body, *_OVERLAPS.get(view.body, ()))]
    for kind, truth, others, wording in (
        ("modality yes/no", word, sorted(words), "Was this image made by {}?"),
        ("body part yes/no", view.body, bodies, "Does this image show the {}?"),
    ):
        if others:
            yes = bool(rng.integers(2))
            yield kind, wording.format(truth if yes else _one(others, rng)), "Yes." if yes else "No."


def ask_caption(rng: np.random.Generator) -> str:
    """A request to describe an image."""
    return _one(_ASK_CAPTION, rng)


def ask_image(view: View, rng: np.random.Generator) -> str:
    """A request to make an image like a view."""
    text = caption(view)
    return _one(_ASK_IMAGE, rng).format(caption=text[0].lower() + text[1:])


def facts(split: str) -> Iterator[tuple[str, str]]:
    """Questions without an image, with answers; every answer is learned, in other wordings than it is tested."""
    for answer, wordings in _FACTS:
        own = {"train": wordings[:-2], "test": wordings[-2:-1], "validation": wordings[-1:]}[split]
        yield from ((question, answer) for question in own)


def place_words(x: float, y: float) -> str:
    """Where a point of a view lies, as one looks at it."""
    vertical = "upper" if y < SIDE / 2 else "lower"
    return f"{vertical} {'left' if x < SIDE / 2 else 'right'}"


def _one(choices: tuple[str, ...] | list[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
