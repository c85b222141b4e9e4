"""Names of modalities and body parts as sources write them, to those of the corpus."""

from __future__ import annotations

# The standard's (PS3.3 C.7.3.1.1.1).
_DICOM = {
    **dict.fromkeys(("CR", "DX", "RF", "XA", "RG"), "XR"),
    "CT": "CT",
    "MR": "MRI",
    "US": "US",
    "IVUS": "US",
    "ES": "endoscopy",
    "OPT": "OCT",
    "OCT": "OCT",
    "OP": "CFP",
    **dict.fromkeys(("SM", "GM"), "HIS"),
    "MG": "mammography",
    "PT": "PET",
    "NM": "nuclear medicine",
}
# The standard's (PS3.16 annex L), those in wide use. Anything else in this tag may be a person's words.
# fmt: off
_BODY_PARTS = frozenset((
    "ABDOMEN", "ABDOMENPELVIS", "ANKLE", "AORTA", "ARM", "BLADDER", "BRAIN", "BREAST", "CALCANEUS", "CAROTID",
    "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS", "CLAVICLE", "COCCYX", "COLON", "CSPINE", "CTSPINE", "EAR",
    "ELBOW", "ESOPHAGUS", "EXTREMITY", "EYE", "FEMUR", "FINGER", "FOOT", "FOREARM", "GALLBLADDER", "HAND",
    "HEAD", "HEADNECK", "HEART", "HIP", "HUMERUS", "JAW", "KIDNEY", "KNEE", "LEG", "LIVER", "LSPINE", "LSSPINE",
    "LUNG", "MAXILLA", "MEDIASTINUM", "MOUTH", "NECK", "ORBIT", "OVARY", "PANCREAS", "PAROTID", "PELVIS",
    "PROSTATE", "RIB", "SCAPULA", "SHOULDER", "SKULL", "SPINE", "SPLEEN", "SSPINE", "STERNUM", "STOMACH",
    "TESTIS", "THIGH", "THUMB", "THYROID", "TIBIAFIBULA", "TLSPINE", "TOE", "TSPINE", "UTERUS", "WHOLEBODY",
    "WRIST", "ZYGOMA",
))
# fmt: on
_SPOKEN = {
    "ABDOMENPELVIS": "abdomen and pelvis",
    "CHESTABDOMEN": "chest and abdomen",
    "CHESTABDPELVIS": "chest, abdomen and pelvis",
    "CSPINE": "cervical spine",
    "CTSPINE": "cervicothoracic spine",
    "HEADNECK": "head and neck",
    "LSPINE": "lumbar spine",
    "LSSPINE": "lumbosacral spine",
    "SSPINE": "sacrum",
    "TIBIAFIBULA": "tibia and fibula",
    "TLSPINE": "thoracolumbar spine",
    "TSPINE": "thoracic spine",
    "WHOLEBODY": "whole body",
}
_SIDES = {"L": "left", "R": "right", "B": "both"}
_WORDS = {
    **dict.fromkeys(("computed tomography", "ct", "ct scan"), "CT"),
    **dict.fromkeys(("magnetic resonance imaging", "mri", "mr", "mri scan"), "MRI"),
    **dict.fromkeys(("ultrasound", "us", "ultrasonography", "ultrasound imaging"), "US"),
    **dict.fromkeys(("x-ray", "x ray", "xray", "xr", "radiography"), "XR"),
    **dict.fromkeys(("chest x-ray", "cxr", "chest radiograph"), "CXR"),
    **dict.fromkeys(("microscopy images", "histopathology", "histology", "pathology", "his"), "HIS"),
    **dict.fromkeys(("fundus photography", "color fundus photography", "fundus", "cfp"), "CFP"),
    **dict.fromkeys(("optical coherence tomography", "oct"), "OCT"),
    **dict.fromkeys(("endoscopy", "endoscopic images", "endoscopic imaging"), "endoscopy"),
    "dermoscopy": "dermoscopy",
    "digital photography": "photography",
    "infrared reflectance imaging": "infrared reflectance",
    "others": "",
}


def of_dicom(modality: object, body_part: object, laterality: object = None) -> tuple[str, str, str]:
    """The modality, the anatomy in words, and the side; of tags what the standard does not define is left out."""
    part = _code(body_part)
    name = _DICOM.get(_code(modality), "")
    anatomy = _SPOKEN.get(part, part.lower()) if part in _BODY_PARTS else ""
    return ("CXR" if name == "XR" and part == "CHEST" else name), anatomy, _SIDES.get(_code(laterality), "")


def _code(tag: object) -> str:
    return str(tag or "").strip().upper()


def named(text: str) -> str:
    """The modality that a table calls so; an unknown name as it is."""
    return _WORDS.get(text.strip().casefold(), text.strip())
