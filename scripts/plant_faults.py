"""Plant faults among the pairs of UniMed-Mini and curate them: precision and recall of each filter, as a table.

    python -m unimedvl.data build mini --out data/mini
    python scripts/plant_faults.py data/mini                  60 faults of each kind, among all pairs
    python scripts/plant_faults.py data/mini --count 10 --pairs 1000 --no-captions --keep DIR

The pairs of the finished data set have passed all filters once, so what is dropped of them now is dropped wrongly. Of
every kind of fault, precision is the share of planted ones among all pairs that went for its reason, and recall the
share of planted ones that went for it. Wrong captions are ranked by the bundled model in a run of their own, in which
as many pairs go as are wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from unimedvl.data.curation.corpus import DECISIONS, pairs_of, record
from unimedvl.data.curation.curate import curate
from unimedvl.data.curation.decisions import Decision, read_decisions
from unimedvl.data.curation.ingest import READERS, ReaderSettings
from unimedvl.data.curation.pairs import Pair
from unimedvl.data.curation.selection import SelectionSettings
from unimedvl.data.curation.settings import BackendSettings, CurateSettings, SourceSettings
from unimedvl.files import write_lines

SEED = 0
EDITS = ("segmentation", "cross-modal", "virtual staining", "super-resolution", "counterfactual")
PERSONAL = (
    "Reported by Dr. Sarah Miller.", "MRN: 00481516.", "Seen on 14/03/2019.", "Call 555-123-4567.",
    "Patient name: Jones.", "Mail to ward3@clinic.example.", "The patient is 94 years old.",
)  # fmt: skip
OVERLAYS = ("JONES MARY", "ID 0048151", "14/03/2019", "GENERAL HOSP", "DOB 02.05.61")

Made = Callable[[Pair, Path, np.random.Generator], Pair]
"""A pair with a fault, whose image may be written to the path."""


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    Attributes:
        stage, reasons: of the decisions that find it.
        of: which pairs it can be planted in.
    """

    name: str
    stage: str
    reasons: tuple[str, ...]
    of: Callable[[Pair], bool]
    made: Made


def on_image(change: Callable[[Image.Image, np.random.Generator], Image.Image], **options: Any) -> Made:
    """A fault in the pixels, saved with ``options``."""

    def made(pair: Pair, path: Path, rng: np.random.Generator) -> Pair:
        path = path.with_suffix(".jpg") if "quality" in options else path
        change(Image.open(pair.picture), rng).save(path, **options)
        return replace(pair, target=str(path)) if pair.family == "t2i" else replace(pair, images=(str(path),))

    return made


def in_text(change: Callable[[str, np.random.Generator], str]) -> Made:
    """A fault in the words."""
    return lambda pair, path, rng: replace(pair, text=change(pair.text, rng))


def torn(pair: Pair, path: Path, rng: np.random.Generator) -> Pair:
    """A file that ends too early."""
    content = Path(pair.picture).read_bytes()
    path.write_bytes(content[: int(len(content) * rng.uniform(0.2, 0.7))])
    return replace(pair, images=(str(path),))


def resized_target(pair: Pair, path: Path, rng: np.random.Generator) -> Pair:
    """An input and a target of other sides."""
    side = int(rng.integers(140, 200))
    Image.open(pair.target).resize((side, side)).save(path)
    return replace(pair, target=str(path))


def burned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Writing near a border, as scanners leave it, on a picture large enough to hold it."""
    image = image.resize((512, 512), Image.Resampling.BICUBIC)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(int(rng.integers(14, 28)))
    y = int(rng.integers(4, 60)) if rng.integers(2) else int(rng.integers(430, 480))
    words = OVERLAYS[int(rng.integers(len(OVERLAYS)))]
    draw.text((int(rng.integers(6, 200)), y), words, fill="white", font=font, stroke_width=2, stroke_fill="black")
    return image


def reshaped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture at other sides, brighter or darker, with another contrast."""
    side = int(rng.integers(129, 260))
    image = image.resize((side, side), Image.Resampling.BICUBIC)
    image = ImageEnhance.Brightness(image).enhance(float(rng.uniform(0.92, 1.08)))
    return ImageEnhance.Contrast(image).enhance(float(rng.uniform(0.92, 1.08)))


def train(*families: str) -> Callable[[Pair], bool]:
    """Whether a pair is for training and of one of the families."""
    return lambda pair: pair.split == "train" and pair.family in families


def caption(pair: Pair) -> bool:
    """Whether a pair is a caption for training."""
    return train("understanding")(pair) and pair.subtask == "caption"


def same_sides(pair: Pair) -> bool:
    """Whether input and target must be equally large: of super-resolution only the proportions must agree."""
    return train("edit", "counterfactual")(pair) and pair.subtask != "super-resolution"


def held_out(pair: Pair) -> bool:
    """Whether a pair is a caption of a test image."""
    return pair.split == "test" and pair.subtask == "caption"


SEEN = train("understanding")
TWICE = ("exact duplicate", "near duplicate")
# Of duplicates the question must be the same and the image; leaks are found whatever is asked.
KINDS = (
    Kind("tiny image", "coarse", ("image too small",), SEEN, on_image(lambda i, r: i.resize((64, 64)))),
    Kind("narrow image", "coarse", ("image too narrow",), SEEN, on_image(lambda i, r: i.resize((1400, 128)))),
    Kind("plain image", "coarse", ("plain image",), SEEN, on_image(lambda i, r: Image.new("RGB", i.size, (90,) * 3))),
    Kind("torn file", "coarse", ("unreadable image",), SEEN, torn),
    Kind("short text", "coarse", ("text too short",), train("t2i"), in_text(lambda t, r: t[: r.integers(1, 9)])),
    Kind("long text", "coarse", ("text too long",), caption, in_text(lambda t, r: f"{t} " * r.integers(30, 60))),
    Kind("target of other sides", "registration", ("sizes differ",), same_sides, resized_target),
    Kind("personal facts in text", "privacy", (), caption, in_text(lambda t, r: f"{t} {r.choice(PERSONAL)}")),
    Kind("burned-in text", "privacy", ("burned-in text",), caption, on_image(burned)),
    Kind("same file again", "duplicates", TWICE[:1], SEEN, on_image(lambda i, r: i, compress_level=1)),
    Kind("copy by JPEG", "duplicates", TWICE[1:], SEEN, on_image(lambda i, r: i, quality=80)),
    Kind("copy of other sides and contrast", "duplicates", TWICE[1:], SEEN, on_image(reshaped)),
    Kind("test image in training, JPEG", "duplicates", ("leaked from test",), held_out, on_image(reshaped, quality=85)),
)  # fmt: skip


def planted(kind: Kind, base: Sequence[Pair], count: int, folder: Path) -> Iterator[Pair]:
    """Pairs of training with a fault of this kind."""
    rng = np.random.default_rng([SEED, *kind.name.encode()])
    fitting = [pair for pair in base if kind.of(pair)]
    for number, place in enumerate(rng.permutation(len(fitting))[:count].tolist()):
        pair = replace(fitting[place], split="train")
        if kind.stage == "privacy" or kind.of is held_out:  # or it would be a duplicate as well
            pair = replace(pair, question=f"What can be seen in picture {number}?")
        yield kind.made(pair, folder / f"{number:04d}.png", rng)


def swapped(task: str, base: Sequence[Pair], count: int) -> Iterator[Pair]:
    """Pairs of training whose targets were exchanged two by two."""
    rng = np.random.default_rng([SEED, *task.encode()])
    fitting = [pair for pair in base if pair.subtask == task and pair.split == "train"]
    chosen = [fitting[place] for place in rng.permutation(len(fitting))[:count].tolist()]
    for one, two in zip(chosen[::2], chosen[1::2], strict=False):  # of an odd number one is left
        yield replace(one, target=two.target)
        yield replace(two, target=one.target)


def miscaptioned(base: Sequence[Pair], count: int) -> Iterator[Pair]:
    """Captions of training exchanged between modalities."""
    rng = np.random.default_rng([SEED, 99])
    fitting = [pair for pair in base if caption(pair)]
    for place in rng.permutation(len(fitting))[:count].tolist():
        others = [pair for pair in fitting if pair.modality != fitting[place].modality]
        yield replace(fitting[place], text=others[int(rng.integers(len(others)))].text)


def as_source(name: str, pairs: Iterable[Pair], folder: Path) -> SourceSettings:
    """Records on disk, as a source of curation whose name says what was planted."""
    by_split: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_split.setdefault(pair.split, []).append(pair)
    for split, own in by_split.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        write_lines(folder / split / "records.jsonl", (record(pair, folder / split) for pair in own))
    return SourceSettings("records", folder, ReaderSettings(source=name))


def decided(sources: Sequence[SourceSettings], out: Path, **settings: Any) -> dict[str, list[Decision]]:
    """The decisions of a curation by the source of the pair; those on undamaged pairs under ``base``."""
    curate(CurateSettings(sources=tuple(sources), out=out, **settings), lambda name, total: nullcontext(lambda: None))
    names = {
        pair.id: source.settings.source
        for source in sources for pair in READERS[source.reader](source.path, source.settings)
    }  # fmt: skip
    found: dict[str, list[Decision]] = {}
    for decision in read_decisions(out / DECISIONS):
        if decision.action != "keep":
            found.setdefault(names[decision.pair], []).append(decision)
    return found


def row(name: str, stage: str, found: dict[str, list[Decision]], count: int, reasons: Sequence[str], *,
        alike: Sequence[str] = ()) -> str:  # fmt: skip
    """A line of the table.

    Args:
        alike: other faults that are dropped rightly for the same reason.
    """
    hits = {
        source: {each.pair for each in decisions if each.stage == stage and _fits(each.reason, reasons)}
        for source, decisions in found.items()
    }
    right, wrong = len(hits.get(name, ())), sum(len(hits.get(source, ())) for source in hits.keys() - {name, *alike})
    precision = f"{right / (right + wrong):.2f}" if right + wrong else "-"
    return f"| {stage} | {name} | {count} | {right} | {wrong} | {precision} | {right / count:.2f} |"


def _fits(reason: str, reasons: Sequence[str]) -> bool:
    return reason in reasons if reasons else reason.endswith(" in text")


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description="Plant faults, curate, and say what was found.")
    parser.add_argument("data", type=Path, help="folder of UniMed-Mini, as it was built here")
    parser.add_argument("--count", type=int, default=60, help="faults of each kind")
    parser.add_argument("--pairs", type=int, help="undamaged pairs, spread evenly; all by default")
    parser.add_argument("--no-captions", action="store_true", help="without the run of wrong captions")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave faults and corpora there")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    base = list(pairs_of(options.data))
    if options.pairs:
        base = [base[number * len(base) // options.pairs] for number in range(options.pairs)]
    with tempfile.TemporaryDirectory() as aside:
        folder = (options.keep or Path(aside)).resolve()
        print("| filter | fault | planted | found | others | precision | recall |\n|---|---|---|---|---|---|---|")
        print("\n".join(filters(base, options.count, folder)), flush=True)
        if not options.no_captions:
            print(captions(base, options.count, folder))


def filters(base: Sequence[Pair], count: int, folder: Path) -> Iterator[str]:
    """The lines of all faults that need no model."""
    faults = {kind.name: list(planted(kind, base, count, _made(folder / kind.name))) for kind in KINDS}
    swaps = {f"swapped targets, {task}": list(swapped(task, base, count)) for task in EDITS}
    every = {"base": base, **faults, **swaps}
    sources = [as_source(name, pairs, folder / "records" / name) for name, pairs in every.items()]
    found = decided(sources, folder / "corpus")
    for kind in KINDS:
        alike = [other.name for other in KINDS if {*other.reasons} & {*TWICE} and {*kind.reasons} & {*TWICE}]
        yield row(kind.name, kind.stage, found, len(faults[kind.name]), kind.reasons, alike=alike)
    for name, own in swaps.items():
        yield row(name, "registration", found, len(own), ("not registered",), alike=[*swaps])


def captions(base: Sequence[Pair], count: int, folder: Path) -> str:
    """The line of wrong captions, with as many dropped as are wrong."""
    wrong = list(miscaptioned(base, 2 * count))
    changed = {pair.id for pair in wrong}
    right = [pair for pair in base if caption(pair) and pair.id not in changed]
    every = {"base": right, "wrong caption": wrong}
    sources = [as_source(name, pairs, folder / "captions" / name) for name, pairs in every.items()]
    backends = BackendSettings("unimedvl:bundled", "minilm", "unimedvl:bundled")
    share = SelectionSettings(len(right) / (len(right) + len(wrong)))
    found = decided(sources, folder / "captioned", backends=backends, selection=share)
    return row("wrong caption", "alignment", found, len(wrong), ("poorly aligned",))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
