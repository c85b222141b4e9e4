"""Scores as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from unimedvl.eval.mini import EDITS


def summary(result: Mapping[str, Any]) -> str:
    """A table of everything that was measured."""
    return "\n".join(_lines(result))


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    losses = result["losses"]
    yield f"{'':24}{'model':>10}{'untrained':>12}"
    for name in ("ce", "mse"):
        yield f"{name:24}{losses['model'][name]:10.3f}{losses['untrained'][name]:12.3f}"
    yield f"{'answers':24}{'accuracy':>10}{'majority':>12}{'95 % interval':>20}{'rows':>6}"
    for kind, each in result["answers"]["kinds"].items():
        interval = f"{each['low']:.3f} to {each['high']:.3f}"
        yield f"{kind:24}{each['accuracy']:10.3f}{each['majority']:12.3f}{interval:>20}{each['count']:6d}"
    drawn = result["drawings"]
    yield (
        f"{'drawings recognized':24}{drawn['recognized']:10.3f}  of {drawn['count']}; "
        f"real images {drawn['real_recognized']:.3f}, copies {drawn['copies']:.3f} (real images 0.050)"
    )
    yield f"{'edits':24}{'PSNR':>10}{'SSIM':>12}"
    for task in EDITS:
        for way, values in result[task]["ways"].items():
            yield f"{task + ', ' + way:42}{values['psnr']:8.2f}{values['ssim']:8.3f}"
        for way, value in result[task].get("dice", {}).items():
            yield f"{'  Dice, ' + way:58}{value:.3f}"
