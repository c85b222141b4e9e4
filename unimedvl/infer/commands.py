"""What the command line does once it is parsed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unimedvl.bundled import HINT
from unimedvl.errors import ConfigError, DataError
from unimedvl.imaging import ReadImage, ReadOptions, find_images, read_image
from unimedvl.infer.defaults import defaults_of
from unimedvl.infer.pipeline import UniMedVLPipeline
from unimedvl.infer.requests import Result
from unimedvl.infer.tasks import Call, InferSettings, with_options
from unimedvl.model.directory import read_config, resolve_directory
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
    words = [word for word in overrides if not word.startswith("model.")]
    options.model_words = [word.removeprefix("model.") for word in overrides if word.startswith("model.")]
    settings_from(options, words, InferSettings())  # before anything is loaded or downloaded
    if options.model is None:
        options.model = "bundled"
        print(HINT, file=sys.stderr)
    settings = settings_from(options, words, defaults_of(resolve_directory(options.model)).settings)
    reading = reading_from(options)
    if options.task == "batch":
        from unimedvl.infer.batch import run_batch

        if options.out.suffix:
            raise ConfigError(f"results in {options.out.name}", where="out", remedy="give a folder")
        _check_out(options, 0)
        run_batch(options, settings, reading, open_pipeline)
        return
    if options.task == "chat":
        from unimedvl.infer.chat import chat

        chat(open_pipeline(options), settings, reading)
        return
    groups = _image_groups(options)
    _check_out(options, len(groups))
    if len(groups) > 1:
        _each(options, settings, reading, groups)
        return
    calls = [_call(options, settings, [read_image(path, reading) for path in groups[0]])]
    streaming = not options.json and options.task in ("vqa", "caption")
    pipe = open_pipeline(options)
    (result,) = pipe.perform(calls, on_text=_print_piece if streaming else None)
    path = _save_image(result, options)
    if options.json:
        print(json.dumps(result.record(path), ensure_ascii=False))
    elif streaming:
        print()
    else:
        _print_result(result, path)


def _each(
    options: argparse.Namespace, settings: InferSettings, reading: ReadOptions, groups: Sequence[Sequence[Path]]
) -> None:
    """Every image of a folder or glob by itself; those that fail are named, and the others go on.

    Raises:
        DataError: at the end, if some failed.
    """
    pipe = open_pipeline(options)
    records, failed = [], 0
    for (path,) in groups:
        try:
            call = _call(options, settings, [read_image(path, reading)])
            (result,) = pipe.perform([call])
        except DataError as error:
            failed += 1
            records.append({"image": str(path), "error": str(error)})
            print(f"error: {error}", file=sys.stderr)
            continue
        made = _save_image(result, options)
        records.append(result.record(made))
        if not options.json:
            print(f"# {path}")
            _print_result(result, made)
    if options.json:
        print(json.dumps({"results": records}, ensure_ascii=False))
    if failed:
        raise DataError(f"{failed} of {len(groups)} images failed", where="image", remedy="see the lines above")


def open_pipeline(options: argparse.Namespace) -> UniMedVLPipeline:
    """The pipeline that the model flags, and ``model.`` overrides of the checkpoint's config, ask for."""
    changes = {}
    if options.model_words:
        directory = resolve_directory(options.model)
        changes = vars(override(read_config(directory, options.weights), options.model_words))
    return UniMedVLPipeline.from_pretrained(
        options.model,
        dtype=options.dtype,
        device=options.device,
        device_map=options.device_map,
        weights=options.weights,
        und_only=options.und_only,
        attention=options.attention,
        progress=not options.quiet,
        **changes,
    )


def settings_from(options: argparse.Namespace, overrides: Sequence[str], defaults: InferSettings) -> InferSettings:
    """Defaults, then the settings file, then key=value overrides, then flags."""
    settings = override(defaults, overrides, options.config)
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


def _call(options: argparse.Namespace, settings: InferSettings, images: Sequence[ReadImage]) -> Call:
    names = ("prompt", "subtask", "think", "mode", "through")
    more = {name: getattr(options, name) for name in names if hasattr(options, name)}
    return Call(options.task, tuple(images), settings=settings, **more)


def _image_groups(options: argparse.Namespace) -> list[list[Path]]:
    """The images of each call: all together, or one each for a folder or glob, and for a reconstruction."""
    patterns = getattr(options, "image", None) or []

    def many(pattern: str) -> bool:
        return Path(pattern).is_dir() or (not Path(pattern).is_file() and bool(set(pattern) & set("*?[")))

    if any(many(pattern) for pattern in patterns):
        return [[path] for pattern in patterns for path in find_images(pattern)]
    if options.task == "reconstruct":
        return [[Path(pattern)] for pattern in patterns]
    return [[Path(pattern) for pattern in patterns]]


def _print_piece(_: int, piece: str) -> None:
    print(piece, end="", flush=True)


def _print_result(result: Result, path: Path | None) -> None:
    for line in (result.text, None if path is None else str(path)):
        if line:
            print(line)


def _check_out(options: argparse.Namespace, count: int) -> None:
    """Refuse, before anything is computed, a place to which images cannot be written."""
    out: Path | None = getattr(options, "out", None)
    if out is None:
        return
    folder = out.parent if out.suffix else out
    taken = next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None)
    if out.suffix and out.suffix.lower() != ".png":
        raise ConfigError(f"an image file {out.name}", where="out", remedy="give a folder, or a name that ends in .png")
    if out.suffix and count > 1:
        raise ConfigError(f"{count} images and one file", where="out", remedy="give a folder")
    if taken is not None or (out.suffix and out.is_dir()):
        what = f"{taken} is a file" if taken is not None else f"{out} is a folder"
        raise ConfigError(what, where="out", remedy="give another place")


def _save_image(result: Result, options: argparse.Namespace) -> Path | None:
    """Write the image that was made; its path, None if there is none."""
    if result.image is None:
        return None
    out: Path = options.out
    folder = out.parent if out.suffix else out
    folder.mkdir(parents=True, exist_ok=True)
    path = out if out.suffix else _free_name(folder, options.task)
    result.save_image(path)
    return path


def _free_name(folder: Path, task: str) -> Path:
    """The first of task-0000.png, task-0001.png, ... that is not taken."""
    number = 0
    while (path := folder / f"{task}-{number:04d}.png").exists():
        number += 1
    return path
