"""Command line of evaluation: ``python -m unimedvl.eval benchmark=mini model=DIR ...``, ``... report --out FILE``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from unimedvl import NOTICE
from unimedvl.errors import ConfigError, UniMedVLError


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    main = argparse.ArgumentParser(prog="python -m unimedvl.eval", description=f"Evaluate a model. {NOTICE}")
    main.add_argument(
        "words",
        nargs="*",
        metavar="key=value",
        help="benchmark=mini, and its settings: model=DIR (the bundled one by default), data=DIR, out=DIR, split, "
        "seeds, limit, drawings, batches, batch_size, classifier",
    )
    return main


def report_parser() -> argparse.ArgumentParser:
    """Words of a report."""
    main = argparse.ArgumentParser(
        prog="python -m unimedvl.eval report", description="One self-contained page about runs and evaluations."
    )
    main.add_argument("--out", type=Path, required=True, metavar="HTML")
    main.add_argument("--run", action="append", default=[], metavar="NAME=DIR", help="a training run, in their order")
    main.add_argument(
        "--model", action="append", default=[], metavar="NAME=DIR", help="an evaluation; the last two are shown"
    )
    return main


def main(words: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    words = sys.argv[1:] if words is None else list(words)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        return _report(words[1:]) if words[:1] == ["report"] else _evaluate(parser().parse_args(words).words)
    except UniMedVLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the parts that were done stand", file=sys.stderr)
        return 130


def _evaluate(words: Sequence[str]) -> int:
    benchmark = [word.partition("=")[2] for word in words if word.startswith("benchmark=")]
    if benchmark != ["mini"]:
        raise ConfigError(f"benchmark {' '.join(benchmark) or 'missing'}", where="eval", remedy="give benchmark=mini")
    from unimedvl.eval.mini import MiniEvaluation, MiniSettings
    from unimedvl.eval.summary import summary
    from unimedvl.model.directory import resolve_directory
    from unimedvl.settings import override

    settings = override(MiniSettings(), [word for word in words if not word.startswith("benchmark=")])
    model = resolve_directory(settings.model)
    result = MiniEvaluation(settings, model, lambda part: print(f"{part} ...", file=sys.stderr)).run()
    print(summary(result))
    print(settings.out / "result.json")
    return 0


def _report(words: Sequence[str]) -> int:
    options = report_parser().parse_args(words)
    from unimedvl.eval.report.build import write_report
    from unimedvl.eval.report.evaluated import Evaluated

    runs = {name: Path(folder) for name, folder in _named(options.run, "run")}
    models = [Evaluated(name, Path(folder)) for name, folder in _named(options.model, "model")]
    for path in write_report(options.out, runs, models):
        print(path)
    return 0


def _named(words: Sequence[str], flag: str) -> list[tuple[str, str]]:
    pairs = [word.partition("=") for word in words]
    if wrong := [name for name, separator, value in pairs if not (name and separator and value)]:
        raise ConfigError(f"{wrong[0]!r}", where=f"--{flag}", remedy="give NAME=VALUE")
    return [(name, value) for name, _, value in pairs]


if __name__ == "__main__":
    sys.exit(main())
