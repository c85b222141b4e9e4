"""What a run says about its data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from unimedvl.data.augment import Augment
from unimedvl.data.mixture import FamilyWeights
from unimedvl.data.tasks import Dropout, TrainTransforms
from unimedvl.errors import ConfigError


@dataclass(frozen=True)
class SourceSettings:
    """One source of rows.

    Attributes:
        family: text, t2i, i2t or interleaved: whose share in the mix it has.
        files: paths or globs of ``.jsonl``, ``.json`` and ``.parquet`` files.
        root: folder from which relative image paths start; the folder of each file by default.
        weight: share within its family; the number of its rows by default.
    """

    name: str
    family: str
    files: tuple[str, ...]
    root: str | None = None
    weight: float | None = None


@dataclass(frozen=True)
class DataSettings:
    """Sources, their mix, and how samples become batches.

    Attributes:
        weights: shares of the families, in samples.
        augment: of images that are only read.
        shift: sigma of the training timesteps.
        max_tokens: budget of one packed batch; ``max_sample_tokens``: longer samples are left out, the budget itself
            by default.
        lookahead: samples that wait to be packed, at least; more of them fill batches better and take memory.
        reweight_ce: weigh loss tokens by 1 / sqrt(tokens of their answer).
        max_bad_fraction: more unreadable rows than this stop the run.
        workers: processes of each rank that read beside it; each prepares ``prefetch`` batches ahead.
        shards: of the stream; with the same number, the batches of a step do not depend on ranks and workers. Ranks
            times workers by default.
        cache: folder of the Arrow files of ``datasets``; its own by default.
        moments: folder in which the moments of encoded images are kept; they are not kept by default.
    """

    sources: tuple[SourceSettings, ...] = ()
    weights: FamilyWeights = field(default_factory=FamilyWeights)
    transforms: TrainTransforms = field(default_factory=TrainTransforms)
    dropout: Dropout = field(default_factory=Dropout)
    augment: Augment = field(default_factory=Augment)
    shift: float = 1.0
    max_tokens: int = 36_864
    max_sample_tokens: int | None = None
    lookahead: int = 32
    reweight_ce: bool = False
    seed: int = 0
    max_bad_fraction: float = 0.05
    workers: int = 2
    prefetch: int = 2
    shards: int | None = None
    cache: Path | None = None
    moments: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("max_tokens", 1), ("lookahead", 1), ("seed", 0), ("workers", 0), ("prefetch", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} {getattr(self, name)}", where="data", remedy=f"give {least} or more")
        if self.shards is not None and self.shards < 1:
            raise ConfigError(f"shards {self.shards}", where="data", remedy="give a multiple of the ranks")
        if not 0 <= self.max_bad_fraction < 1:
            raise ConfigError(f"max_bad_fraction {self.max_bad_fraction}", where="data", remedy="give 0 to below 1")
        if not 0 < self.sample_limit <= self.max_tokens:
            raise ConfigError(
                f"max_sample_tokens {self.max_sample_tokens} with a budget of {self.max_tokens}",
                where="data",
                remedy="a sample must fit in a batch: raise max_tokens or lower max_sample_tokens",
            )
        names = [source.name for source in self.sources]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ConfigError(
                f"two sources are called {min(repeated)}", where="data.sources", remedy="give each a name of its own"
            )

    @property
    def sample_limit(self) -> int:
        """Tokens that a sample may have."""
        return self.max_tokens if self.max_sample_tokens is None else self.max_sample_tokens
