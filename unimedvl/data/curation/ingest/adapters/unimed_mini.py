"""UniMed-Mini: views of the pictures that Python packages ship, with what is true of them put into words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unimedvl.data.curation.ingest.files import save_once
from unimedvl.data.curation.ingest.settings import Reader, ReaderSettings, Skipped, one_image
from unimedvl.data.curation.pairs import SPLITS, Pair, pair_id
from unimedvl.data.mini import dialogues
from unimedvl.data.mini.edits import edits
from unimedvl.data.mini.origins import ORIGINS
from unimedvl.data.mini.views import View, all_views, need_files

_COUNTERFACTUAL = "counterfactual"
_OWN_WORDS = "that of this package"


def _read(root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
    del root, skipped  # the pictures lie in packages, and all are there or none
    need_files()
    for number, view in enumerate(all_views(settings.seed)):
        yield from _Told(view, number, settings).pairs(np.random.default_rng([settings.seed, 7, number]))
    for split in SPLITS:
        for number, (question, answer) in enumerate(dialogues.facts(split)):
            name = pair_id(settings.source, "fact", split, str(number))
            yield Pair(name, settings.source, "text", "fact", "", split, answer, question, license=_OWN_WORDS)


class _Told:
    """What is said of one view, and the pictures that belong to it."""

    def __init__(self, view: View, number: int, settings: ReaderSettings) -> None:
        self.view, self.settings, self.name = view, settings, f"{view.source}-{number:04d}"
        self.file = self._saved(view.image, self.name)

    def pairs(self, rng: np.random.Generator) -> Iterator[Pair]:
        """In the order of training's files."""
        view = self.view
        for kind, question, answer in dialogues.questions(view, rng):
            yield self._pair(kind, "understanding", kind, question=question, text=answer)
        asked = dialogues.ask_caption(rng)
        yield self._pair("caption", "understanding", "caption", question=asked, text=dialogues.caption(view))
        yield self._pair("image", "t2i", "caption to image", text=dialogues.ask_image(view, rng))
        for edit in edits(view, rng):
            before, after = (
                self.file if image is view.image else self._saved(image, f"{self.name}-{edit.task.replace(' ', '-')}")
                for image in (edit.before, edit.after)
            )
            family = _COUNTERFACTUAL if edit.task == _COUNTERFACTUAL else "edit"
            pair = self._pair(edit.task, family, edit.task, target=after)
            yield replace(pair, images=(before,), more={**pair.more, **edit.facts})

    def _pair(self, key: str, family: str, subtask: str, **fields: Any) -> Pair:
        view = self.view
        facts = {"anatomy": view.body, "plane": view.plane, "level": view.level, "side": view.side}
        more = {"region": view.region, **{name: value for name, value in facts.items() if value}}
        shown = one_image(self.file, family) if family in ("understanding", "t2i") else {}
        return Pair(
            pair_id(self.settings.source, self.name, key), f"{self.settings.source} {view.source}", family, subtask,
            view.modality, view.split, license=ORIGINS[view.source][1], steps=view.steps, more=more,
            **{**shown, **fields},
        )  # fmt: skip

    def _saved(self, image: Image.Image, name: str) -> str:
        path = self.settings.out() / self.view.split / f"{name}.png"
        save_once(image, path)
        return str(path)


read = Reader(
    _read,
    layout="the packages of the extra mini",
    uses=("images_out", "seed"),
    defaults={"source": "UniMed-Mini"},
    packaged=True,
)
