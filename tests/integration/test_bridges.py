"""lmms-eval's own command line on its own SLAKE task, whose questions are UniMed-Mini's, with the bundled model.

Wants lmms-eval 0.7 beside this package; of what it depends on, only what its import asks for (no torchvision).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from unimedvl.eval.answers import normalized
from unimedvl.infer.pipeline import UniMedVLPipeline

PROJECT = Path(__file__).parents[2]
TEST = PROJECT / "data/mini/test"
BATCH = 8
LIMIT = 40

lmms_eval = pytest.importorskip(
    "lmms_eval", reason="lmms-eval is not installed (pip install lmms-eval)", exc_type=ImportError
)
pytestmark = pytest.mark.skipif(
    not (TEST / "vqa.jsonl").is_file(),
    reason="there is no data/mini (python -m unimedvl.data build mini --out data/mini)",
)


def questions() -> list[dict]:
    """Rows of UniMed-Mini in the columns of SLAKE, spread over all its images."""
    rows = [json.loads(line) for line in (TEST / "vqa.jsonl").read_text(encoding="utf-8").splitlines()]
    made = []
    for number, row in enumerate(rows[:: len(rows) // LIMIT][:LIMIT]):
        (question, answer), kind = (turn["value"] for turn in row["message"]), row["sub_task_type"]
        closed = "yes/no" in kind
        made.append(
            {
                "qid": number,
                "path": TEST / row["input_img"][0]["path"],
                "question": question.replace("<image>", "").strip(),
                "answer": answer,
                "q_lang": "en",
                "answer_type": "CLOSED" if closed else "OPEN",
                "modality": row["modality"],
                "content_type": kind.removesuffix(" yes/no"),
            }
        )
    return made


def write_task(folder: Path, rows: list[dict]) -> None:
    """The harness's SLAKE in English, on a local file and without its closing words, which the nano model never saw."""
    datasets = pytest.importorskip("datasets")
    encoded = [
        {"image": {"bytes": row["path"].read_bytes(), "path": None}, **{k: v for k, v in row.items() if k != "path"}}
        for row in rows
    ]
    table = datasets.Dataset.from_list(encoded).cast_column("image", datasets.Image())
    table.to_parquet(folder / "test.parquet")
    slake = Path(lmms_eval.__path__[0]) / "tasks/slake/slake_en.yaml"
    (folder / "unimed_mini.yaml").write_text(
        json.dumps(  # YAML, too
            {
                "include": str(slake),
                "task": "slake_unimed_mini",
                "dataset_path": "parquet",
                "dataset_kwargs": {"data_files": {"test": str(folder / "test.parquet")}},
                "lmms_eval_specific_kwargs": {"default": {"pre_prompt": "", "post_prompt": ""}},
            }
        )
    )


def write_entry_point(folder: Path) -> None:
    """What an installation writes of our entry point, for copies that were installed before there was one."""
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    (line,) = re.findall(r'^\[project\.entry-points\."lmms_eval\.models"\]\n(.+)$', text, re.MULTILINE)
    info = folder / "unimedvl_entry-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: unimedvl-entry\nVersion: 0\n")
    (info / "entry_points.txt").write_text(f"[lmms_eval.models]\n{line.replace(chr(34), '')}\n")


def test_lmms_eval_asks_and_scores_as_we_do(tmp_path):
    rows = questions()
    write_task(tmp_path, rows)
    write_entry_point(tmp_path)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(PROJECT)]),
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
    }
    words = [
        *("--model", "unimedvl", "--model_args", "pretrained=bundled,dtype=float32", "--device", "cpu"),
        *("--tasks", "slake_unimed_mini", "--include_path", str(tmp_path), "--batch_size", str(BATCH)),
        *("--output_path", str(tmp_path / "out"), "--log_samples"),
    ]
    run = subprocess.run(
        [sys.executable, "-m", "lmms_eval", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]

    pipe = UniMedVLPipeline.from_pretrained("bundled", dtype="float32", device="cpu", und_only=True)
    expected: list[str] = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        asked = [row["question"] for row in batch]
        # 32 tokens are what the task allows.
        expected += pipe.understand([[row["path"]] for row in batch], asked, max_new_tokens=32)
    (samples,) = (tmp_path / "out").rglob("*_samples_slake_unimed_mini.jsonl")
    logged = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    logged.sort(key=lambda sample: sample["doc_id"])
    assert [sample["filtered_resps"] for sample in logged] == expected

    (results,) = (tmp_path / "out").rglob("*_results.json")
    scores = json.loads(results.read_text(encoding="utf-8"))["results"]["slake_unimed_mini"]
    right = sum(normalized(said) == normalized(row["answer"]) for said, row in zip(expected, rows, strict=True))
    assert scores["slake_accuracy,none"] == pytest.approx(right / len(rows), abs=1e-9)
    # Of about twenty possible answers, the most frequent one to each kind of question gives about a third.
    assert right / len(rows) > 0.6
