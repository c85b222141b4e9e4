"""What a language model would say to the prompts of curation; of some pairs badly at first, or always."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.unit.data.curation.fake_endpoint import text_of

DESCRIPTION = """Technique: frontal view of the chest, upright, moderate exposure.
Anatomy: both lungs, heart, mediastinum, diaphragm and the bony thorax.
Findings: a homogeneous opacity in the left lower zone with a meniscus, about a third of the height.
Impression: high contrast, dark lungs above a bright base."""
PLAN = "I place the heart in the middle and lay a bright band over the left base whose upper border is to be concave."
THOUGHTS = "The left lower zone is opaque with a meniscus, which fluid makes, and that settles the question."
NEVER = 7  # the pair whose instruction stays faulty


def number_of(text: str) -> int:
    """The number of a pair, which its texts carry as ``#12``; 0 where there is none."""
    found = re.search(r"#(\d+)", text)
    return int(found[1]) if found else 0


def answer(messages: list[dict[str, Any]]) -> str:
    """A reply to any prompt of curation.

    Of every fourth pair the first reply to the second step of CAG is faulty, of pair ``NEVER`` each one. Questions
    are answered with yes if the pair's number is even.
    """
    prompt, first = text_of(messages[0]), len(messages) == 1
    number = number_of(prompt)
    if "on four levels" in prompt:
        return DESCRIPTION
    if start := re.search(r"^- Begin with these words exactly: (.*)$", prompt, re.M):
        if number == NEVER or (first and number % 4 == 1):
            return "The image shows an effusion."
        return f"{start[1]} {_quoted('Caption', prompt)}, over the whole width and with a clear border."
    if "that draws" in prompt:
        return f"<think>{PLAN}</think> Here is case #{number} with its effusion."
    if "Answer this question" in prompt:
        return "Yes" if first and number % 4 == 3 else f"<think>{THOUGHTS}</think> {'No' if number % 2 else 'Yes'}"
    refined = "in other words" in prompt
    return f"Please, {_quoted('Text', prompt)}" if refined else f"A medical image, said in {len(prompt)} ways."


def _quoted(name: str, prompt: str) -> str:
    found = re.search(rf"^{name}: (.*)$", prompt, re.M)
    assert found
    return json.loads(found[1])
