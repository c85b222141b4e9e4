"""The first stage: the pairs of all sources in parts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from unimedvl.data.curation.card import INGESTED
from unimedvl.data.curation.degradation import with_planned
from unimedvl.data.curation.ingest import READERS, Skipped
from unimedvl.data.curation.ingest.files import files_under
from unimedvl.data.curation.pairs import Pair, in_parts, write_part
from unimedvl.data.curation.settings import CurateSettings, SourceSettings
from unimedvl.data.curation.stages import Bar, Stage, enter
from unimedvl.errors import ConfigError, DataError
from unimedvl.files import write_json


def check_sources(settings: CurateSettings) -> None:
    """Refuse a corpus of nothing, and one inside of what it is made of: its own images would be read as raw ones.

    Raises:
        ConfigError: it is one of these.
    """
    if not settings.sources:
        raise ConfigError("no sources", where="curate", remedy="list them in the settings file, under sources")
    for source in settings.sources:
        inside = settings.out.resolve().is_relative_to(source.path.resolve())
        if inside and not READERS[source.reader].packaged:
            problem = f"the corpus would lie inside its source {source.path}"
            raise ConfigError(problem, where=str(settings.out), remedy="give another out=, beside the source")


def ingest(folder: Path, settings: CurateSettings, bar: Bar) -> Stage:
    """The pairs of all sources in parts; a kill begins it anew, but images that were made stay.

    It depends on names, sizes and times of the files of the sources too, but not on images that tables name elsewhere.

    Raises:
        DataError: a source cannot be read.
    """
    own: dict[str, Any] = {
        "sources": [{**asdict(source), "files": _state_of(source)} for source in settings.sources],
        "images": _made_in(settings),
        "part_size": settings.part_size,
    }
    if settings.degradation.share:
        own |= {"degradation": asdict(settings.degradation), "seed": settings.seed}
    stage = enter(folder, "ingest", 0, own, None)
    if (stage.folder / INGESTED).is_file():
        return stage
    for part in stage.parts:
        part.unlink()
    skipped = Skipped()
    with bar("ingest", 0) as step:
        found = with_planned(_read(settings, skipped), settings.degradation, settings.seed)
        for number, pairs in enumerate(in_parts(_unlike(found), settings.part_size)):
            write_part(stage.folder / f"part-{number:06d}.parquet", pairs)
            step()
    write_json(stage.folder / INGESTED, {"skipped": skipped.counts, "first": skipped.first})
    return stage


def _state_of(source: SourceSettings) -> str:
    """Tells the files of a source apart from what they may become: a hash of names, sizes and times."""
    if READERS[source.reader].packaged:
        return ""
    root = Path(os.path.abspath(source.path))
    state = hashlib.sha256(str(root).encode())
    for path in files_under(root) if root.is_dir() else [root]:
        if path.exists():
            about = path.stat()
            state.update(f"{path.relative_to(root)} {about.st_size} {about.st_mtime_ns}\n".encode())
    return state.hexdigest()[:16]


def _made_in(settings: CurateSettings) -> str:
    """The folder of images that readers make."""
    return str((settings.out / "images").resolve())


def _read(settings: CurateSettings, skipped: Skipped) -> Iterator[Pair]:
    for number, source in enumerate(settings.sources):
        reader, own = READERS[source.reader], source.settings
        if "images_out" in reader.uses and own.images_out is None:
            own = replace(own, images_out=Path(_made_in(settings), f"{number:02d}-{source.reader}"))
        for pair in reader(source.path, own, skipped):
            # Other working directories and machines of a cluster read them too.
            target = os.path.abspath(pair.target) if pair.target else ""
            yield replace(pair, images=tuple(map(os.path.abspath, pair.images)), target=target)


def _unlike(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """The pairs, whose ids must differ."""
    seen: set[str] = set()
    for pair in pairs:
        if pair.id in seen:
            remedy = "give sources that hold the same file different source names"
            raise DataError(f"two pairs of {pair.source} have the id {pair.id}", where="ingest", remedy=remedy)
        seen.add(pair.id)
        yield pair
