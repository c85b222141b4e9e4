"""The card of a corpus: where its pairs went, what stayed, from whom, in which files, and how to make it again."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unimedvl.data.curation import plots, sheets
from unimedvl.data.curation.counts import DecisionCounts, PairCounts, funnel, sources_of, summary_of
from unimedvl.data.curation.image_index import NAME as IMAGES
from unimedvl.data.curation.removals import NAME as REMOVALS
from unimedvl.data.curation.repetition import repetition
from unimedvl.data.curation.settings import CurateSettings
from unimedvl.data.curation.stages import Stage
from unimedvl.files import write_text

CARD = "README.md"
INGESTED = "ingested.json"  # what the first stage passed over
_ROWS = 30
_CELL = 160  # characters
_ABSENT = "not told"
_FILES, _REMOVED = "files", "removed"
_TITLE = "# Curated corpus"
_ACTIONS = ("drop", "flag", "keep")


def write_card(
    folder: Path,
    stages: Sequence[Stage],
    settings: CurateSettings,
    manifest: Mapping[str, Any],
    pairs: PairCounts,
    decisions: DecisionCounts,
    *,
    about: str = "",
    notes: Sequence[str] = (),
) -> None:
    """Write the card with its plots and contact sheets.

    Args:
        folder: of the corpus.
        manifest: of the corpus, with ``rows`` and ``files`` by name, ``images``, the ``sha256`` of all files, the
            version of ``unimedvl``, and ``removals`` by stage where people took pairs out.
        pairs: without those that people took out.
        about: Markdown that stands first: title, origins, terms of the sources.
        notes: lines below the funnel, such as what a stage has cost.

    Raises:
        DataError: a part of a stage is absent or damaged.
    """
    removed = manifest.get("removals", {})
    left = funnel(stages) | ({"removed by people": pairs.pairs.total()} if removed else {})
    drawn = plots.write_plots(folder, left, pairs, decisions)
    sheeted = sheets.write_sheets(folder, pairs, decisions.private)
    sections = (
        _introduction(left, (pairs, len(sources_of(stages[0]))), drawn, about, _taken_out(removed)),
        _funnel(left, drawn, notes),
        _decisions(_skipped(stages[0]), decisions, drawn),
        _contents(pairs, drawn),
        _samples(sheeted, pairs),
        _files(manifest),
        repetition(settings, manifest["unimedvl"]),
    )
    write_text(folder / CARD, "\n".join(line for section in sections for line in (*section, "")))


def note_removal(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Say at the top of a card what people took out by now, and bring its table of files up to date."""
    path = folder / CARD
    if not path.is_file():
        return
    said = f"{_taken_out(manifest['removals'])} Counts, plots and sheets are from before the last of them was; the "
    said += "table of files is up to date."
    card = _replaced(path.read_text(encoding="utf-8"), _REMOVED, said)
    write_text(path, _replaced(card, _FILES, "\n".join(_file_rows(manifest))))


def text(value: str) -> str:
    """Any words as they are, on one line of Markdown or in a cell of a table."""
    words = "".join(letter if letter.isprintable() else " " for letter in value)
    words = " ".join(words.split())
    words = words if len(words) <= _CELL else words[: _CELL - 1] + "…"
    return re.sub(r"[][|`*\\~$]|(?<!\w)_|_(?!\w)", lambda found: f"&#{ord(found[0])};", html.escape(words, quote=False))


def table(heads: Sequence[str], rows: Sequence[Sequence[str | int]], most: int | None = None) -> Iterator[str]:
    """Lines of a Markdown table; columns of numbers, as its first row has them, stand to the right.

    Args:
        rows: strings must be Markdown already.
        most: rows that are shown, with a line that says how many more there are; all by default.
    """
    yield f"| {' | '.join(heads)} |"
    yield f"|{'|'.join('---:' if _is_number(cell) else '---' for cell in (rows[0] if rows else heads))}|"
    for row in rows[:most]:
        yield f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else cell for cell in row)} |"
    if most is not None and len(rows) > most:
        yield f"\nand {len(rows) - most:,} more"


def share(count: int, of: int) -> str:
    """A percentage that says 0 or 100 of none and all only."""
    told = [f"{count / max(of, 1):.{digits}%}" for digits in range(1, 9)]
    exact = count in (0, of)
    return next((each for each in told if exact or float(each[:-1]) not in (0, 100)), told[-1])


def _is_number(cell: str | int) -> bool:
    return isinstance(cell, int) or cell.endswith("%")


def _taken_out(removals: Mapping[str, int]) -> str:
    """How many records are gone, by the stage whose decisions took them out."""
    if not removals:
        return ""
    by = ", ".join(f"{text(stage)} ({count:,})" for stage, count in sorted(removals.items()))
    total = sum(removals.values())
    said = "record was" if total == 1 else "records were"
    return f"> **{total:,} {said} taken out by people**, by decisions of: {by}; see `{REMOVALS}`."


def _introduction(
    left: Mapping[str, int], counted: tuple[PairCounts, int], drawn: Sequence[str], about: str, removed: str
) -> Iterator[str]:
    """Title, what was taken out, and the numbers; ``counted`` are the pairs that stayed and the sources of all."""
    pairs, sources = counted
    first, last = next(iter(left.values())), pairs.pairs.total()
    splits = ", ".join(f"{pairs.pairs[split]:,} {text(split)}" for split in plots.in_order(pairs.pairs))
    about = about.strip() or _TITLE
    title, _, rest = about.partition("\n") if about.startswith("# ") else ("", "", about)
    yield "\n\n".join(filter(None, (title, _block(_REMOVED, removed), rest.strip(), "## In numbers\n")))
    yield (
        f"**{last:,} pairs** ({splits or 'in no split'}) of {first:,} that were read from {sources:,} "
        f"{'source' if sources == 1 else 'sources'}. For research only.\n\n"
        "`decisions.jsonl` has every decision on every pair with its reason, `manifest.json` all settings and hashes."
    )
    if not drawn:
        yield "\nPlots are left out, as they need matplotlib: `pip install 'unimedvl[ui]'` and run the curation again."


def _funnel(left: Mapping[str, int], drawn: Sequence[str], notes: Sequence[str]) -> Iterator[str]:
    counts = list(left.values())
    changes = [new - old for old, new in zip([counts[0], *counts], counts, strict=False)]
    rows = [
        [text(name), count, max(-change, 0), share(count, counts[0]), max(change, 0)]
        for (name, count), change in zip(left.items(), changes, strict=True)
    ]
    shown = 5 if any(change > 0 for change in changes) else 4
    yield "## Funnel\n"
    heads = ["stage", "pairs after it", "dropped by it", "of the first", "added by it"]
    yield from table(heads[:shown], [row[:shown] for row in rows])
    for note in notes:
        yield f"\n- {' '.join(note.split())}"
    yield from _plot("funnel", drawn)


def _decisions(skipped: Mapping[str, int], decisions: DecisionCounts, drawn: Sequence[str]) -> Iterator[str]:
    """What went first, what is for people to look at, what stays with a word on it."""
    found = sorted(decisions.reasons.items(), key=lambda each: _ACTIONS.index(each[0][1]))
    rows = [("ingest", "pass over", text(reason), count) for reason, count in sorted(skipped.items())]
    yield "## Decisions\n"
    if not (rows or found):
        yield "None: every pair was taken as it was."
        return
    rows += [(text(stage), action, text(reason), count) for (stage, action, reason), count in found]
    yield from table(("stage", "decision", "reason", "pairs"), rows)
    yield from _plot("scores", drawn)


def _contents(pairs: PairCounts, drawn: Sequence[str]) -> Iterator[str]:
    yield "## Pairs by modality\n"
    yield from _by_split(("modality",), {(name,): counts for name, counts in pairs.modalities.items()}, pairs)
    yield from _plot("modalities", drawn)
    yield "\n## Pairs by task\n"
    yield from _by_split(("family", "subtask"), pairs.tasks, pairs)
    yield from _plot("tasks", drawn)
    yield "\n## Lengths of texts\n"
    measured = {name: summary_of(counts) for name, counts in pairs.lengths.items() if counts}
    keys = ("n", "min", "median", "mean", "p95", "max")
    rows = [(name, *(round(told[key]) for key in keys)) for name, told in measured.items()]
    yield from table(("characters of", *keys), rows)
    yield from _plot("texts", drawn)
    yield "\n## Pairs by source and license\n"
    ordered = sorted(pairs.sources.items(), key=lambda each: (-each[1], each[0]))
    rows = [(text(source), text(terms) or _ABSENT, count) for (source, terms), count in ordered]
    yield from table(("source", "license", "pairs"), rows, _ROWS)


def _by_split(heads: Sequence[str], counts: Mapping[tuple[str, ...], Counter[str]], pairs: PairCounts) -> Iterator[str]:
    splits = plots.in_order(pairs.pairs)
    ordered = sorted(counts.items(), key=lambda each: (-each[1].total(), each[0]))
    rows = [
        (*(text(name) or _ABSENT for name in names), *(own[split] for split in splits), own.total())
        for names, own in ordered
    ]
    yield from table((*heads, *map(text, splits), "all"), rows, _ROWS)


def _samples(drawn: Sequence[sheets.Sheet], pairs: PairCounts) -> Iterator[str]:
    """Contact sheets, folded."""
    yield "## Samples\n\nRandom pairs, input and target side by side; pairs flagged for privacy are not shown."
    for kind in ("modality", "task"):
        own = [sheet for sheet in drawn if sheet.kind == kind]
        for sheet in own:
            title = f"{kind} {text(sheet.name) or _ABSENT}: {sheet.note}"
            named = text(sheet.name).replace('"', "&quot;")
            picture = f'<img src="{sheet.file}" alt="{kind} {named}">' if sheet.file else ""
            yield f"\n<details><summary>{title}</summary>{picture}</details>"
        if more := sum(of == kind for of, _ in pairs.pictured) - len(own):
            yield f"\nand {more:,} more of {kind}"


def _files(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield "## Files and hashes\n"
    yield _block(_FILES, "\n".join(_file_rows(manifest)))


def _file_rows(manifest: Mapping[str, Any]) -> Iterator[str]:
    names = [*manifest["rows"], *(name for name in manifest["files"] if name not in manifest["rows"])]
    counts = {**manifest["rows"], IMAGES: manifest["images"]}
    rows = [(f"`{name}`", counts.get(name, ""), f"`{manifest['files'][name]}`") for name in names]
    yield from table(("file", "lines", "sha256"), rows)
    yield f"\nsha256 of all of them: `{manifest['sha256']}`"


def _skipped(first: Stage) -> dict[str, int]:
    path = first.folder / INGESTED
    return json.loads(path.read_text(encoding="utf-8"))["skipped"] if path.is_file() else {}


def _plot(name: str, drawn: Sequence[str]) -> Iterator[str]:
    if name in drawn:
        yield f"\n![{name}]({plots.FOLDER}/{name}.png)"


def _block(name: str, content: str) -> str:
    """Content that can be found again, see :func:`_replaced`."""
    return f"<!-- {name} -->\n{content}\n<!-- end of {name} -->"


def _replaced(card: str, name: str, content: str) -> str:
    """The card with another content of a block, at its top where somebody took the block away."""
    start, end = card.rfind(f"<!-- {name} -->"), card.rfind(f"<!-- end of {name} -->")
    if not 0 <= start < end:
        return f"{_block(name, content)}\n\n{card}" if name == _REMOVED else card
    return f"{card[:start]}{_block(name, content)}{card[end:].partition('-->')[2]}"
