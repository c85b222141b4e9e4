"""What an answer says, as words: without reasoning and chat template, lower case, no accents, synonyms made one."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    )
}
# One meaning a line: the word that stands for it, then what else is written for it. "US" is missing: it is also "us".
_TERMS = """
ct: computed tomography, computerized tomography, computed tomography scan, cat scan, ct scan
mri: mr, magnetic resonance, magnetic resonance imaging, mr imaging, mri scan, mr scan
xray: x ray, radiograph, radiography, roentgenogram, plain film
chest xray: cxr, chest x ray, chest radiograph, chest radiography
ultrasound: ultrasonography, sonography, sonogram, ultrasound scan
pet: positron emission tomography, pet scan
oct: optical coherence tomography
fundus photograph: cfp, fundus photography, color fundus photograph, color fundus photography, colour fundus photography
flair: fluid attenuated inversion recovery
dwi: diffusion weighted imaging
t 1 weighted: t 1 w
t 2 weighted: t 2 w
%: percent, per cent
h e: hematoxylin and eosin, haematoxylin and eosin, hematoxylin eosin, haematoxylin eosin
ap: anteroposterior, antero posterior
pa: posteroanterior, postero anterior
tumor: tumour
edema: oedema
esophagus: oesophagus
hemorrhage: haemorrhage
hematoma: haematoma
ischemia: ischaemia
ischemic: ischaemic
anemia: anaemia
leukemia: leukaemia
color: colour
gray: grey
metastasis: metastases
diagnosis: diagnoses
vertebra: vertebrae
pneumothorax: pneumothoraces
"""
WORD = re.compile(
    r"(?:[<>≤≥]\s?|(?<![\w)])-)?\d+(?:[.,]\d+)*(?:\s?-\s?\d+(?:\.\d+)?)?"  # one word: 5, 0.5, <5, -5, 5-10
    r"|[^\W\d_]+(?:'[^\W\d_]+)*|[+%]"
)
_CHARACTERS = str.maketrans({"\u2018": "'", "\u2019": "'", "\u2013": "-", "\u2212": "-", "\u2014": " - ", "_": " "})
_TURN_ENDS = re.compile(r"<\|(?:im_end|endoftext|eot_id|end|end_of_text)\|>|</s>|<eos>|<end_of_turn>", re.I)
_SPECIAL = re.compile(
    r"<\|im_start\|>\s*\w*|<\|start_header_id\|>\s*\w*|<\|[^|>]*\|>|</?s>|<(?:bos|pad|unk|image)>|\[/?INST\]"
    r"|^\s*assistant\s*:",
    re.I,
)
REFUSAL = re.compile(
    r"\b(?:can't|cannot|can not|could not|couldn't|unable to|not able to|not possible to|impossible to)\s+"
    r"(?:\w+\s+){0,2}?(?:determine|tell|answer|assess|say|provide|diagnose|identify|interpret|evaluate|analyze|view|judge|conclude"
    r"|know|help|assist)d?\b|\b(?:do not|don't) (?:know|have)\b|\bas an ai\b|\bno (?:idea|image|answer)\b"
    r"|\b(?:cannot|can't|do not|don't) see (?:\w+ )?images?\b"
    r"|\b(?:insufficient|not enough) (?:information|detail|data)\b|\b(?:unsure|not sure|i'm sorry|i am sorry)\b"
)


def spoken(answer: str) -> str:
    """What was said to the user: without ``<think>…</think>``, chat template tokens, and turns after the first.

    Reasoning that was cut off before its ``</think>`` is dropped too, so nothing is left of it.
    """
    text = re.sub(r"<think>.*?</think>", "", answer, flags=re.S | re.I)
    text = re.split(r"</think>", text, flags=re.I)[-1]
    text = re.split(r"<think>", text, flags=re.I)[0]
    turns = (_SPECIAL.sub(" ", turn).strip() for turn in _TURN_ENDS.split(text))
    return next((turn for turn in turns if turn), "")


def plain_text(answer: str) -> str:
    """:func:`spoken`, lower case, without accents and markup; marks of a final answer become the word ``answer:``."""
    letters = unicodedata.normalize("NFKD", spoken(answer).casefold())
    text = "".join(letter for letter in letters if not unicodedata.combining(letter))
    text = text.translate(_CHARACTERS)
    text = re.sub(r"</answer>", ". ", re.sub(r"<answer>", " answer: ", text))
    text = re.sub(r"\\boxed\s*\{(?:\\\w+\{)?([^{}]*)\}+", r" answer: \1. ", text)
    text = re.sub(r"[*`#$\"\u201c\u201d]+", "", text)
    return re.sub(r"(\banswer|:)\s*:?[ \t]*\n\s*", r"\1: ", text).strip()


@dataclass(frozen=True)
class Text:
    """Words, and ``gaps``, one more than words: what stands before, between and after them."""

    words: tuple[str, ...]
    gaps: tuple[str, ...]

    def between(self, start: int, end: int) -> str:
        """From behind the word before ``start`` up to the word ``end``."""
        return self.gaps[start] + "".join(self.words[at] + self.gaps[at + 1] for at in range(start, end))


@lru_cache(1)
def _terms() -> dict[tuple[str, ...], tuple[str, ...]]:
    lines = (line.split(": ") for line in _TERMS.strip().splitlines())
    return {tuple(variant.split()): tuple(name.split()) for name, rest in lines for variant in rest.split(", ")}


@lru_cache(256)
def read(answer: str) -> Text:
    """Words with synonyms replaced."""
    plain = plain_text(answer)
    found = list(WORD.finditer(plain))
    edges = [0, *(edge for match in found for edge in match.span()), len(plain)]
    gaps = [plain[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
    words = [re.sub(r"\s|,(?=\d{3}\b)", "", match[0]) for match in found]
    terms, at = _terms(), 0
    while at < len(words):
        for length in range(min(4, len(words) - at), 0, -1):
            term = terms.get(tuple(singular(word) for word in words[at : at + length]))
            term = term or terms.get(tuple(words[at : at + length]))
            if term and not any(re.search(r"[.;!?\n]", gap) for gap in gaps[at + 1 : at + length]):
                words[at : at + length], gaps[at + 1 : at + length] = term, [" "] * (len(term) - 1)
                at += len(term) - 1
                break
        at += 1
    return Text(tuple(words), tuple(gaps))


def singular(word: str) -> str:
    """Without the plural ending of regular English nouns; only to be compared with other words treated alike."""
    if len(word) <= 3 or not word.endswith("s") or word.endswith(("ss", "us", "is", "'s")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("sses", "xes", "ches", "shes")) else word[:-1]
