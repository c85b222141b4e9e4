"""Instructions and responses for pairs of images, drawn from a library of wordings (``wordings.yaml``).

A file of the same form with wordings of one's own takes the place of the library for the tasks that it names; its
tasks and slots may be others than those of the library, slots being names of facts in ``Pair.more``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any, Literal, get_args

from unimedvl.data.curation.pairs import Pair
from unimedvl.errors import ConfigError, DataError

Kind = Literal["instructions", "responses"]
_KINDS: tuple[Kind, ...] = get_args(Kind)

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


@dataclass(frozen=True)
class WordingSettings:
    """Which wordings are drawn from.

    Attributes:
        file: wordings of one's own, see above; without one those of the library.
    """

    file: Path | None = None


Library = Mapping[tuple[str, Kind], tuple[Template, ...]]


def library(file: Path | None = None) -> Library:
    """All wordings by task and kind.

    Args:
        file: wordings that stand before those of the library.

    Raises:
        ConfigError: the file is absent, or of another form.
    """
    return _read(_FILE) if file is None else {**_read(_FILE), **_read(file)}


def wordings_hash(file: Path | None = None) -> str:
    """SHA-256 of the library and of the file before it."""
    content = _FILE.read_bytes() + (b"" if file is None else b"\0" + file.read_bytes())
    return hashlib.sha256(content).hexdigest()


@cache
def _read(file: Path) -> Library:
    import yaml

    remedy = "write TASK: [{instructions: [...], responses: [...]}], with change and unless where they matter"
    try:
        tasks = yaml.safe_load(file.read_text(encoding="utf-8"))
        found: Library = {
            (task, kind): tuple(_templates(groups, kind)) for task, groups in tasks.items() for kind in _KINDS
        }
    except OSError as error:
        raise ConfigError("no such file of wordings", where=str(file), remedy="check wording.file") from error
    except (yaml.YAMLError, AttributeError, TypeError, ValueError) as error:  # ValueError: braces, UnicodeDecodeError
        reason = " ".join(str(error).split())
        raise ConfigError(f"no wordings: {reason}", where=str(file), remedy=remedy) from error
    if empty := next((f"{task} has no {kind}" for (task, kind), own in found.items() if not own), ""):
        raise ConfigError(empty, where=str(file), remedy=remedy)
    return found


def _templates(groups: Sequence[Mapping[str, Any]], kind: Kind) -> Iterator[Template]:
    for group in groups:
        if unknown := sorted(group.keys() - {*_KINDS, "unless", "change"}):
            raise ValueError(f"{', '.join(unknown)} in a group")
        for text in group.get(kind, ()):
            yield Template(text, slots_in(text), frozenset(group.get("unless", ())), group.get("change", ""))


def slots_in(text: str) -> frozenset[str]:
    """Names between braces."""
    return frozenset(name for _, name, *_ in Formatter().parse(text) if name)


def task_of(pair: Pair, file: Path | None = None) -> str | None:
    """Which of :data:`TASKS`, or of a file's own, a pair belongs to, by its subtask or family; None of another."""
    if pair.family not in ("edit", "counterfactual"):
        return None
    known = _TASK_OF if file is None else {**_TASK_OF, **{_letters(task): task for task, _ in _read(file)}}
    return next((known[name] for name in map(_letters, (pair.subtask, pair.family)) if name in known), None)


def values_of(pair: Pair) -> dict[str, str]:
    """What fills slots: the pair's modality, and texts and numbers in ``more`` by their names.

    ``more["modality"]`` names the input more exactly than ``Pair.modality``, such as "T1-weighted MRI".

    A side that is not left or right is left out.
    """
    told = {name: value for name, value in pair.more.items() if isinstance(value, str | int | float)}
    facts = {"modality": pair.modality, **told}
    values = {name: _spoken(name, value) for name, value in facts.items() if value not in (None, "")}
    if values.get("side") not in _SIDES:
        values.pop("side", None)
    return {name: value for name, value in values.items() if value}


def worded(pair: Pair, seed: int, file: Path | None = None) -> Pair:
    """The pair with an instruction and a response; texts that its source gave stay.

    ``more["change"]`` says of counterfactuals whether the finding is added (``add``) or removed (``remove``).

    Args:
        file: wordings of one's own, see :func:`library`.

    Raises:
        DataError: the pair is of no task that has templates, or no template suits it.
    """
    task = task_of(pair, file)
    if task is None:
        remedy = f"set its subtask to one of {', '.join(TASKS)}"
        raise DataError(f"no templates for {pair.family} {pair.subtask!r}", where=pair.id, remedy=remedy)
    own = library(file)

    def drawn(kind: Kind) -> str:
        return _drawn(own[task, kind], kind, task, pair, seed)

    question = pair.question or drawn("instructions")
    return replace(pair, question=question, text=pair.text or drawn("responses"))


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


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _drawn(templates: Sequence[Template], kind: Kind, task: str, pair: Pair, seed: int) -> str:
    values, change = values_of(pair), str(pair.more.get("change", ""))
    suitable = [template for template in templates if template.suits(values, change)]
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
