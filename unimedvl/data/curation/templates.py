"""Instructions and responses for pairs of images, drawn from a library of wordings (``wordings.yaml``)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any, Literal

from unimedvl.data.curation.pairs import Pair
from unimedvl.errors import DataError

Kind = Literal["instructions", "responses"]

SLOTS = ("modality", "target_modality", "anatomy", "side", "finding", "scale")
SPOKEN = {
    "CFP": "fundus",
    "CXR": "chest X-ray",
    "HIS": "histopathology",
    "US": "ultrasound",
}  # before "image"; other names are spoken as they are written

_FILE = Path(__file__).with_name("wordings.yaml")
_SIDES = ("left", "right")  # words that can stand before an organ; "both" cannot
_WORDS = {
    "super-resolution": ("superresolution", "sr"),
    "virtual staining": ("virtualstaining", "staining", "stain"),
    "cross-modal synthesis": ("crossmodalsynthesis", "crossmodal", "translation", "synthesis"),
    "segmentation": ("segmentation",),
    "counterfactual": ("counterfactual", "counterfactualgeneration"),
}
TASKS = tuple(_WORDS)
_TASK_OF = {word: task for task, words in _WORDS.items() for word in words}


@dataclass(frozen=True)
class Template:
    """One wording.

    Attributes:
        slots: those that it has, all of which a pair must fill.
        unless: slots that a pair must not fill, or the wording would name the wrong thing.
        change: ``add`` or ``remove`` of a finding; empty where it does not matter.
    """

    text: str
    slots: frozenset[str]
    unless: frozenset[str]
    change: str

    def suits(self, values: Mapping[str, str], change: str) -> bool:
        """Whether a pair with these values can be worded so."""
        return self.slots <= values.keys() and not self.unless & values.keys() and self.change in ("", change)


@cache
def library() -> dict[tuple[str, Kind], tuple[Template, ...]]:
    """All wordings by task and kind."""
    import yaml

    found: dict[tuple[str, Kind], list[Template]] = {}
    for task, groups in yaml.safe_load(_FILE.read_text(encoding="utf-8")).items():
        for group in groups:
            unless, change = frozenset(group.get("unless", ())), group.get("change", "")
            kinds: tuple[Kind, ...] = ("instructions", "responses")
            for kind in kinds:
                own = (Template(text, slots_in(text), unless, change) for text in group.get(kind, ()))
                found.setdefault((task, kind), []).extend(own)
    return {key: tuple(templates) for key, templates in found.items()}


def slots_in(text: str) -> frozenset[str]:
    """Names between braces."""
    return frozenset(name for _, name, *_ in Formatter().parse(text) if name)


def task_of(pair: Pair) -> str | None:
    """Which of :data:`TASKS` a pair belongs to, by its subtask or family; None of another family."""
    if pair.family not in ("edit", "counterfactual"):
        return None
    names = (re.sub(r"[^a-z]", "", name.lower()) for name in (pair.subtask, pair.family))
    return next((_TASK_OF[name] for name in names if name in _TASK_OF), None)


def values_of(pair: Pair) -> dict[str, str]:
    """What fills the slots: the pair's modality, and what stands under the names of the slots in ``more``.

    A side that is not left or right is left out.
    """
    facts: dict[str, Any] = {"modality": pair.modality, **{name: pair.more.get(name) for name in SLOTS[1:]}}
    values = {name: _spoken(name, value) for name, value in facts.items() if value not in (None, "")}
    if values.get("side") not in _SIDES:
        values.pop("side", None)
    return {name: value for name, value in values.items() if value}


def worded(pair: Pair, seed: int) -> Pair:
    """The pair with an instruction and a response; texts that its source gave stay.

    ``more["change"]`` says of counterfactuals whether the finding is added (``add``) or removed (``remove``).

    Raises:
        DataError: the pair is of no task that has templates, or no template suits it.
    """
    task = task_of(pair)
    if task is None:
        remedy = f"set its subtask to one of {', '.join(TASKS)}"
        raise DataError(f"no templates for {pair.family} {pair.subtask!r}", where=pair.id, remedy=remedy)
    question = pair.question or _drawn(task, "instructions", pair, seed)
    return replace(pair, question=question, text=pair.text or _drawn(task, "responses", pair, seed))


def missing(text: str, values: Mapping[str, str], slots: frozenset[str] | None = None) -> list[str]:
    """Slots whose words a text lacks, or contradicts with the other side.

    Args:
        slots: those to look for; all that have a value by default.
    """
    lacking = [name for name, value in values.items() if (slots is None or name in slots) and not _has(text, value)]
    side = values.get("side")
    if side in _SIDES and "side" not in lacking and _has(text, _SIDES[side == "left"]):
        others = " ".join(value for name, value in values.items() if name != "side")
        # The other side may stand in the finding itself.
        lacking += [] if _has(others, _SIDES[side == "left"]) else ["side"]
    return lacking


def _drawn(task: str, kind: Kind, pair: Pair, seed: int) -> str:
    values, change = values_of(pair), str(pair.more.get("change", ""))
    suitable = [template for template in library()[task, kind] if template.suits(values, change)]
    if not suitable:
        remedy = 'give more["change"] as "add" or "remove"' if "finding" in values else "give its modality and anatomy"
        raise DataError(f"none of the {kind} of {task} suits the pair", where=pair.id, remedy=remedy)
    digest = hashlib.sha256(f"{seed} {pair.id} {kind}".encode()).digest()
    template = suitable[int.from_bytes(digest[:8], "big") % len(suitable)]
    text = template.text.format(**values)
    text = text[0].upper() + text[1:]
    if lost := missing(text, values, template.slots):
        problem = f"{', '.join(lost)} not in {text!r}, or contradicted"
        raise DataError(problem, where=pair.id, remedy="mend the facts of the pair")
    return text


def _spoken(name: str, value: Any) -> str:
    if name in ("modality", "target_modality"):
        return SPOKEN.get(str(value).strip(), str(value).strip())
    if name == "scale":
        return f"{float(value):g}" if isinstance(value, (int, float)) else str(value).strip().rstrip("xX")
    return str(value).strip().lower() if name == "side" else str(value).strip()


def _has(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None
