"""Who may import whom, and what importing costs."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import unimedvl

PACKAGE = Path(unimedvl.__file__).parent
# Folder -> folders of the package that it may import; root modules may be imported by all.
ALLOWED = {
    "model": {"model"},
    "data": {"data"},
    # Curation captions images with our own model.
    "data/curation": {"data", "infer"},
    # Training answers and draws held-out prompts, as inference does.
    "train": {"train", "model", "data", "infer"},
    "infer": {"infer", "model", "data.packing"},
    "eval": {"eval", "infer", "model", "data"},
}
ONLY_IN = {"hydra": ("__main__", "compose"), "accelerate": ("train", "infer"), "deepspeed": ("train",)}


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


MODULES = sorted(PACKAGE.rglob("*.py"))


def folder_of(path: Path) -> str | None:
    """The key of ALLOWED; None for a root module."""
    if path.parent == PACKAGE:
        return None
    inside = path.relative_to(PACKAGE).as_posix()
    return next((key for key in sorted(ALLOWED, reverse=True) if inside.startswith(f"{key}/")), None)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_directions(path):
    folder = folder_of(path)
    for name in imports_of(path):
        top, *rest = name.split(".")
        if top in ONLY_IN:
            assert set(ONLY_IN[top]) & set(path.relative_to(PACKAGE).with_suffix("").parts), name
        if top != "unimedvl" or not rest or rest[0] not in ALLOWED:
            continue
        # The package's face hands out the pipeline; the other root modules stand below everything.
        allowed = ALLOWED[folder] if folder else {"infer"} if path.name == "__init__.py" else set()
        assert any(".".join(rest).startswith(prefix) for prefix in allowed), f"{path} may not import {name}"


def test_an_import_against_the_direction_would_be_seen(tmp_path):
    module = tmp_path / "bad.py"
    module.write_text("def f():\n    from unimedvl.train.engine import x\n")
    assert imports_of(module) == {"unimedvl.train.engine.x"}


def seconds_to_import(module: str) -> float:
    code = f"import torch, time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("module", ["unimedvl", "unimedvl.model.unimedvl", "unimedvl.processor"])
def test_import_is_light(module):
    """Heavy libraries are imported where they are used."""
    assert statistics.median(seconds_to_import(module) for _ in range(3)) < 0.5


def test_curation_does_without_torch():
    """Its processes are many, and torch is a quarter of a gigabyte in each."""
    code = "import sys, unimedvl.data.curation.curate; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
