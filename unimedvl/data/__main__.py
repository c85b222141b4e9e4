"""Command line of data: ``python -m unimedvl.data validate|stats|convert|build|curate|audit ...``.

Only what parsing needs is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimedvl.errors import ConfigError, DataError, exit_code

if TYPE_CHECKING:
    from unimedvl.data.sources import Source
    from unimedvl.processor import ImageTransform


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("a seed is 0 or more")
    return value


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    main = argparse.ArgumentParser(prog="python -m unimedvl.data", description="Look after data files, and make them.")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help_text: str, more: str) -> argparse.ArgumentParser:
        description = f"{help_text[0].upper()}{help_text[1:]}. {more}"
        return commands.add_parser(name, help=help_text, description=description, parents=[_file_flags()])

    validate = add("validate", "check every row and every image", "Exit code 1 if a row is bad, 2 for other errors.")
    _add_scan_flags(validate)
    _add_stats_flags(add("stats", "count, measure and plot what files hold", "Bad rows are counted and passed over."))
    convert = add(
        "convert",
        "write Parquet shards with the images inside",
        "The bytes of the image files stay as they are. Exit code 1 if rows had to be left out, 2 for other errors.",
    )
    convert.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the shards")
    convert.add_argument("--rows-per-shard", type=int, default=1000, metavar="N")
    convert.add_argument("--overwrite", action="store_true", help="replace the shards that are there")
    build = commands.add_parser("build", help="make a data set", description="Make a data set.")
    sets = build.add_subparsers(dest="set", required=True, metavar="SET")
    mini = sets.add_parser("mini", help="a small one, for trying out", description="Make a small data set.")
    mini.add_argument("--out", type=Path, required=True, metavar="DIR")
    mini.add_argument("--seed", type=_seed, default=0)
    curate = commands.add_parser(
        "curate", help="from raw folders to a corpus", description="Read raw sources, filter, and write a corpus."
    )
    curate.add_argument(
        "words",
        nargs="*",
        metavar="key=value",
        help="config=FILE (YAML: sources, coarse, duplicates, ...), out=DIR, workers=N, seed=N, part_size=N and any "
        "other setting of unimedvl.data.curation.settings",
    )
    curate.add_argument("--quiet", action="store_true", help="no progress bars")
    _add_audit(commands)
    return main


def _add_audit(commands: Any) -> None:
    audit = commands.add_parser("audit", help="let experts rate a sample", description="Let experts rate a sample.")
    parts = audit.add_subparsers(dest="part", required=True, metavar="PART")
    page = parts.add_parser("page", help="one offline page to fill", description="Write one offline page to fill.")
    page.add_argument("corpus", type=Path, metavar="DIR", help="out= folder of a curation")
    page.add_argument("--out", type=Path, required=True, metavar="HTML")
    page.add_argument("--size", type=int, default=200, metavar="N", help="pairs, in the shares of their modalities")
    page.add_argument("--seed", type=_seed, default=0)
    page.add_argument("--flagged", action="store_true", help="also show pairs that were flagged for privacy, marked")
    read = parts.add_parser("read", help="what the experts saved", description="Read back what experts saved.")
    read.add_argument("sheet", type=Path, metavar="JSON", help="written beside the page")
    read.add_argument("ratings", type=Path, nargs="+", metavar="JSON", help="one file a rater")
    read.add_argument("--threshold", type=float, default=3.0, help="mean of 0 to 5 under which a row fails")
    read.add_argument("--out", type=Path, metavar="JSON", help="write the summary")
    read.add_argument("--remove-from", type=Path, metavar="DIR", help="take failing rows out of this corpus")


def _file_flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("files", nargs="+", metavar="FILE", help=".jsonl, .json or .parquet; or a glob")
    flags.add_argument("--root", type=Path, metavar="DIR", help="where image paths start; the folder of each file")
    flags.add_argument("--cache", type=Path, metavar="DIR", help="for Arrow files; that of `datasets` by default")
    flags.add_argument("--json", action="store_true", help="print one JSON object on stdout, all else on stderr")
    flags.add_argument("--quiet", action="store_true", help="no progress bar")
    return flags


def _add_scan_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes; one a CPU")
    command.add_argument("--limit", type=int, metavar="N", help="only the first rows")


def _add_stats_flags(command: argparse.ArgumentParser) -> None:
    _add_scan_flags(command)
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for stats.json and plots")
    command.add_argument("--no-plots", action="store_true", help="only the table and stats.json")
    group = command.add_argument_group("tokens")
    group.add_argument("--tokenizer", type=Path, metavar="DIR", help="counts text tokens; else they are estimated")
    group.add_argument("--vit-sides", metavar="MIN,MAX", help="of images for the vision encoder; as in training")
    group.add_argument("--vae-sides", metavar="MIN,MAX", help="of images for the autoencoder; as in training")


def _opened(options: argparse.Namespace) -> Source:
    try:
        import datasets
    except ImportError as error:
        raise DataError("data files need datasets", remedy="pip install 'unimedvl[train]'") from error
    from unimedvl.data.sources import Source

    datasets.disable_progress_bars()
    if options.root is not None and not options.root.is_dir():
        raise DataError("no such folder", where=str(options.root), remedy="check --root")
    return Source(options.command, options.files, root=options.root, cache=options.cache)


def _validate(options: argparse.Namespace) -> int:
    from unimedvl.data.validate import validate

    report = validate(_opened(options), jobs=options.jobs, limit=options.limit, quiet=options.quiet)
    print(json.dumps(report.values(), ensure_ascii=False) if options.json else report)
    return int(report.bad > 0)


def _stats(options: argparse.Namespace) -> int:
    from unimedvl.data.figures import need_matplotlib
    from unimedvl.data.plots import write
    from unimedvl.data.stats import collect
    from unimedvl.data.tasks import TrainTransforms
    from unimedvl.processor import TextCodec

    plots = not options.no_plots
    if plots:
        need_matplotlib()  # said before the work, not after
    default = TrainTransforms()
    transforms = TrainTransforms(
        _with_sides(default.vit, options.vit_sides, "vit_sides"),
        _with_sides(default.vae, options.vae_sides, "vae_sides"),
    )
    codec = None if options.tokenizer is None else TextCodec.from_directory(_folder(options.tokenizer))
    source = _opened(options)
    stats = collect(source, transforms, codec, jobs=options.jobs, limit=options.limit, quiet=options.quiet)
    paths = write(stats, options.out, plots=plots)
    print(json.dumps(stats.values(), ensure_ascii=False) if options.json else stats)
    print(f"\nwritten: {', '.join(map(str, paths))}", file=sys.stderr if options.json else sys.stdout)
    return 0


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise DataError("no such folder", where=str(path), remedy="check --tokenizer")
    return path


def _with_sides(transform: ImageTransform, text: str | None, name: str) -> ImageTransform:
    from dataclasses import replace

    if text is None:
        return transform
    least, comma, most = text.partition(",")
    if not (comma and least.isdecimal() and most.isdecimal() and 0 < int(least) <= int(most)):
        raise ConfigError(f"sides {text!r}", where=name, remedy="give MIN,MAX in pixels, as in 378,980")
    return replace(transform, min_side=int(least), max_side=int(most))


def _convert(options: argparse.Namespace) -> int:
    from unimedvl.data.convert import convert

    source = _opened(options)
    shape = {"rows_per_shard": options.rows_per_shard, "overwrite": options.overwrite}
    converted = convert(source, options.out, **shape, quiet=options.quiet)
    print(json.dumps(converted.values(), ensure_ascii=False) if options.json else converted)
    return int(converted.report.bad > 0)


def _build(options: argparse.Namespace) -> int:
    from functools import partial

    from unimedvl.data.mini.build import build

    print(build(options.out, options.seed, partial(_bar, hidden=False)))
    return 0


def _curate(options: argparse.Namespace) -> int:
    from functools import partial

    from unimedvl.data.curation.curate import curate
    from unimedvl.data.curation.settings import CurateSettings
    from unimedvl.settings import override

    files = [word.removeprefix("config=") for word in options.words if word.startswith("config=")]
    words = [word for word in options.words if not word.startswith("config=")]
    settings = override(CurateSettings(), words, Path(files[-1]) if files else None)
    print(curate(settings, partial(_bar, hidden=options.quiet)))
    return 0


def _audit(options: argparse.Namespace) -> int:
    return _audit_page(options) if options.part == "page" else _audit_read(options)


def _audit_page(options: argparse.Namespace) -> int:
    from unimedvl.data.curation.audit.page import write_page
    from unimedvl.data.curation.audit.sample import stratified
    from unimedvl.data.curation.corpus import flags_of, pairs_of

    flags, hidden = flags_of(options.corpus), 0
    if not options.flagged:
        hidden = sum(pair.id in flags for pair in pairs_of(options.corpus))
    shown = (pair for pair in pairs_of(options.corpus) if options.flagged or pair.id not in flags)
    sample = stratified(shown, options.size, seed=options.seed)
    if hidden and not sample:
        remedy = "give --flagged to show them, with a mark"
        raise DataError(f"all {hidden} pairs were flagged for privacy", where=str(options.corpus), remedy=remedy)
    write_page(sample, options.out, title=f"{options.corpus.resolve().name}: expert audit", flags=flags)
    print(f"{len(sample)} samples: {options.out}, and {options.out.with_suffix('.json')} to read the ratings with")
    if hidden:
        print(f"not shown, as they were flagged for privacy: {hidden} pairs; --flagged shows them, with a mark")
    return 0


def _audit_read(options: argparse.Namespace) -> int:
    from unimedvl.data.curation.audit.page import read_sheet
    from unimedvl.data.curation.audit.ratings import read_ratings
    from unimedvl.data.curation.audit.summary import summarize
    from unimedvl.data.curation.audit.table import text_table
    from unimedvl.data.curation.corpus import remove
    from unimedvl.data.curation.decisions import Decision
    from unimedvl.files import write_json

    sheet = read_sheet(options.sheet)
    summary = summarize(sheet, read_ratings(sheet, options.ratings), threshold=options.threshold)
    print(text_table(summary))
    if options.out is not None:
        write_json(options.out, summary.values())
    if options.remove_from is not None:
        failing = [Decision(each.id, "audit", "drop", each.reason, score=each.mean) for each in summary.failing]
        found = remove(options.remove_from, failing, sheet.contents)
        print(f"{found.removed} records removed from {options.remove_from}")
        for names, why in ((found.absent, "they are not there"), (found.changed, "they are not what was rated")):
            if names:
                print(f"not removed, as {why} any more: {', '.join(names)}")
    return 0


@contextmanager
def _bar(what: str, total: int, *, hidden: bool) -> Iterator[Callable[[], Any]]:
    """Parts that are done, on stderr where it is a terminal."""
    from tqdm import tqdm

    shown = not hidden and sys.stderr.isatty()
    with tqdm(total=total or None, desc=what, unit="part", leave=False, disable=not shown, file=sys.stderr) as bar:
        yield bar.update


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "validate": _validate,
    "stats": _stats,
    "convert": _convert,
    "build": _build,
    "curate": _curate,
    "audit": _audit,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 when all went well, 1 for bad rows, 2 for other errors, 130 when interrupted."""
    options = parser().parse_args(arguments)
    return exit_code(lambda: _COMMANDS[options.command](options))


if __name__ == "__main__":
    sys.exit(main())
