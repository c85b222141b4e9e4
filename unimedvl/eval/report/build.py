"""The report of a curriculum on UniMed-Mini."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import torch

from unimedvl import NOTICE, __version__
from unimedvl.errors import DataError
from unimedvl.eval.report import page
from unimedvl.eval.report.curves import LOSSES, Run, plot, read_run
from unimedvl.eval.report.evaluated import Evaluated
from unimedvl.eval.report.overview import overview
from unimedvl.eval.report.scores import score_table
from unimedvl.eval.rows import spread
from unimedvl.files import write_text

_SHOWN_ANSWERS = 14
_SHOWN_EDITS = 3
_MODALITIES = {
    "CFP": "Fundus photograph", "HIS": "Histology", "CXR": "Chest X-ray", "XR": "Bone X-ray", "CT": "CT", "MRI": "MRI",
    "US": "Ultrasound",
}  # fmt: skip
_TASKS = {
    "super_resolution": ("Super-resolution", "Four times, from 32 x 32 pixels."),
    "staining": ("Virtual staining", "From the hematoxylin channel to DAB and hematoxylin."),
    "segmentation": ("Segmentation", "Gray matter of a T1 weighted slice."),
    "cross_modal": ("Cross-modal", "From a T1 weighted slice to its white matter map."),
    "counterfactual": ("Counterfactual", "A rendered opacity is added or removed; it is not a disease."),
}
_LIMITS = (
    "It has 4.6 million parameters and has seen 989 pictures of 18 sources, one subject each, at 128 x 128 pixels. "
    "Nothing here says anything about patients.",
    "It knows the captions, questions and organs of UniMed-Mini and no others: OCT, endoscopy, findings, diagnoses and "
    "reports are beyond it, and free questions get an answer that merely sounds right.",
    "Held-out pictures are other parts of the same sources. Scores say that the framework learns, not how well the "
    "method works; for that there is the 14 B checkpoint.",
    "Fine structure is lost: each picture is 64 tokens, and the autoencoder has a million parameters. Its own "
    "reconstruction is the ceiling in the table.",
)


def write_report(out: Path, folders: Mapping[str, Path], models: Sequence[Evaluated]) -> list[Path]:
    """Write the page and its PNGs beside it; all their paths, the page first.

    Args:
        folders: of training runs in their order, by name.
        models: evaluations; the last but one and the last are shown in pictures.

    Raises:
        DataError: a run or an evaluation is not there, or they are of different rows.
    """
    if not models:
        raise DataError("no evaluation", where="report", remedy="give at least one with --model NAME=DIR")
    if len({str({k: v for k, v in model.result["about"].items() if k != "model"}) for model in models}) > 1:
        raise DataError(
            "evaluations of different rows", where="report", remedy="evaluate all models with the same settings"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    runs = {name: read_run(folder) for name, folder in folders.items()}
    plots = []
    for loss in LOSSES:
        path = out.with_name(f"{out.stem}-{loss}.png")
        plot(loss, {name: run.curves[loss] for name, run in runs.items()}, path)
        plots.append(path)
    picture = out.with_name(f"{out.stem}-overview.png")
    overview(models[-1], picture)
    body = _body(models, plots, runs)
    write_text(out, page.page("UniMedVL nano", body))
    return [out, *plots, picture]


def _body(models: Sequence[Evaluated], plots: Sequence[Path], runs: Mapping[str, Run]) -> Iterator[str]:
    yield "<h1>UniMedVL nano: one model that reads and draws</h1>"
    yield (
        '<p class="soft">The curriculum of the paper in miniature: three stages on UniMed-Mini, real images that '
        "Python packages ship, evaluated on pictures that were held out.</p>"
    )
    yield f'<p class="notice">{escape(NOTICE)}</p>'
    yield "<h2>Scores</h2>"
    yield page.table(*score_table(models), kind="scores")
    yield (
        '<p class="soft small">In brackets: rows. Bold: best column. Ceiling: the target itself through the '
        "autoencoder. Threshold and band of gray levels for the segmentation are chosen on the very pictures that "
        "they are scored on, which favors them.</p>"
    )
    yield "<h2>Training</h2>"
    shown = "".join(f'<img class="plot" src="{page.source(path)}" alt="{path.stem}">' for path in plots)
    yield f'<div class="plots">{shown}</div>'
    yield (
        '<p class="soft small">ce: cross-entropy of answer tokens in nats. mse: squared error of the flow\'s velocity. '
        "The stages mix tasks differently, so their training lines do not join; the dots are held-out rows in the "
        "stage's own mix.</p>"
    )
    pair = models[-2:]
    yield "<h2>Answers</h2>"
    yield _answers(pair)
    yield "<h2>Drawn from captions</h2>"
    yield (
        '<p class="soft">Pictures of the held-out split, then what each model draws from the same caption. '
        f"{_copies(models[-1])}</p>"
    )
    yield from _drawings(pair)
    yield "<h2>Made from images</h2>"
    for task, (title, about) in _TASKS.items():
        yield from _edits(task, title, about, pair)
    yield "<h2>What it cannot do</h2>"
    yield "<ul>" + "".join(f"<li>{escape(each)}</li>" for each in _LIMITS) + "</ul>"
    yield "<h2>What ran</h2>"
    yield from _ran(models, runs)


def _answers(models: Sequence[Evaluated]) -> str:
    said = [model.lines("answers") for model in models]
    by_kind: dict[str, list[str]] = {}
    for name, line in said[0].items():
        by_kind.setdefault(line["kind"], []).append(name)
    # In turns from every kind, each spread over its rows.
    count = -(-_SHOWN_ANSWERS // len(by_kind))
    names = [own[number] for own in by_kind.values() for number in spread(len(own), count)]
    rows = []
    for name in names:
        line = said[0][name]
        cells = [_marked(each[name]["answer"], line["truth"]) for each in said]
        image = models[0].image(f"{name}-input")
        shown = f'<img src="{page.source(image)}" alt="">' if image.is_file() else ""
        rows.append([shown, escape(line["question"]), *cells, escape(line["truth"])])
    return page.table(["", "question", *(model.name for model in models), "truth"], rows, "words")


def _marked(answer: str, truth: str) -> str:
    from unimedvl.eval.answers import normalized

    kind = "good" if normalized(answer) == normalized(truth) else "bad"
    return f'<span class="{kind}">{escape(answer) or "(nothing)"}</span>'


def _copies(model: Evaluated) -> str:
    drawn = model.result["drawings"]
    return (
        f"A classifier trained on real images recognizes the modality of {drawn['recognized']:.0%} of the pictures "
        f"that {escape(model.name)} drew ({drawn['real_recognized']:.0%} of real held-out ones). "
        f"{drawn['copies']:.0%} of them are nearer to a training picture than 95 % of real held-out ones are."
    )


def _drawings(models: Sequence[Evaluated]) -> Iterator[str]:
    drawn = [model.lines("drawings") for model in models]
    for modality, title in _MODALITIES.items():
        names = [name for name, line in drawn[0].items() if line["modality"] == modality]
        if not names:
            continue
        chosen = [names[number] for number in spread(len(names), 2)]
        yield f"<h3>{title}</h3>"
        groups = []
        for name in chosen:
            caption = drawn[0][name]["caption"]
            group = [page.figure(models[0].image(f"{name}-target"), "real", caption)]
            for model, lines in zip(models, drawn, strict=True):
                seen = lines[name]["recognized"]
                label = model.name if seen == modality else f"{model.name}, taken for {seen}"
                group.append(page.figure(model.folder / lines[name]["image"], label, caption))
            groups.append(group)
        yield page.pictures(groups)
        yield '<p class="soft small">' + "<br>".join(escape(drawn[0][name]["caption"]) for name in chosen) + "</p>"


def _edits(task: str, title: str, about: str, models: Sequence[Evaluated]) -> Iterator[str]:
    made = [model.lines(task) for model in models]
    names = list(made[0])
    yield f"<h3>{escape(title)}</h3>"
    groups = []
    for name in [names[number] for number in spread(len(names), _SHOWN_EDITS)]:
        group = [page.figure(models[0].image(f"{name}-input"), "input", made[0][name]["question"])]
        group += [
            page.figure(model.folder / lines[name]["image"], model.name, made[0][name]["question"])
            for model, lines in zip(models, made, strict=True)
        ]
        groups.append([*group, page.figure(models[0].image(f"{name}-target"), "target", "target")])
    yield f'<p class="soft small">{escape(about)}</p>'
    yield page.pictures(groups)
    result = models[-1].result[task]
    ways = {models[-1].name if name == "model" else name: values for name, values in result["ways"].items()}
    earlier = {model.name: model.result[task]["ways"]["model"] for model in models[:-1]}
    rows = [
        [escape(name), f"{values['psnr']:.2f}", f"{values['ssim']:.3f}"] for name, values in {**earlier, **ways}.items()
    ]
    yield page.table(["", "PSNR (dB)", "SSIM"], rows)
    if "dice" in result:
        masks = {models[-1].name if name == "model" else name: value for name, value in result["dice"].items()}
        earlier_masks = {model.name: model.result[task]["dice"]["model"] for model in models[:-1]}
        yield page.table(
            ["", "Dice"], [[escape(name), f"{value:.3f}"] for name, value in {**earlier_masks, **masks}.items()]
        )


def _ran(models: Sequence[Evaluated], runs: Mapping[str, Run]) -> Iterator[str]:
    about = models[-1].result["about"]
    places = [["machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {_memory():.0f} GB"]]
    places += [["software", f"unimedvl {__version__}, torch {torch.__version__}, Python {platform.python_version()}"]]
    places += [["UniMed-Mini", f"split {about['split']}, manifest {about['data']}"]]
    places += [[f"training, {name}", f"{run.steps} steps, {run.seconds:.0f} s"] for name, run in runs.items()]
    places += [[f"weights of {model.name}", model.result["about"]["model"]] for model in models]
    places += [[f"evaluation of {model.name}", f"{model.result['seconds']:.0f} s"] for model in models]
    yield page.table(["what", ""], [[escape(name), escape(value)] for name, value in places])


def _memory() -> float:
    """Of this machine, in GB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
