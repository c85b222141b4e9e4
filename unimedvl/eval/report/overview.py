"""One picture of what a model makes: for a README, a slide, a message."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from PIL import Image

from unimedvl.eval.report.evaluated import Evaluated

_TASKS = {
    "super_resolution": "4 x super-resolution",
    "staining": "virtual staining",
    "segmentation": "gray matter",
    "cross_modal": "T1 to white matter",
}
_MODALITIES = ("CFP", "HIS", "CXR", "XR", "CT", "MRI", "US")
_NAMES = {"CFP": "fundus", "HIS": "histology", "CXR": "chest X-ray", "XR": "bone X-ray", "US": "ultrasound"}


def overview(model: Evaluated, path: Path) -> None:
    """Drawn pictures of every modality above, edits as input, output and target below."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(10.5, 4.3), dpi=130, layout="constrained")
    top, bottom = cast(Any, drawing.subfigures(2, 1, height_ratios=(1.15, 1)))
    drawn = list(model.lines("drawings").values())
    shown = [name for name in _MODALITIES if any(line["modality"] == name for line in drawn)]
    top.suptitle("drawn from captions", fontsize=10, x=0.01, ha="left")
    for axes, modality in zip(top.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        own = [line for line in drawn if line["modality"] == modality]
        line = next((line for line in own if line["recognized"] == modality), own[0])
        _show(axes, model.folder / line["image"], _NAMES.get(modality, modality))
    bottom.suptitle("held-out images: input, output, target", fontsize=10, x=0.01, ha="left")
    grid = bottom.subplots(1, 3 * len(_TASKS))
    for number, (task, title) in enumerate(_TASKS.items()):
        name, line = next(iter(model.lines(task).items()))
        files = (model.image(f"{name}-input"), model.folder / line["image"], model.image(f"{name}-target"))
        for place, (file, label) in enumerate(zip(files, ("", title, ""), strict=True)):
            _show(grid[3 * number + place], file, label)
    drawing.savefig(path)


def _show(axes: Any, file: Path, title: str) -> None:
    with Image.open(file) as image:
        axes.imshow(image.convert("RGB"))
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()
