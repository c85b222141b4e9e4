"""Command line of inference: ``python -m unimedvl.infer TASK --model DIR ...``.

Only what parsing needs is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from unimedvl import NOTICE
from unimedvl.errors import exit_code

_SUBTASKS = ("super-resolution", "staining", "translation", "segmentation")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    main = argparse.ArgumentParser(
        prog="python -m unimedvl.infer",
        description=f"Answer about medical images, and make them. {NOTICE}",
        epilog="After the flags, any setting can be overridden as key=value: edit.guidance.image_scale=1.5, "
        "prompts.report='Describe the heart.' or, of the checkpoint's config, model.max_latent_size=128.",
    )
    tasks = main.add_subparsers(dest="task", required=True, metavar="TASK")

    def add(name: str, help_text: str, *groups: argparse.ArgumentParser) -> argparse.ArgumentParser:
        description = f"{help_text[0].upper()}{help_text[1:]}. {NOTICE}"
        return tasks.add_parser(name, help=help_text, description=description, parents=[_model_flags(), *groups])

    image, text, drawing = _image_flags(), _text_flags(), _drawing_flags()
    add("vqa", "answer a question about images", image, text).add_argument("--prompt", required=True)
    add("report", "write a report of an image", image, text).add_argument("--prompt")
    add("caption", "describe an image in a sentence", image, text).add_argument("--prompt")
    t2i = add("t2i", "make an image from text", text, drawing)
    t2i.add_argument("--prompt", required=True)
    t2i.add_argument("--think", action="store_true", help="plan the image in words first")
    edit = add("edit", "make an image from an image and an instruction", image, text, drawing)
    edit.add_argument("--prompt", help="the instruction; a sub-task has one of its own")
    edit.add_argument("--subtask", choices=_SUBTASKS)
    edit.add_argument(
        "--mode",
        choices=("answer", "direct", "understand"),
        default="answer",
        help="say the answer first and draw with it; draw at once; or understand the instruction, then edit",
    )
    counterfactual = add("counterfactual", "show an image as it would be, and explain", image, text, drawing)
    counterfactual.add_argument("--prompt")
    reconstruct = add("reconstruct", "an image through the autoencoder, or the model, and back", image, drawing)
    reconstruct.add_argument("--through", choices=("autoencoder", "model"), default="autoencoder")
    add("chat", "talk about images in the terminal", text, _reading_flags())
    batch = add("batch", "carry out a JSONL file of requests", text, drawing, _reading_flags())
    batch.add_argument("requests", type=Path, help="one JSON object a line: task, images, prompt, and options")
    batch.add_argument("--shard", default="0/1", metavar="I/N", help="every N-th request, starting with the I-th")
    batch.add_argument("--batch-size", type=int, default=1)
    return main


def _flags() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(add_help=False)


def _model_flags() -> argparse.ArgumentParser:
    flags = _flags()
    group = flags.add_argument_group("model")
    group.add_argument(
        "--model", metavar="DIR", help="checkpoint directory, or hub id owner/name; the bundled nano model by default"
    )
    group.add_argument("--weights", choices=("auto", "ema", "model"), default="auto")
    group.add_argument("--dtype", help="bfloat16, float16 or float32; as stored by default")
    group.add_argument("--device", help="cuda, cuda:1, cpu; the first GPU by default")
    group.add_argument("--device-map", help="auto (spread over the GPUs) or offload (weights stay in CPU memory)")
    group.add_argument("--und-only", action="store_true", help="leave out all that makes images: half the memory")
    group.add_argument("--attention", default="auto", help="auto, sdpa, flex or varlen")
    group.add_argument("--config", type=Path, metavar="YAML", help="file of settings")
    group.add_argument("--json", action="store_true", help="print one JSON object on stdout, all else on stderr")
    group.add_argument("--quiet", action="store_true", help="no progress bars")
    group.add_argument("--seed", type=int)
    return flags


def _reading_flags() -> argparse.ArgumentParser:
    flags = _flags()
    group = flags.add_argument_group("reading images")
    group.add_argument("--window", metavar="C,W", help="center and width, in the units of the modality")
    group.add_argument("--frame", type=int, default=0, help="of a multi-frame file")
    group.add_argument("--slice", metavar="AXIS,INDEX", help="of a volume: 0 sagittal, 1 coronal, 2 axial")
    return flags


def _image_flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(add_help=False, parents=[_reading_flags()])
    group = flags.add_argument_group("images")
    group.add_argument(
        "--image",
        action="append",
        required=True,
        metavar="PATH",
        help="PNG, JPEG, TIFF, DICOM or NIfTI; several for one question, or one folder or glob for a question each",
    )
    return flags


def _text_flags() -> argparse.ArgumentParser:
    flags = _flags()
    group = flags.add_argument_group("text")
    group.add_argument("--max-new-tokens", type=int)
    group.add_argument("--temperature", type=float, help="0 is greedy")
    group.add_argument("--top-p", type=float)
    group.add_argument("--repetition-penalty", type=float)
    group.add_argument("--stop", action="append", help="a string that ends the answer")
    return flags


def _drawing_flags() -> argparse.ArgumentParser:
    flags = _flags()
    group = flags.add_argument_group("drawing")
    group.add_argument("--out", type=Path, default=Path("outputs"), help="folder, or a .png file for one image")
    group.add_argument("--size", metavar="WxH", help="multiples of 16")
    group.add_argument("--steps", type=int)
    group.add_argument("--shift", type=float, help="of the time grid")
    group.add_argument("--solver", choices=("euler", "unipc", "dpm++"))
    group.add_argument("--preset", choices=("t2i", "edit", "none"), help="published guidance")
    group.add_argument("--text-scale", type=float)
    group.add_argument("--image-scale", type=float)
    group.add_argument("--interval", metavar="LOW,HIGH", help="timesteps at which guidance acts")
    group.add_argument("--renorm", choices=("global", "channel", "text_channel"))
    group.add_argument("--renorm-min", type=float)
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 when all went well, 2 for bad input, 130 when interrupted."""
    options, overrides = parser().parse_known_args(arguments)
    if stray := [text for text in overrides if text.startswith("-") or "=" not in text]:
        parser().error(f"unrecognized arguments: {' '.join(stray)}")

    def run() -> None:
        from unimedvl.infer import commands

        commands.run(options, overrides)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
