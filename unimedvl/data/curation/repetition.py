"""How to make a corpus again: the settings that are not the default, and the command."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from unimedvl.data.curation.settings import CurateSettings

_NOT_CONTENT = ("out", "workers", "about")  # settings that stand elsewhere, or that change nothing


def repetition(settings: CurateSettings, version: str) -> Iterator[str]:
    """Markdown with a settings file that makes the corpus again wherever it lies."""
    import yaml

    changed = _changed(settings, settings.out.resolve())
    own = {name: value for name, value in changed.items() if name not in _NOT_CONTENT}
    yield (
        f"## Making it again\n\nunimedvl {version} made it with seed {settings.seed}. Save these settings as "
        "`corpus.yaml`; what is not among them has its default, and `FOLDER` is where the corpus shall lie.\n"
    )
    lines = yaml.safe_dump(own, sort_keys=False, allow_unicode=True, width=120)
    fence = "`" * max((3, *(len(run) + 1 for run in re.findall("`+", lines))))
    yield f"{fence}yaml\n{lines}{fence}\n"
    yield "```bash\npython -m unimedvl.data curate config=corpus.yaml out=FOLDER\n```\n"
    yield (
        "The number of workers changes nothing. Records name images from the folder they lie in, so the hashes above "
        "hold where the images lie as they did here, seen from `FOLDER`."
    )


def _changed(value: Any, out: Path) -> Any:
    """Settings as plain values, without those that have their defaults."""
    if is_dataclass(value):
        own = {item.name: (getattr(value, item.name), _default(item)) for item in fields(value)}
        return {name: _changed(now, out) for name, (now, default) in own.items() if now != default}
    if isinstance(value, tuple | list):
        return [_changed(item, out) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _changed(item, out) for key, item in value.items()}
    return _seen(value, out) if isinstance(value, Path) else value


def _seen(path: Path, out: Path) -> str:
    """A path from the corpus, or from here, or as it is: the same wherever the corpus and the work were."""
    place, here = path.resolve(), Path.cwd()
    if place.is_relative_to(out):
        return (Path("FOLDER") / place.relative_to(out)).as_posix()
    return place.relative_to(here).as_posix() if place.is_relative_to(here) else str(path)


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()
