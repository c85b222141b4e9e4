"""Build UniMed-Mini: its sources through curation, and a tokenizer of its words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimedvl.data.curation.corpus import MANIFEST, write_corpus
from unimedvl.data.curation.curate import held, staged
from unimedvl.data.curation.degradation import DegradationSettings
from unimedvl.data.curation.ingest import ReaderSettings
from unimedvl.data.curation.settings import CurateSettings, SourceSettings
from unimedvl.data.curation.stages import Bar
from unimedvl.data.curation.templates import WordingSettings
from unimedvl.data.mini import origins
from unimedvl.data.mini.tokenizer import write_tokenizer
from unimedvl.errors import DataError

NAME = "UniMed-Mini"
VERSION = 2
READER = "unimed_mini"
# The file of each task; training weighs them one by one.
FILES = {
    "understanding": "vqa",
    "caption": "caption",
    "text": "text",
    "t2i": "t2i",
    "super-resolution": "super_resolution",
    "segmentation": "segmentation",
    "virtual staining": "staining",
    "cross-modal": "cross_modal",
    "counterfactual": "counterfactual",
}
TASKS = tuple(FILES.values())


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


def settings_of(out: Path, seed: int = 0) -> CurateSettings:
    """How UniMed-Mini is curated."""
    return CurateSettings(
        sources=(SourceSettings(READER, settings=ReaderSettings(images_out=out / "images", seed=seed)),),
        out=out,
        seed=seed,
        files=FILES,
        degradation=DegradationSettings(share=1.0),
        wording=WordingSettings(Path(__file__).with_name("wordings.yaml")),
    )


def _silent(name: str, total: int) -> AbstractContextManager[Callable[[], Any]]:
    del name, total
    return nullcontext(lambda: None)


def build(out: str | Path, seed: int = 0, bar: Bar = _silent) -> Built:
    """Build the data set in a folder, or what is missing of it there; the manifest is written last.

    Raises:
        DataError: the folder holds something else, or a package of the extra ``mini`` is absent.
    """
    out = Path(out).resolve()
    _make_room(out)
    settings = settings_of(out, seed)
    with held(out):
        return _built(settings, bar)


def _built(settings: CurateSettings, bar: Bar) -> Built:
    out, stages = settings.out, staged(settings, bar)
    texts = [text for pair in stages[-1].pairs() if pair.split == "train" for text in (pair.question, pair.text)]
    write_tokenizer(filter(None, texts), out / "tokenizer")
    about = {"name": NAME, "version": VERSION, "packages": origins.versions()}
    corpus = write_corpus(out, stages, settings, about=origins.about(), facts=about, also=("tokenizer",))
    rows: Counter[str] = Counter()
    for name, count in corpus.rows.items():
        rows[Path(name).stem] += count
    return Built(out, corpus.images, dict(rows), corpus.digest)


def _make_room(out: Path) -> None:
    """Refuse to write among the files of something else, and remove another version.

    Raises:
        DataError: the folder holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    manifest = _read(out / MANIFEST)
    begun = _read(out / "work" / "00-ingest" / "stage.json").get("settings", {}).get("sources", [{}])
    if manifest.get("name") != NAME and begun[0].get("reader") != READER:
        raise DataError(f"holds something else than {NAME}", where=str(out), remedy="choose a new folder")
    if manifest.get("version", VERSION) != VERSION:
        for name in [*manifest["files"], MANIFEST]:
            (out / name).unlink(missing_ok=True)
        (out / "work" / "00-ingest").mkdir(parents=True, exist_ok=True)  # which makes the folder ours


def _read(path: Path) -> dict[str, Any]:
    """What a file of JSON says; nothing if it is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
