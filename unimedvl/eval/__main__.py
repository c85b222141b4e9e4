"""Command line of evaluation.

``python -m unimedvl.eval benchmark=NAME data=PATH model=DIR ...``, and ``compare``, ``leaderboard``, ``report``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from unimedvl import NOTICE
from unimedvl.errors import ConfigError, exit_code


def parser() -> argparse.ArgumentParser:
    """Words of an evaluation."""
    from unimedvl.eval.benchmarks import BENCHMARKS

    names = {"mini": "UniMed-Mini, everything at once", **{name: each.about for name, each in BENCHMARKS.items()}}
    names["efficiency"] = "tokens/s, seconds and FLOPs an image, memory"
    listed = "\n".join(f"  {name:16}{about}" for name, about in names.items())
    main = argparse.ArgumentParser(
        prog="python -m unimedvl.eval",
        description=f"Evaluate a model. {NOTICE}",
        epilog=f"benchmarks:\n{listed}\n\nother commands: compare A B --out DIR, leaderboard NAME=DIR ... --out FILE, "
        "report --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    main.add_argument(
        "words",
        nargs="*",
        metavar="key=value",
        help="benchmark=NAME, data=PATH, model=DIR (the bundled one by default), out=DIR, split, limit, seed, "
        "batch_size, device, dtype, shard=I/N; of scoring wording.choice, wording.question, judge.url, judge.model, "
        "meteor, rate, draws, extractor, train, classifier, clip, findings (unimedvl.eval.settings); and "
        "infer.KEY=VALUE for the model's own options, such as infer.t2i.steps=50",
    )
    main.add_argument("--limit", type=int, metavar="N", help="the same as limit=N")
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


def compare_parser() -> argparse.ArgumentParser:
    """Words of a comparison."""
    main = argparse.ArgumentParser(
        prog="python -m unimedvl.eval compare",
        description="Paired differences of two results of the same rows, with bootstrap intervals and bars.",
    )
    main.add_argument("first", type=Path, metavar="A", help="out= folder of an evaluation")
    main.add_argument("second", type=Path, metavar="B")
    main.add_argument("--names", nargs=2, metavar=("A", "B"), help="of the models; their folders' by default")
    main.add_argument("--out", type=Path, required=True, metavar="DIR")
    return main


def leaderboard_parser() -> argparse.ArgumentParser:
    """Words of a leaderboard."""
    main = argparse.ArgumentParser(
        prog="python -m unimedvl.eval leaderboard",
        description="All results beside the published rows, as Markdown and as a page (same name, .html).",
    )
    main.add_argument(
        "results", nargs="+", metavar="NAME=DIR", help="out= folder of an evaluation, and its model's name"
    )
    main.add_argument("--out", type=Path, required=True, metavar="MD")
    return main


def main(words: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    words = sys.argv[1:] if words is None else list(words)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    commands: Mapping[str, Callable[[Sequence[str]], None]] = {
        "report": _report,
        "compare": _compare,
        "leaderboard": _leaderboard,
    }

    def run() -> None:
        if words and words[0] in commands:
            commands[words[0]](words[1:])
        else:
            options = parser().parse_args(words)
            _evaluate(options.words + ([] if options.limit is None else [f"limit={options.limit}"]))

    return exit_code(run, "interrupted; what was done stands")


def _evaluate(words: Sequence[str]) -> None:
    chosen = [word.partition("=")[2] for word in words if word.startswith("benchmark=")]
    words = [word for word in words if not word.startswith("benchmark=")]
    if chosen == ["mini"]:
        return _mini(words)
    from unimedvl.eval.benchmarks import BENCHMARKS

    if chosen == ["efficiency"]:
        return _efficiency(words)
    if len(chosen) != 1 or chosen[0] not in BENCHMARKS:
        names = ", ".join(["mini", "efficiency", *BENCHMARKS])
        raise ConfigError(f"benchmark {' '.join(chosen) or 'missing'}", where="eval", remedy=f"give one of {names}")
    from unimedvl.eval.run import RESULT, Evaluation
    from unimedvl.eval.settings import EvalSettings
    from unimedvl.eval.tables import terminal
    from unimedvl.settings import override

    infer = [word.removeprefix("infer.") for word in words if word.startswith("infer.")]
    settings = override(EvalSettings(), [word for word in words if not word.startswith("infer.")])
    evaluation = Evaluation(chosen[0], settings, infer)
    result = evaluation.run()
    if result is None:
        print("this shard is done; the one that ends last scores all", file=sys.stderr)
        return None
    print(terminal(result))
    print(evaluation.out / RESULT)
    return None


def _mini(words: Sequence[str]) -> None:
    from unimedvl.eval.mini import MiniEvaluation, MiniSettings
    from unimedvl.eval.summary import summary
    from unimedvl.model.directory import resolve_directory
    from unimedvl.settings import override

    settings = override(MiniSettings(), words)
    model = resolve_directory(settings.model)
    result = MiniEvaluation(settings, model, lambda part: print(f"{part} ...", file=sys.stderr)).run()
    print(summary(result))
    print(settings.out / "result.json")


def _efficiency(words: Sequence[str]) -> None:
    from unimedvl.eval.efficiency import EfficiencySettings, measure_efficiency
    from unimedvl.eval.tables import terminal
    from unimedvl.files import write_json
    from unimedvl.settings import override

    settings = override(EfficiencySettings(), words)
    result = measure_efficiency(settings)
    write_json(settings.out / "result.json", result)
    print(terminal(result))
    print(settings.out / "result.json")


def _report(words: Sequence[str]) -> None:
    options = report_parser().parse_args(words)
    from unimedvl.eval.report.build import write_report
    from unimedvl.eval.report.evaluated import Evaluated

    runs = {name: Path(folder) for name, folder in _named(options.run, "--run")}
    models = [Evaluated(name, Path(folder)) for name, folder in _named(options.model, "--model")]
    for path in write_report(options.out, runs, models):
        print(path)


def _compare(words: Sequence[str]) -> None:
    options = compare_parser().parse_args(words)
    from unimedvl.eval.compare import compare, table, write_comparison

    names = tuple(options.names or (options.first.name, options.second.name))
    found = compare(options.first, options.second)
    paths = write_comparison(found, names, options.out)
    print(table(found, names))
    for path in paths:
        print(path)


def _leaderboard(words: Sequence[str]) -> None:
    options = leaderboard_parser().parse_args(words)
    from unimedvl.eval.run import open_result
    from unimedvl.eval.tables import Leaderboard
    from unimedvl.files import write_text

    named = _named(options.results, "NAME=DIR")
    board = Leaderboard([open_result(Path(folder)) for _, folder in named], [name for name, _ in named])
    text, page = options.out.with_suffix(".md"), options.out.with_suffix(".html")
    write_text(text, board.markdown())
    write_text(page, board.html())
    print(text, page, sep="\n")


def _named(words: Sequence[str], flag: str) -> list[tuple[str, str]]:
    pairs = [word.partition("=") for word in words]
    if wrong := [name for name, separator, value in pairs if not (name and separator and value)]:
        raise ConfigError(f"{wrong[0]!r}", where=flag, remedy="give NAME=VALUE")
    return [(name, value) for name, _, value in pairs]


if __name__ == "__main__":
    sys.exit(main())
