"""CheXpert Plus: chest X-rays with reports.

``df_chexpert_plus_240401.csv`` with ``path_to_image``, ``frontal_lateral``, ``deid_patient_id``, ``section_findings``,
``section_impression``, ``split`` and more; of the rest, which tells about the patient, nothing is taken. The images lie
beside it or in ``PNG``, as .jpg or .png whatever the table says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from unimedvl.data.curation.ingest.rows import Row, pairs_of_rows
from unimedvl.data.curation.ingest.settings import Reader, ReaderSettings, Skipped, one_image
from unimedvl.data.curation.ingest.tables import split_in
from unimedvl.data.curation.pairs import Pair

_TABLES = "df_chexpert_plus_*.csv"
_SECTIONS = {"Findings": "section_findings", "Impression": "section_impression"}


def _read(root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
    for path in [root] if root.is_file() else sorted(root.glob(_TABLES)):
        needed, make = ("path_to_image", *_SECTIONS.values()), partial(_pairs, path, settings, skipped)
        yield from pairs_of_rows(path, needed, make, settings, skipped)


def _pairs(path: Path, settings: ReaderSettings, skipped: Skipped, row: Row) -> Iterator[Pair]:
    text = "\n".join(f"{name}: {said}" for name, column in _SECTIONS.items() if (said := row.text(column)))
    if not text:
        skipped.add("neither findings nor impression", row.place)
        return
    name = row.text("path_to_image")
    if (image := _image(name, path.parent)) is None:
        skipped.missing(settings, "no such image", f"{row.place}: {name}", "check the path")
        return
    split, shown = split_in(row, "split"), one_image(str(image), settings.family)
    yield settings.pair(name, text=text, split=split, more=_facts(row), **shown)


def _image(name: str, folder: Path) -> Path | None:
    """The file, wherever the archive was unpacked and whichever format it was."""
    stem = os.path.splitext(name)[0]
    for base in (folder, folder / "PNG"):
        for path in (base / name, base / f"{stem}.png", base / f"{stem}.jpg"):
            if os.path.isfile(path):
                return path
    return None


def _facts(row: Row) -> dict[str, str]:
    named = {"view": row.text("frontal_lateral").lower(), "subject": row.text("deid_patient_id")}
    return {"anatomy": "chest", **{name: said for name, said in named.items() if said}}


read = Reader(
    _read,
    layout=f"{_TABLES} beside train/ and valid/, or PNG/ with them",
    defaults={"source": "CheXpert Plus", "subtask": "report", "modality": "CXR"},
)
