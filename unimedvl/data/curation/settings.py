"""What is curated, and how."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from unimedvl.data.curation.alignment import AlignmentSettings
from unimedvl.data.curation.authoring import AuthoringSettings
from unimedvl.data.curation.coarse import CoarseSettings
from unimedvl.data.curation.degradation import DegradationSettings
from unimedvl.data.curation.duplicates import DuplicateSettings
from unimedvl.data.curation.ingest import READERS, ReaderSettings
from unimedvl.data.curation.privacy import PrivacySettings
from unimedvl.data.curation.registration import RegistrationSettings
from unimedvl.data.curation.selection import SelectionSettings
from unimedvl.data.curation.templates import WordingSettings
from unimedvl.errors import ConfigError


@dataclass(frozen=True)
class SourceSettings:
    """One source of raw data.

    Attributes:
        reader: key of :data:`unimedvl.data.curation.ingest.READERS`.
        path: file or folder in the reader's layout.
    """

    reader: str = "table"
    path: Path = Path()
    settings: ReaderSettings = field(default_factory=ReaderSettings)

    def __post_init__(self) -> None:
        if self.reader not in READERS:
            raise ConfigError(f"no reader {self.reader!r}", where="sources", remedy=f"use one of {', '.join(READERS)}")


@dataclass(frozen=True)
class BackendSettings:
    """Who measures how text and image fit, see :mod:`unimedvl.data.curation.backends`.

    Attributes:
        captioner: none leaves the alignment and its selection out.
        scorer: of image and text; none leaves M out.
    """

    captioner: str = ""
    embedder: str = "minilm"
    scorer: str = ""

    def __post_init__(self) -> None:
        if self.scorer and not self.captioner:
            remedy = "give backends.captioner too, such as unimedvl:bundled"
            raise ConfigError(f"scorer {self.scorer!r} without a captioner", where="backends", remedy=remedy)


@dataclass(frozen=True)
class CurateSettings:
    """A corpus.

    Attributes:
        out: folder of the corpus; what is made on the way lies in ``work`` inside it.
        workers: processes, through Ray if more than one; the corpus does not depend on them.
        part_size: pairs that are worked on together.
        files: name of the file, without suffix, for pairs of a subtask or family, where it is not that of the family.
    """

    sources: tuple[SourceSettings, ...] = ()
    out: Path = Path("data/curated")
    seed: int = 0
    workers: int = 1
    part_size: int = 500
    files: dict[str, str] = field(default_factory=dict)
    coarse: CoarseSettings = field(default_factory=CoarseSettings)
    degradation: DegradationSettings = field(default_factory=DegradationSettings)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    registration: RegistrationSettings = field(default_factory=RegistrationSettings)
    duplicates: DuplicateSettings = field(default_factory=DuplicateSettings)
    wording: WordingSettings = field(default_factory=WordingSettings)
    backends: BackendSettings = field(default_factory=BackendSettings)
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    authoring: AuthoringSettings = field(default_factory=AuthoringSettings)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}", where="curate", remedy="give 0 or more")
        for name in ("workers", "part_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", where="curate", remedy="give 1 or more")
        if wrong := next((name for name in self.files.values() if not re.fullmatch(r"\w[\w.-]*", name)), None):
            raise ConfigError(f"files: {wrong!r}", where="curate", remedy="give a plain name, such as captions")
