"""What the command line does once it is parsed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unimedvl.errors import ConfigError, DataError
from unimedvl.imaging import ReadImage, ReadOptions, find_images, read_image
from unimedvl.infer.pipeline import UniMedVLPipeline
from unimedvl.infer.requests import Result
from unimedvl.infer.tasks import Call, InferSettings, with_options
from unimedvl.settings import override

_OPTION_NAMES = (
    "max_new_tokens",
    "temperature",
    "top_p",
    "repetition_penalty",
    "stop",
    "steps",
    "shift",
    "solver",
    "preset",
    "text_scale",
    "image_scale",
    "renorm",
    "renorm_min",
    "seed",
)


def run(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Carry out a parsed command line.

    Raises:
        UniMedVLError: an input cannot be used.
    """
    settings = settings_from(options, overrides)
    reading = reading_from(options)
    if options.task == "batch":
        from unimedvl.infer.batch import run_batch

        run_batch(options, settings, reading, open_pipeline)
        return
    if options.task == "chat":
        from unimedvl.infer.chat import chat

        chat(open_pipeline(options), settings, reading)
        return
    calls = _calls(options, settings, reading)
    streaming = len(calls) == 1 and not options.json and options.task in ("vqa", "caption")
    pipe = open_pipeline(options)
    results = pipe.perform(calls, on_text=_print_piece if streaming else None)
    paths = _save_images(results, options)
    if options.json:
        records = [result.record(path) for result, path in zip(results, paths, strict=True)]
        print(json.dumps(records[0] if len(records) == 1 else {"results": records}, ensure_ascii=False))
        return
    if streaming:
        print()
        return
    for call, result, path in zip(calls, results, paths, strict=True):
        if len(calls) > 1:
            print(f"# {call.images[0].source}")
        for line in (result.text, None if path is None else str(path)):
            if line:
                print(line)


def open_pipeline(options: argparse.Namespace) -> UniMedVLPipeline:
    """The pipeline that the model flags ask for."""
    return UniMedVLPipeline.from_pretrained(
        options.model,
        dtype=options.dtype,
        device=options.device,
        device_map=options.device_map,
        weights=options.weights,
        und_only=options.und_only,
        attention=options.attention,
        progress=not options.quiet,
    )


def settings_from(options: argparse.Namespace, overrides: Sequence[str]) -> InferSettings:
    """Defaults, then the settings file, then key=value overrides, then flags."""
    settings = override(InferSettings(), overrides, options.config)
    chosen = {name: getattr(options, name, None) for name in _OPTION_NAMES}
    if (size := getattr(options, "size", None)) is not None:
        chosen["size"] = _numbers(size, "size", "x", int)
    if (interval := getattr(options, "interval", None)) is not None:
        chosen["interval"] = _numbers(interval, "interval", ",", float)
    return with_options(settings, **chosen)


def reading_from(options: argparse.Namespace) -> ReadOptions:
    """How images are read."""
    window, chosen = getattr(options, "window", None), getattr(options, "slice", None)
    return ReadOptions(
        window=None if window is None else _numbers(window, "window", ",", float),
        frame=getattr(options, "frame", 0),
        slice=None if chosen is None else _numbers(chosen, "slice", ",", int),
    )


def _numbers(text: str, name: str, separator: str, kind: type) -> Any:
    try:
        first, second = (kind(part) for part in text.lower().split(separator))
    except ValueError as error:
        raise ConfigError(f"{name} is {text!r}", where=name, remedy=f"give two numbers as A{separator}B") from error
    return first, second


def _calls(options: argparse.Namespace, settings: InferSettings, reading: ReadOptions) -> list[Call]:
    """One call, or one for every image of a folder or glob."""
    more = {
        name: getattr(options, name)
        for name in ("prompt", "subtask", "think", "mode", "through")
        if hasattr(options, name)
    }
    return [
        Call(options.task, images, settings=settings, **more)
        for images in _image_groups(getattr(options, "image", None) or [], reading)
    ]


def _image_groups(patterns: Sequence[str], reading: ReadOptions) -> list[tuple[ReadImage, ...]]:
    def many(pattern: str) -> bool:
        return Path(pattern).is_dir() or (not Path(pattern).is_file() and bool(set(pattern) & set("*?[")))

    if any(many(pattern) for pattern in patterns):
        return [(read_image(path, reading),) for pattern in patterns for path in find_images(pattern)]
    return [tuple(read_image(path, reading) for path in patterns)]


def _print_piece(_: int, piece: str) -> None:
    print(piece, end="", flush=True)


def _save_images(results: Sequence[Result], options: argparse.Namespace) -> list[Path | None]:
    """Write the images that were made; their paths, None for results without one."""
    if not any(result.image for result in results):
        return [None] * len(results)
    out: Path = options.out
    single = out.suffix.lower() == ".png"
    if single and len(results) > 1:
        raise DataError(f"{len(results)} images and one file", where="out", remedy="give a folder")
    (out.parent if single else out).mkdir(parents=True, exist_ok=True)
    paths: list[Path | None] = []
    for result in results:
        if result.image is None:
            paths.append(None)
            continue
        path = out if single else _free_name(out, options.task)
        result.save_image(path)
        paths.append(path)
    return paths


def _free_name(folder: Path, task: str) -> Path:
    """The first of task-0000.png, task-0001.png, ... that is not taken."""
    number = 0
    while (path := folder / f"{task}-{number:04d}.png").exists():
        number += 1
    return path
