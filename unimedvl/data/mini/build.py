"""Build UniMed-Mini: views to images, records, contact sheets, a card and a manifest of hashes."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unimedvl import sheets
from unimedvl.data.mini import card, dialogues, edits
from unimedvl.data.mini.tokenizer import write_tokenizer
from unimedvl.data.mini.views import VOLUME, View, all_views, package_file, shipped_files
from unimedvl.data.records import IMAGE_MARK
from unimedvl.errors import DataError

NAME = "UniMed-Mini"
VERSION = 1
SPLITS = ("train", "validation", "test")

# Task -> views that it is made of.
_PAIRS: dict[str, tuple[Callable[[View], bool], Callable[[View, np.random.Generator], edits.Pair | None]]] = {
    "super_resolution": (lambda view: True, edits.super_resolution),
    "segmentation": (lambda view: view.source == VOLUME, edits.segmentation),
    "staining": (lambda view: view.source == "ihc", edits.staining),
    "cross_modal": (lambda view: view.source == VOLUME, edits.cross_modal),
    "counterfactual": (lambda view: view.side != "", edits.counterfactual),
}
TASKS = ("vqa", "caption", "text", "t2i", *_PAIRS)


@dataclass(frozen=True)
class Built:
    """What was built, and a hash over all of its files."""

    folder: Path
    images: int
    rows: dict[str, int]
    digest: str

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {task}" for task, count in self.rows.items())
        return f"{NAME}: {self.images} images; rows: {counts}\nsha256 {self.digest}\n{self.folder}"


@dataclass
class _Writer:
    """Writes images once and collects rows and what the card and the sheets show."""

    folder: Path
    rows: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    index: list[dict[str, Any]] = field(default_factory=list)
    shown: dict[str, list[sheets.Entry]] = field(default_factory=lambda: defaultdict(list))

    def image(self, image: Image.Image, name: str) -> dict[str, Any]:
        """Save an image; the reference of a record to it, from the folder of its split."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        return {"path": f"../{name}", "height": image.height, "width": image.width}

    def row(self, split: str, task: str, view: View | None, **fields: Any) -> None:
        about = {} if view is None else {"modality": view.modality, "dataset": f"{NAME} {view.source}"}
        self.rows[split, task].append({**fields, **about})


def build(out: str | Path, seed: int = 0) -> Built:
    """Build the data set in a folder; an earlier build there is replaced when the new one is complete.

    Raises:
        DataError: the folder holds something else, or a package of the extra ``mini`` is absent.
    """
    out = Path(out).resolve()
    _check_target(out)
    for _, module, file in shipped_files():
        package_file(module, file)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as aside:
        folder = Path(aside) / "data"
        writer = _Writer(folder)
        for number, view in enumerate(all_views(seed)):
            _add_view(writer, view, number, np.random.default_rng([seed, 7, number]))
        for split in SPLITS:
            for question, answer in dialogues.facts(split):
                message = _turns(question, answer)
                writer.row(split, "text", None, main_task_type="text", sub_task_type="fact", message=message)
        _write(writer)
        texts = (turn["value"] for (split, _), own in writer.rows.items() if split == "train" for row in own
                 for turn in row["message"])  # fmt: skip
        write_tokenizer((text.replace(IMAGE_MARK, "") for text in texts), folder / "tokenizer")
        built = _manifest(writer, seed)
        if out.exists():
            out.replace(Path(aside) / "before")  # goes with the folder aside
        folder.replace(out)
    return Built(out, built["images"], built["rows"], built["sha256"])


def _check_target(out: Path) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        ours = json.loads((out / "manifest.json").read_text())["name"] == NAME
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise DataError(f"holds something else than {NAME}", where=str(out), remedy="choose a new folder")


def _add_view(writer: _Writer, view: View, number: int, rng: np.random.Generator) -> None:
    name = f"images/{view.split}/{view.source}-{number:04d}"
    ref = writer.image(view.image, f"{name}.png")
    writer.index.append(
        {
            "path": f"{name}.png", "split": view.split, "source": view.source, "modality": view.modality,
            "body": view.body, "plane": view.plane, "level": view.level, "side": view.side,
            "region": view.region, "steps": list(view.steps),
        }
    )  # fmt: skip
    writer.shown[f"modality {view.modality}"].append(sheets.Entry((view.image,), dialogues.caption(view), view.split))
    for kind, question, answer in dialogues.questions(view, rng):
        _understand(writer, view, ref, "vqa", kind, question, answer)
    _understand(writer, view, ref, "caption", "caption", dialogues.ask_caption(rng), dialogues.caption(view))
    request = dialogues.ask_image(view, rng)
    writer.row(
        view.split, "t2i", view, main_task_type="t2i", sub_task_type="caption to image", output_img=[ref],
        message=[{"from": "human", "value": request}],
    )  # fmt: skip
    writer.shown["task t2i"].append(sheets.Entry((view.image,), request, view.split))
    for task, (fits, make) in _PAIRS.items():
        pair = make(view, rng) if fits(view) else None
        if pair is not None:
            _add_pair(writer, view, ref, name, task, pair)


def _understand(
    writer: _Writer, view: View, ref: dict[str, Any], task: str, kind: str, question: str, answer: str
) -> None:
    message = _turns(f"{IMAGE_MARK}\n{question}", answer)
    writer.row(
        view.split, task, view, main_task_type="understanding", sub_task_type=kind, input_img=[ref], message=message
    )
    writer.shown[f"task {task}"].append(sheets.Entry((view.image,), f"{question} {answer}", view.split))


def _add_pair(writer: _Writer, view: View, ref: dict[str, Any], name: str, task: str, pair: edits.Pair) -> None:
    before, after = (
        ref if image is view.image else writer.image(image, f"{name}-{task}.png") for image in (pair.before, pair.after)
    )
    family = "counterfactual" if task == "counterfactual" else "edit"
    writer.row(
        view.split, task, view, main_task_type=family, sub_task_type=pair.task, input_img=[before], output_img=[after],
        message=_turns(pair.instruction, pair.response),
    )  # fmt: skip
    text = f"{pair.instruction} {pair.response}" if task == "counterfactual" else pair.instruction
    writer.shown[f"task {task}"].append(sheets.Entry((pair.before, pair.after), text, view.split))


def _turns(human: str, gpt: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]


def _write(writer: _Writer) -> None:
    for (split, task), rows in writer.rows.items():
        _write_lines(writer.folder / split / f"{task}.jsonl", rows)
    _write_lines(writer.folder / "images.jsonl", writer.index)
    for name, entries in writer.shown.items():
        sheet = sheets.contact_sheet(name, entries)
        path = writer.folder / "sheets" / f"{name.replace(' ', '-')}.png"
        path.parent.mkdir(exist_ok=True)
        sheet.save(path)
    counts = {(split, task): len(rows) for (split, task), rows in writer.rows.items()}
    (writer.folder / "README.md").write_text(card.render(counts, writer.index, TASKS), encoding="utf-8")


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _manifest(writer: _Writer, seed: int) -> dict[str, Any]:
    """Write ``manifest.json``, last: the hash of every file, and one over all of them."""
    files = {str(path.relative_to(writer.folder)): _sha256(path) for path in _files(writer.folder)}
    digest = hashlib.sha256("".join(f"{name} {files[name]}\n" for name in sorted(files)).encode()).hexdigest()
    rows = Counter[str]()
    for (_, task), own in writer.rows.items():
        rows[task] += len(own)
    values = {
        "name": NAME,
        "version": VERSION,
        "seed": seed,
        "packages": card.versions(),
        "images": len(writer.index),
        "rows": dict(rows),
        "sha256": digest,
        "files": files,
    }
    (writer.folder / "manifest.json").write_text(json.dumps(values, indent=1, sort_keys=True), encoding="utf-8")
    return values


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
