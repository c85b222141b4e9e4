"""The report as a process writes it, opened in a browser at two widths."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

LIMIT = 120
EDITS = {
    "super_resolution": "super-resolution",
    "segmentation": "segmentation",
    "staining": "virtual staining",
    "cross_modal": "cross-modal",
    "counterfactual": "counterfactual",
}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def write_run(folder):
    rows = [
        {"step": 0, "validation": {"ce": 7.0, "mse": 2.0}},
        *({"step": step, "ce": 5 / step, "mse": 1 / step, "seconds": 0.5} for step in range(1, 9)),
        {"step": 8, "validation": {"ce": 0.7, "mse": 0.2}},
    ]
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_evaluation(folder, weights, split="test"):
    """As unimedvl.eval.mini writes it, with one picture."""
    (folder / "images").mkdir(parents=True)
    kind = {"accuracy": 0.5, "majority": 0.25, "low": 0.2, "high": 0.8, "count": 4}
    ways = {name: {"psnr": 20.0, "ssim": 0.5} for name in ("model", "autoencoder (ceiling)", "identity")}
    result = {
        "about": {"model": weights, "data": "d", "split": split},
        "seconds": 3.0,
        "losses": {"model": {"ce": 1.0, "mse": 0.5}, "untrained": {"ce": 7.0, "mse": 2.0}},
        "answers": {"kinds": {"modality": kind, "plane": kind}},
        "drawings": {"count": 2, "recognized": 0.5, "real_recognized": 0.9, "copies": 0.0},
        **{task: {"count": 1, "ways": ways} for task in EDITS},
    }
    result["segmentation"]["dice"] = {"model": 0.5, "best threshold of these images (9)": 0.7}
    lines = {
        "answers": [{"row": "vqa-0", "kind": "modality", "question": "<b>Which?", "answer": "CT.", "truth": "CT."},
                    {"row": "vqa-1", "kind": "plane", "question": "Which?", "answer": "Axial.", "truth": "Coronal."}],
        "drawings": [{"row": "t2i-0", "seed": 0, "caption": "Draw.", "modality": "CT", "recognized": "US",
                      "image": "images/x.png"}],
        **{task: [{"row": f"{task}-0", "question": "Do.", "image": "images/x.png"}] for task in EDITS},
    }  # fmt: skip
    for name, rows in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = ["x", "vqa-0-input", "t2i-0-target", *(f"{task}-0-{end}" for task in EDITS for end in ("input", "target"))]
    for name in names:
        Image.linear_gradient("L").resize((128, 128)).save(folder / "images" / f"{name}.png")
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def report(*words, code=0):
    command = [sys.executable, "-m", "unimedvl.eval", "report", *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    run = write_run(folder / "run")
    one, two = (write_evaluation(folder / name, name) for name in ("one", "two"))
    words = ("--run", f"first={run}", "--model", f"one={one}", "--model", f"two={two}")
    return folder, words, report("--out", folder / "page" / "report.html", *words)


def test_it_is_self_contained(written):
    folder, _, result = written
    page = (folder / "page" / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "<b>Which?" not in page  # text from files is escaped
    for path in ("report.html", "report-ce.png", "report-mse.png", "report-overview.png"):
        assert (folder / "page" / path).is_file()
        assert path in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "one"), "'one' (--model); give NAME=VALUE"),
        (("--model", "one=nowhere"), "no result.json (nowhere)"),
        (("--run", "a=nowhere"), "no metrics.jsonl (nowhere)"),
        ((), "no evaluation"),
    ],
)
def test_mistakes_are_one_line(written, tmp_path, words, message):
    folder, _, _ = written
    more = ("--model", f"one={folder / 'one'}") if words[:1] == ("--run",) else ()
    told = report("--out", tmp_path / "r.html", *words, *more, code=2).stderr
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


def test_evaluations_of_different_rows_are_refused(written, tmp_path):
    folder, _, _ = written
    other = write_evaluation(tmp_path / "other", "three", split="validation")
    told = report("--out", tmp_path / "r.html", "--model", f"a={folder / 'one'}", "--model", f"b={other}", code=2)
    assert "evaluations of different rows" in told.stderr


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
@pytest.mark.parametrize("width", [1280, 500])
def test_nothing_hangs_over_in_a_browser(written, tmp_path, width):
    """The page itself never scrolls sideways, and every picture is decoded."""
    folder, _, _ = written
    page = (folder / "page" / "report.html").read_text()
    look = (
        "<script>addEventListener('load', () => { document.title = JSON.stringify({wide:"
        " document.documentElement.scrollWidth, view: innerWidth,"
        " broken: [...document.images].filter(i => !i.naturalWidth).length,"
        " images: document.images.length}) })</script>"
    )
    (tmp_path / "page.html").write_text(page.replace("</body>", f"{look}</body>"))
    command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},900",
               f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", "--dump-dom",
               f"file://{tmp_path / 'page.html'}"]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True).stdout
    title = re.search(r"<title>(.*?)</title>", dom)
    assert title is not None
    seen = json.loads(title[1])
    assert seen["wide"] <= seen["view"]
    assert seen["broken"] == 0
    assert seen["images"] > 10
