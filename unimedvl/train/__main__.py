"""Command line of training: ``python -m unimedvl.train stage=foundation ...`` and ``... export RUN --out DIR``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unimedvl import NOTICE
from unimedvl.errors import exit_code

if TYPE_CHECKING:
    from unimedvl.train.settings import TrainSettings

_EPILOG = """groups (folders of configs/): stage=foundation|instruction|unified|autoencoder, model=nano|7b_mot,
data=mini|own, runtime=cpu|gpu|zero3, experiment=NAME. Any value of the composed config: steps=100 data.weights.t2i=0.
dry_run=true gpus=8 tells what a run would need. 'export RUN --out DIR' writes the published layout."""

STOPPED = 128 + 15  # a SIGTERM ended the run before its last step; it was saved


def train_parser() -> argparse.ArgumentParser:
    """Words of a training run."""
    parser = argparse.ArgumentParser(
        prog="python -m unimedvl.train",
        description=f"Train one stage. {NOTICE}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="key=value", help="groups and values of the config")
    parser.add_argument("--config-dir", type=Path, help="another folder of configs")
    parser.add_argument("--print-config", action="store_true", help="show the composed config and stop")
    return parser


def export_parser() -> argparse.ArgumentParser:
    """Words of an export."""
    parser = argparse.ArgumentParser(
        prog="python -m unimedvl.train export", description="Write a checkpoint in the published layout."
    )
    parser.add_argument("source", type=Path, help="output folder of a run, or one of its checkpoints")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", choices=("ema", "model", "both"), default="ema")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--autoencoder", type=Path)
    parser.add_argument("--autoencoder-dtype", choices=("float32", "bfloat16"), help="as stored by default")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--settings", type=Path, metavar="YAML", help="how these weights are best used")
    parser.add_argument("--max-shard-size", help='such as "5GB"')
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    words = sys.argv[1:] if words is None else list(words)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    return exit_code(
        lambda: _export(words[1:]) if words[:1] == ["export"] else _train(words),
        "interrupted; the last checkpoint stands",
    )


def _export(words: Sequence[str]) -> int:
    options = export_parser().parse_args(words)
    import torch

    from unimedvl.train.export import export

    checkpoint = export(
        options.source,
        options.out,
        weights=options.weights,
        dtype=getattr(torch, options.dtype),
        autoencoder=options.autoencoder,
        tokenizer=options.tokenizer,
        autoencoder_dtype=None if options.autoencoder_dtype is None else getattr(torch, options.autoencoder_dtype),
        settings=options.settings,
        max_shard_size=options.max_shard_size,
    )
    print(f"{options.out}: {options.weights} weights after step {checkpoint.step} of {checkpoint.manifest['stage']}")
    return 0


def _train(words: Sequence[str]) -> int:
    options = train_parser().parse_args(words)
    from unimedvl.train.compose import compose

    plan = compose(options.words, options.config_dir)
    if options.print_config:
        print(plan.text(), end="")
        return 0
    if plan.stage == "autoencoder":
        from unimedvl.train.autoencoder import train_autoencoder

        own, vae, out, device = plan.autoencoder()
        plan.save(out)
        try:
            print(train_autoencoder(own, vae, out, device=device))
        except SystemExit:  # stopped by a SIGTERM, and saved
            return STOPPED
        return 0
    settings = plan.settings()
    if plan.dry_run:
        return _dry_run(settings, plan.gpus)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers are forked
    from unimedvl.train.engine import Trainer

    trainer = Trainer(settings)
    if trainer.backend.rank == 0:
        plan.save(settings.output)
    folder = trainer.run()
    if trainer.backend.rank == 0:
        print(folder)
    return 0 if trainer.progress.step >= settings.steps else STOPPED


def _dry_run(settings: TrainSettings, gpus: int) -> int:
    """Say what a run would need; an error if it cannot fit."""
    from unimedvl.train.preflight import preflight

    runtime = settings.runtime
    needs = preflight(
        settings.model.config,
        frozen=settings.frozen,
        gpus=gpus,
        zero=runtime.zero,
        precision=runtime.precision,
        offload_optimizer=runtime.offload_optimizer,
        offload_parameters=runtime.offload_parameters,
        checkpointing=runtime.checkpointing,
        max_tokens=settings.data.max_tokens,
        max_sample_tokens=settings.data.max_sample_tokens,
        accumulation=settings.accumulation,
        steps=settings.steps,
        gpu_memory_gib=runtime.gpu_memory_gib,
        peak_tflops=runtime.peak_tflops or 312.0,
        mfu=runtime.mfu,
    )
    print(needs)
    needs.check()
    return 0


if __name__ == "__main__":
    sys.exit(main())
