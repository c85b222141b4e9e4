"""Measure curation on made pairs: pairs/s and memory of each stage, which should not depend on how many there are.

    python scripts/bench_curation.py 1000 10000 100000        a row a stage and number
    python scripts/bench_curation.py 1000 --keep DIR          leave images and corpus there

Every pair has an image of its own, 128 x 128; one in fifty is a copy of another, one in a hundred is too small.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SIDE = 128


def make(folder: Path, count: int) -> Path:
    """A table of ``count`` captions with their images."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        source = number - 7 if number % 50 == 49 else number
        path = folder / "images" / f"{number // 1000:03d}" / f"{number:06d}.png"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            picture(source).resize((64, 64) if number % 100 == 30 else (SIDE, SIDE)).save(path, compress_level=1)
        caption = f"A computed picture number {source} of shapes."
        rows.append({"image": str(path.relative_to(folder)), "caption": caption, "modality": ("CT", "MRI")[number % 2]})
    table = folder / f"captions-{count}.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return table


def picture(seed: int) -> Image.Image:
    """Ellipses of random places and grays on a gradient."""
    generator = np.random.default_rng(seed)
    image = Image.fromarray(np.tile(np.linspace(0, 120, SIDE), (SIDE, 1)).astype(np.uint8)).convert("RGB")
    draw = ImageDraw.Draw(image)
    for x, y, radius, gray in generator.integers((0, 0, 6, 60), (SIDE, SIDE, 32, 255), (12, 4)).tolist():
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(gray,) * 3)
    return image


def measure(table: Path, out: Path, count: int, workers: int) -> None:
    """One run, in this process; a JSON line a stage."""
    from unimedvl.data.curation.curate import curate
    from unimedvl.data.curation.settings import CurateSettings
    from unimedvl.settings import override

    reading = {"text_column": "caption", "modality_column": "modality", "family": "t2i", "source": "made"}
    sources = [{"reader": "table", "path": str(table), "settings": reading}]
    words = [f"sources={json.dumps(sources)}", f"out={out}", f"workers={workers}"]

    @contextmanager
    def bar(stage: str, _total: int) -> Iterator[Callable[[], Any]]:
        start = time.perf_counter()
        yield lambda: None
        seconds = time.perf_counter() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        row = {"pairs": count, "stage": stage, "pairs/s": round(count / seconds), "peak MB": round(memory)}
        print(json.dumps(row), flush=True)

    start = time.perf_counter()
    corpus = curate(override(CurateSettings(), words), bar)
    total = {
        "pairs": count,
        "stage": "all",
        "pairs/s": round(count / (time.perf_counter() - start)),
        "kept": sum(corpus.rows.values()),
    }
    print(json.dumps(total), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", type=int, nargs="+")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--here", action="store_true", help="one count in this process, images made before")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        for count in options.counts:
            table, out = make(folder, count), folder / f"corpus-{count}"
            if options.here:
                measure(table, out, count, options.workers)
                continue
            words = [str(count), "--workers", str(options.workers), "--keep", str(folder), "--here"]
            subprocess.run([sys.executable, __file__, *words], check=True)


if __name__ == "__main__":
    main()
