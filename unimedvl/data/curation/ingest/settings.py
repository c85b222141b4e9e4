"""What a reader of raw data is told, and what it reports about what it left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from unimedvl.data.curation.pairs import SPLITS, Pair, pair_id
from unimedvl.data.records import IMAGE_MARK, Family, RecordError
from unimedvl.errors import ConfigError, DataError

_ANY = ("source", "family", "subtask", "modality", "split", "license", "facts", "on_missing")
_SHOWN = 3  # places that are kept for each reason
# Reconstruction is made of pairs of understanding, while training.
FAMILIES = tuple(name for name in get_args(Family) if name != "reconstruction")


@dataclass(frozen=True)
class ReaderSettings:
    """Choices for reading one source. Each reader refuses those that it has no use for.

    Attributes:
        source: name of the data set; empty: the reader's, or the folder's.
        family, subtask: of the pairs; empty: what the reader makes, of tables with images to make edits.
        modality, split, license: of all pairs; empty: what the source says.
        facts: of all pairs, such as ``anatomy``, for the slots of wordings (unimedvl.data.curation.templates); kept in
            :attr:`Pair.more` where the source does not say the same of a pair itself.
        images_out: folder for the images that a reader makes, from slices and masks; curation takes one of the corpus.
        on_missing: ``error`` stops at a partner, image or volume that is absent or cannot be read, and at a faulty row;
            ``skip`` counts it.
        image_column, text_column, question_column, target_column, split_column, modality_column: of tables; empty: the
            reader's, which for a table of one's own is ``image`` and ``caption`` and none.
        more_columns: columns kept in :attr:`Pair.more`.
        levels: what the sub-folders of an image folder are, from the outermost: ``split``, ``modality``, any other
            name for a fact such as ``label``, or empty for nothing.
        input_folder, target_folder: of images and their partners; ``input_suffix`` and ``target_suffix`` end the
            stems of one side only, such as ``_mask``.
        highest_label: of masks and label volumes whose values are class numbers: they are drawn with 0 black and this
            one white. 0: masks are pictures already.
        axes: along which volumes are cut: 0 sagittal, 1 coronal, 2 axial.
        step: every how manieth slice; ``spacing``: or the distance of slices in mm. 0: every slice.
        window: (center, width) in the units of the modality.
        percentiles: of a volume, drawn black and white where no window is given.
        least_filled: share of pixels brighter than nearly black (5 of 255) that a slice of a volume must have.
        seed: of readers that draw by chance.
        contrasts: which volumes of a subject: ``a`` for slices alone, ``a-b`` for slices of a with those of b to make.
    """

    source: str = ""
    family: str = ""
    subtask: str = ""
    modality: str = ""
    split: str = ""
    license: str = ""
    facts: dict[str, str | float] = field(default_factory=dict)
    images_out: Path | None = None
    on_missing: Literal["error", "skip"] = "error"
    image_column: str = ""
    text_column: str = ""
    question_column: str = ""
    target_column: str = ""
    split_column: str = ""
    modality_column: str = ""
    more_columns: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    input_folder: str = ""
    target_folder: str = ""
    input_suffix: str = ""
    target_suffix: str = ""
    highest_label: int = 0
    axes: tuple[int, ...] = (2,)
    step: int = 0
    spacing: float = 0.0
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (0.5, 99.5)
    least_filled: float = 0.0
    contrasts: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.percentiles
        checks = {
            "family": self.family in ("", *FAMILIES),
            "split": self.split in ("", *SPLITS),
            "axes": set(self.axes) <= {0, 1, 2} and 0 < len(self.axes) == len(set(self.axes)),
            "step": self.step >= 0 and self.spacing >= 0 and not (self.step and self.spacing),
            "percentiles": 0 <= low < high <= 100,
            "window": self.window is None or self.window[1] > 0,
            "least_filled": 0 <= self.least_filled <= 1,
            "highest_label": self.highest_label >= 0,
        }
        remedies = {
            "family": f"one of {', '.join(FAMILIES)}, or leave it out",
            "split": f"one of {', '.join(SPLITS)}, or leave it out",
            "axes": "0, 1 and 2, each once",
            "step": "a step or a spacing, and not below 0",
            "percentiles": "two from 0 to 100 that rise",
            "window": "center and a positive width",
            "least_filled": "a share from 0 to 1",
            "highest_label": "0 or more",
        }
        for name, good in checks.items():
            if not good:
                raise ConfigError(f"{name} {getattr(self, name)!r}", where="reader", remedy=f"give {remedies[name]}")

    def pair(self, *parts: str, **values: Any) -> Pair:
        """A pair of this source; ``parts`` tell it apart, and what is set here stands before ``values``.

        Marks of images in its texts are left out: the corpus writes its own.
        """
        own = {name: getattr(self, name) for name in ("source", "family", "subtask", "modality", "split", "license")}
        for name in values.keys() & {"text", "question"}:
            values[name] = re.sub(rf"[ \t]*{IMAGE_MARK}", "", values[name]).strip()
        return Pair(id=pair_id(self.source, *parts), **{**values, **{name: text for name, text in own.items() if text}})

    def out(self) -> Path:
        """The folder for images.

        Raises:
            ConfigError: none is given.
        """
        if self.images_out is None:
            raise ConfigError("no images_out", where="reader", remedy="name a folder for the images that are made")
        return self.images_out


@dataclass
class Skipped:
    """What was left out.

    Attributes:
        counts: by reason.
        first: the first three places of each reason, which may be names of files.
    """

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, place: str) -> None:
        """Count one."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if self.counts[reason] <= _SHOWN:
            self.first.setdefault(reason, []).append(place)

    def missing(self, settings: ReaderSettings, reason: str, place: str, remedy: str, noted: str = "") -> None:
        """Something is absent or cannot be read: stop or count, as :attr:`ReaderSettings.on_missing` says.

        Args:
            noted: the place as it is kept, where its name must not be.

        Raises:
            DataError: it says ``error``.
        """
        if settings.on_missing == "error":
            raise DataError(reason, where=place, remedy=f"{remedy}, or set on_missing=skip")
        self.add(reason, noted or place)

    def failed(self, settings: ReaderSettings, error: DataError, place: str) -> None:
        """Stop with an error, or count it, without what follows a colon, which may quote what a file holds.

        Raises:
            DataError: the settings say ``error``.
        """
        if settings.on_missing == "error":
            raise error
        self.add(error.reason if isinstance(error, RecordError) else error.problem.partition(":")[0], place)


def one_image(file: str, family: str) -> dict[str, Any]:
    """The fields of a pair with one image: of text-to-image it is the target."""
    return {"target": file} if family == "t2i" else {"images": (file,)}


@dataclass(frozen=True)
class Reader:
    """Reads a layout of raw data.

    Attributes:
        read: yields the pairs.
        layout: what it looks for, told when there is nothing of it.
        uses: settings beyond the common ones.
        defaults: for settings that are left empty.
        packaged: its data lie in packages; the path that it is called with is not looked at.
    """

    read: Callable[[Path, ReaderSettings, Skipped], Iterator[Pair]]
    layout: str
    uses: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    packaged: bool = False

    def __call__(self, root: Path, settings: ReaderSettings, skipped: Skipped | None = None) -> Iterator[Pair]:
        """The pairs in a fixed order, one after the other.

        Args:
            skipped: is told what is left out.

        Raises:
            ConfigError: a setting is of no use here.
            DataError: at once where there is no ``root``; later where its layout is another.
        """
        empty = ReaderSettings()
        for item in fields(ReaderSettings):
            if item.name not in (*_ANY, *self.uses) and getattr(settings, item.name) != getattr(empty, item.name):
                known = ", ".join((*_ANY, *self.uses))
                raise ConfigError(f"{item.name} is of no use here", where="reader", remedy=f"set some of {known}")
        root = Path(root)
        if not root.exists():
            raise DataError("no such file or folder", where=str(root), remedy="check the path")
        given = {name: value for name, value in self.defaults.items() if not getattr(settings, name)}
        named = root.resolve().stem if root.is_file() else root.resolve().name
        made = "edit" if settings.target_column else "understanding"
        plain = {"source": settings.source or named, "family": settings.family or made}
        settings = replace(settings, **{**plain, **given})
        return self._found(root, settings, Skipped() if skipped is None else skipped)

    def _found(self, root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
        count, before = 0, sum(skipped.counts.values())
        for count, pair in enumerate(self.read(root, settings, skipped), 1):  # noqa: B007
            yield replace(pair, more={**settings.facts, **pair.more})
        if not count and sum(skipped.counts.values()) == before:
            raise DataError(f"nothing of the layout: {self.layout}", where=str(root), remedy="give the folder of it")
