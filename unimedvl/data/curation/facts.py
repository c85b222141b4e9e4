"""Facts that medical texts state: modalities, anatomy, positions, numbers, negations; and whether two texts differ."""

from __future__ import annotations

import re
from functools import lru_cache

# One meaning a line: its name, then how else it is written. Longer ones are found before shorter ones.
_MODALITY = """
CT: computed tomography, cat scan
cone-beam CT: cbct, cone-beam computed tomography
MRI: mr, magnetic resonance, magnetic resonance imaging
T1: t1-weighted, t1w
contrast-enhanced T1: t1ce, t1gd, t1c, t1-ce, post-contrast t1, contrast-enhanced t1-weighted
T2: t2-weighted, t2w
FLAIR: t2-flair, fluid-attenuated inversion recovery
PD: proton density, pd-weighted, proton-density-weighted
DWI: diffusion-weighted
PET: positron emission tomography
X-ray: xray, radiograph, radiographic, cxr
ultrasound: sonographic, sonography, sonogram, ultrasonography, echography
OCT: optical coherence tomography
fundus: fundoscopy, funduscopy
angiography: angiogram
endoscopy: endoscopic, colonoscopy, colonoscopic, gastroscopy
histopathology: histology, histologic, histological, histopathological, histopathologic, pathology slide
H&E: hematoxylin and eosin, haematoxylin and eosin, hematoxylin-eosin
IHC: immunohistochemistry, immunohistochemical
HER2: her-2
mammography: mammogram, mammographic
fluorescence: fluorescent
"""
_ANATOMY = """
lung: pulmonary, lungs
heart: cardiac, hearts
brain: cerebral, intracranial, cerebrum
head
neck: cervical
chest: thorax, thoracic
abdomen: abdominal
pelvis: pelvic
liver: hepatic
kidney: renal, kidneys
spleen: splenic
pancreas: pancreatic
stomach: gastric
colon: colonic
bowel: intestine, intestinal
bladder
prostate: prostatic
uterus: uterine
ovary: ovarian, ovaries
breast: breasts, mammary
thyroid
spine: spinal
vertebra: vertebrae, vertebral
rib: ribs
hip
knee
shoulder
elbow
wrist
ankle
hand
foot
femur: femoral
tibia: tibial
eye: ocular, eyes
retina: retinal
macula: macular
optic disc: optic disk
artery: arterial, arteries
vein: venous, veins
aorta: aortic
ventricle: ventricular, ventricles
hippocampus: hippocampal
cerebellum: cerebellar
pleura: pleural
diaphragm: diaphragmatic
mediastinum: mediastinal
lymph node: lymph nodes, nodal
skin: cutaneous, dermal
muscle: muscular
bone: osseous, bony, bones
skull: cranial
tumor: tumour, tumors, tumours
nucleus: nuclei, nuclear
lobe: lobar, lobes
"""
_POSITION = """
left
right
bilateral: bilaterally, both sides
unilateral: unilaterally
upper: superior
lower: inferior
medial: medially
lateral: laterally
anterior: anteriorly, frontal
posterior: posteriorly
proximal
distal
central: centrally
peripheral: peripherally
axial: transverse
coronal
sagittal
apical: apex
basal: basilar
"""
_NUMBER = re.compile(
    r"(?<![\w.])([-\u2212]?\d+(?:[.,]\d+)?)\s*(?:-?\s*(%|\u00b0|[mc\u00b5\u03bcn]m|ml|mg|kg|hu|kvp?|mgy|mhz|hz|ms|px|pixels?"
    r"|fold|times|[x\u00d7]|t|years?|days?|degrees?)(?![\w]))?",
    re.I,
)
_UNITS = {
    **dict.fromkeys(("\u00d7", "times", "fold"), "x"),
    **dict.fromkeys(("pixel", "pixels"), "px"),
    **dict.fromkeys(("\u00b0", "degrees"), "degree"),
    **{"\u03bcm": "\u00b5m", "years": "year", "days": "day", "kvp": "kv"},
}
_NEGATION = re.compile(
    r"\b(?:no|not|without|never|neither|nor|non|absent|absence|lacks?|lacking|excluded|\w+n't)\b|\bfree of\b|-free\b"
)
_AFTERWARDS = ("absent", "excluded", "-free")  # say that what stands before them is not there
_EMPTY = """
a an the of in on at to for from with is are was were be been being there any and or but this that it its as by i you we
seen evidence sign signs shown present detected identified found do does did should must keep please image images has
have into than
"""
_REACH = 5  # content words that a negation reaches over
_GIVEN = r"\b(?:from|given|using|(?:on|of|with) (?:this|the given)|this|input|source)\s+(?:[\w-]+\s+){0,2}?"
_WANTED = (
    r"\b(?:to|into|as|synthesi[sz]e|generate|produce|create|predict|obtain|target)\s+"
    r"(?:(?!from\b|this\b)[\w-]+\s+){0,3}?"
)


def lost(old: str, new: str) -> str:
    """The first fact in which two texts differ, as a clause; empty if they say the same as far as can be told.

    Looked at are modalities and sequences, anatomy, sides and positions, which image is given and which is wanted,
    numbers with units, and negations. A fact may neither vanish nor appear. Rewritings that are right but too free
    are taken for wrong, never knowingly the other way round.
    """
    for kind, names in (("modality", _MODALITY), ("anatomy", _ANATOMY), ("position", _POSITION)):
        one, two = _terms(old, names), _terms(new, names)
        if fault := _difference(kind, one, two):
            return fault
    if fault := _difference("number", _numbers(old), _numbers(new)):
        return fault
    for modality in sorted(_terms(old, _MODALITY)):
        one, two = _roles(old, modality), _roles(new, modality)
        if one and two and not one & two:
            return f"{modality} was {' and '.join(one)} and is now {' and '.join(two)}"
    return _negation_fault(old, new)


def own_words(text: str) -> set[str]:
    """Words of a text that no list here knows by other names, lower-case and without a plural's ending."""
    text = _NUMBER.sub(" ", _pattern(_MODALITY)[0].sub(" ", text.casefold()))
    return set(_content(text))


def sides(text: str) -> set[str]:
    """``left`` and ``right``, as far as a text names them; ``bilateral`` is both."""
    found = set(re.findall(r"\b(left|right|bilateral)", text.casefold()))
    return {"left", "right"} if "bilateral" in found else found


def _difference(kind: str, old: set[str], new: set[str]) -> str:
    if gone := sorted(old - new):
        return f"the {kind} {gone[0]!r} is lost"
    if added := sorted(new - old):
        return f"the {kind} {added[0]!r} is added"
    return ""


@lru_cache
def _pattern(names: str) -> tuple[re.Pattern[str], dict[str, str]]:
    """What finds the terms of a list, and the name of each."""
    known = {}
    for line in names.strip().splitlines():
        name, _, rest = line.partition(": ")
        known |= {_key(word): name for word in (name, *rest.split(", ")) if word}
    words = (re.escape(word).replace("\\ ", r"[\s-]+") for word in sorted(known, key=len, reverse=True))
    return re.compile(rf"(?<![a-z0-9])(?:{'|'.join(words)})(?:s)?(?![a-z0-9])"), known


def _key(word: str) -> str:
    return re.sub(r"[\s-]+", " ", word.casefold())


def _terms(text: str, names: str) -> set[str]:
    pattern, known = _pattern(names)
    return {_named(known, match[0]) for match in pattern.finditer(text.casefold())}


def _numbers(text: str) -> set[str]:
    found = set()
    for number, unit in _NUMBER.findall(text.casefold()):
        found.add(f"{number} {_UNITS.get(unit, unit)}".strip())
    return found


def _roles(text: str, modality: str) -> set[str]:
    """Whether the image of a modality is the one ``given``, ``wanted``, or both; empty if it cannot be told."""
    pattern, known = _pattern(_MODALITY)
    marked = pattern.sub(lambda term: "@" if _named(known, term[0]) == modality else "#", text.casefold())
    roles = {"given": _GIVEN, "wanted": _WANTED}
    return {role for role, before in roles.items() if re.search(before + "@", marked)}


def _named(known: dict[str, str], term: str) -> str:
    key = _key(term)
    return known.get(key) or known[key.removesuffix("s")]


def _negation_fault(old: str, new: str) -> str:
    """What is denied in one text must not be affirmed in the other, and something of it must be denied there too."""
    one, two = _denied(old), _denied(new)
    for reached, others, text, told in ((one, two, new, "is lost"), (two, one, old, "is added")):
        denied = set().union(*others)
        affirmed = set(_content(text)) - denied
        for words in reached:
            if words & affirmed or (not words & denied if words else not others):
                about = sorted(words & affirmed) or sorted(words) or ["something"]
                return f"the negation of {' '.join(about)!r} {told}"
    return ""


def _denied(text: str) -> list[set[str]]:
    """The content words that each negation of a text reaches, without places."""
    reached = []
    for clause in re.split(r"[.;:!?](?:\s|$)|\bbut\b", text.casefold().replace("\u2019", "'")):
        for found in _NEGATION.finditer(clause):
            after, before = _content(clause[found.end() :])[:_REACH], _content(clause[: found.start()])[-_REACH:]
            reached.append(set(before if found[0] in _AFTERWARDS else after or before))
    return reached


def _content(text: str) -> list[str]:
    text = _NEGATION.sub(" ", text.casefold().replace("\u2019", "'"))
    for places in (_ANATOMY, _POSITION):
        text = _pattern(places)[0].sub(" ", text)
    return [word.removesuffix("s") for word in re.findall(r"[a-z0-9]+", text) if word not in _EMPTY.split()]
