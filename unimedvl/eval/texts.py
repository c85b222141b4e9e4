"""Reports and captions against the truth: BLEU, ROUGE, METEOR and scores that are plugged in; whole and by section."""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unimedvl.errors import ConfigError, DataError

SCORED_SECTIONS = ("findings", "impression")
WHOLE = "whole"

_INSTALL = "pip install 'unimedvl[eval]'"
_ORDERS = (1, 2, 3, 4)
# Longer names first, so that none is cut short.
_NAMES = (
    r"findings\s+and\s+impressions?|findings?|impressions?|indications?|(?:clinical\s+)?(?:history|information)"
    r"|clinical\s+indication|comparisons?|techniques?|examination|exam|procedure|conclusions?|recommendations?"
)
_DASH = r"[-\u2013\u2014](?=\s|$)"
_HEADING = re.compile(
    rf"""
    ^(?P<mark>(?:[\#>*_• \t-]|\d+[.)])*)                  # at the start of a line, maybe marked up or numbered
      (?P<line>{_NAMES})
      (?: [ \t]*[*_]*[ \t]*[:\uff1a][*_]*                 # FINDINGS:   **Findings:**   **Findings**:
        | (?P<bold>[*_]{{2,}})(?:[ \t]*{_DASH})?          # **Findings** ...
        | (?P<bare>[ \t]*{_DASH} | [ \t\r]*$) )           # Impression - ...   Impression, alone on its line
    | (?: (?<=[.!?;)]\s) | (?<=[.!?;)]\s\s) )(?P<ended>{_NAMES})[ \t]*:   # ... normal. Impression: ...
    | (?<=\s)(?P<capitals>{_NAMES})[ \t]*:                # ... chest IMPRESSION: ...
    """,
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)


@dataclass(frozen=True)
class TextScores:
    """Predictions against references, 0 to 1, higher is better (a score that is plugged in has its own range).

    Attributes:
        values: name -> value over all items. BLEU and METEOR add up counts over the items before they divide, so
            they are not means; ROUGE and what is plugged in are means.
        items: name -> value of each item; none for BLEU, which is not defined for one short text.
        count: items; ``empty``: predictions without a word, which score 0.
        about: name -> how it is computed.
    """

    values: dict[str, float]
    items: dict[str, tuple[float, ...]]
    count: int
    empty: int
    about: dict[str, str] = field(default_factory=dict)


def text_scores(
    predictions: Sequence[str], references: Sequence[str], *, with_meteor: bool = True, rate: str | None = None
) -> TextScores:
    """BLEU-1 to BLEU-4, ROUGE-1, ROUGE-L, METEOR, and what is plugged in.

    Args:
        references: one for each prediction, none of them empty.
        with_meteor: needs Java.
        rate: ``module:function`` of another score, such as RaTEScore, which takes (predictions, references) and
            gives a number for each.

    Raises:
        ConfigError: Java or a package is absent, or ``rate`` cannot be used.
        DataError: the texts do not match, or a reference is empty.
    """
    if with_meteor:
        require_meteor()
    plugged = None if rate is None else named_function(rate, "rate")
    _check(predictions, references)
    values, about = bleu(predictions, references)
    items = rouge(predictions, references)
    about |= dict.fromkeys(items, "rouge-score, mean of F1; lower case, words of a-z and 0-9, no stemmer")
    if plugged is not None:
        items["rate"] = _plugged_items(plugged, predictions, references, str(rate))
        about["rate"] = f"{rate}, mean"
    values |= {name: math.fsum(each) / len(each) for name, each in items.items()}
    if with_meteor:
        values["meteor"], items["meteor"] = meteor(predictions, references)
        about["meteor"] = "METEOR 1.5 (jar of pycocoevalcap), English, -norm, over the corpus"
    empty = sum(not text.strip() for text in predictions)
    return TextScores(values, items, len(predictions), empty, about)


def section_scores(predictions: Sequence[str], references: Sequence[str], **options: Any) -> dict[str, TextScores]:
    """Scores of the whole reports, and of each section over the items whose reference has it.

    A prediction without the section counts as an empty one.

    Args:
        options: see :func:`text_scores`.

    Returns:
        :data:`WHOLE`, then those of :data:`SCORED_SECTIONS` that some reference has.
    """
    scored = {WHOLE: text_scores(predictions, references, **options)}
    pairs = [(sections(made), sections(true)) for made, true in zip(predictions, references, strict=True)]
    for name in SCORED_SECTIONS:
        if mine := [(made.get(name, ""), true[name]) for made, true in pairs if name in true]:
            scored[name] = text_scores([made for made, _ in mine], [true for _, true in mine], **options)
    return scored


def sections(report: str) -> dict[str, str]:
    """The parts of a report by their headings, lower case and singular or plural as radiologists use them.

    A heading is a known name (findings, impression, indication, comparison, technique, ...) at the start of a line
    before a colon, a dash or nothing more, also in Markdown; or before a colon within a line, if it begins with a
    capital and follows a sentence, or is all capitals. Text before or without headings is under ``""``; parts
    without text are left out, and parts of the same name are joined.
    """
    parts: dict[str, list[str]] = {}
    name, start = "", 0
    for found in _HEADING.finditer(report):
        if (heading := _heading_name(found)) is None:
            continue
        parts.setdefault(name, []).append(report[start : found.start()])
        name, start = heading, found.end()
    parts.setdefault(name, []).append(report[start:])
    joined = {name: "\n".join(text.strip() for text in texts if text.strip()) for name, texts in parts.items()}
    return {name: text for name, text in joined.items() if text}


def _heading_name(found: re.Match[str]) -> str | None:
    """The section that a match opens; None for a word of a sentence."""
    written = found["line"] or found["ended"] or found["capitals"]
    capital = written[0].isupper()
    if found["bare"] is not None and not (capital or found["mark"].strip()):
        return None
    if (found["ended"] and not capital) or (found["capitals"] and not written.isupper()):
        return None
    if found["bold"] and not re.search(r"[*_]{2}", found["mark"]):
        return None
    name = " ".join(written.lower().split()).removesuffix("s")
    return "findings" if name == "finding" else name


def bleu(predictions: Sequence[str], references: Sequence[str]) -> tuple[dict[str, float], dict[str, str]]:
    """Corpus BLEU up to 1, 2, 3 and 4 words, cumulative as in the literature of report generation, 0 to 1.

    sacrebleu's ``13a`` tokens in lower case, no smoothing. Unlike the tokenizer of pycocoevalcap, ``13a`` keeps
    punctuation as tokens.

    Returns:
        ``bleu-1`` ... ``bleu-4``, and sacrebleu's signature of each.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise ConfigError("BLEU needs sacrebleu", where="text scores", remedy=_INSTALL) from error
    values, about = {}, {}
    for order in _ORDERS:
        # "force" only silences a warning about texts that look tokenized.
        metric = BLEU(lowercase=True, tokenize="13a", smooth_method="none", max_ngram_order=order, force=True)
        values[f"bleu-{order}"] = metric.corpus_score(list(predictions), [list(references)]).score / 100
        about[f"bleu-{order}"] = f"sacrebleu, {metric.get_signature()}, up to {order} words"
    return values, about


def rouge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """F1 of ROUGE-1 and ROUGE-L of each item, 0 to 1; rouge-score without its stemmer."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ConfigError("ROUGE needs rouge-score", where="text scores", remedy=_INSTALL) from error
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
    each = [scorer.score(true, made) for made, true in zip(predictions, references, strict=True)]
    names = {"rouge-1": "rouge1", "rouge-l": "rougeL"}
    return {ours: tuple(float(item[theirs].fmeasure) for item in each) for ours, theirs in names.items()}


def require_meteor() -> tuple[str, Path]:
    """The Java program and the METEOR jar.

    Raises:
        ConfigError: one of them is absent.
    """
    spec = importlib.util.find_spec("pycocoevalcap")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    jar = next((path for folder in folders if (path := Path(folder) / "meteor" / "meteor-1.5.jar").is_file()), None)
    if jar is None:
        raise ConfigError("METEOR needs pycocoevalcap", where="meteor", remedy=f"{_INSTALL}, or leave METEOR out")
    java = shutil.which("java")
    # macOS has a program of that name that only says that Java is absent.
    if java is None or subprocess.run([java, "-version"], capture_output=True, check=False).returncode:
        raise ConfigError(
            "METEOR needs Java", where="meteor", remedy="put java (8 or later) on the PATH, or leave METEOR out"
        )
    return java, jar


def meteor(predictions: Sequence[str], references: Sequence[str]) -> tuple[float, tuple[float, ...]]:
    """METEOR 1.5 over the corpus, and of each item, 0 to 1; one Java process, which ends with the call.

    Raises:
        ConfigError: Java or the jar is absent, or fails.
    """
    java, jar = require_meteor()
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for name, texts in (("predictions", predictions), ("references", references)):
            files.append(path := Path(folder) / name)
            # One text a line.
            path.write_text("".join(" ".join(text.split()) + "\n" for text in texts), encoding="utf-8")
        command = [java, "-Xmx2G", "-jar", jar, *files, "-l", "en", "-norm"]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    items = tuple(float(score) for score in re.findall(r"^Segment \d+ score:\s+(\S+)$", done.stdout, re.MULTILINE))
    whole = re.search(r"^Final score:\s+(\S+)$", done.stdout, re.MULTILINE)
    if done.returncode or whole is None or len(items) != len(predictions):
        said = next(iter(done.stderr.strip().splitlines()), f"{len(items)} scores for {len(predictions)} texts")
        raise ConfigError(f"METEOR failed: {said}", where=str(jar), remedy="give Java 2 GB of memory, install it again")
    return float(whole[1]), items


def named_function(name: str, where: str) -> Callable[..., Any]:
    """What ``module:function`` names.

    Raises:
        ConfigError: there is no such module or function.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise ConfigError(f"{name!r} is not of the form module:function", where=where, remedy="such as my_scores:rate")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{name} cannot be imported: {error}", where=where, remedy="install it") from error
    if not callable(found):
        raise ConfigError(f"{name} is not a function", where=where, remedy="name a function")
    return found


def _plugged_items(
    function: Callable[..., Any], predictions: Sequence[str], references: Sequence[str], name: str
) -> tuple[float, ...]:
    given = function(list(predictions), list(references))
    values = tuple(float(value) for value in given)
    if len(values) != len(predictions) or not all(map(math.isfinite, values)):
        finite = sum(map(math.isfinite, values))
        raise DataError(
            f"{name} gave {len(values)} numbers, {finite} of them finite, for {len(predictions)} texts",
            where="rate",
            remedy="let it give one finite number for each text",
        )
    return values


def _check(predictions: Sequence[str], references: Sequence[str]) -> None:
    if len(predictions) != len(references) or not references:
        raise DataError(
            f"{len(predictions)} predictions for {len(references)} references",
            where="text scores",
            remedy="give one reference for each prediction, and at least one",
        )
    for number, text in enumerate(references):
        if not text.strip():
            raise DataError("a reference is empty", where=f"item {number}", remedy="leave the item out")
