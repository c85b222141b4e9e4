"""SynthRAD 2023: MRI and CT (task 1), cone-beam CT and CT (task 2), of brain and pelvis, on one grid for each patient.

``Task1/brain/1BA001/{mr,ct,mask}.nii.gz`` and ``Task2/pelvis/2PA001/{cbct,ct,mask}.nii.gz``; cases of the validation
set have no ``ct``. CT is drawn in the window of the settings, or else from -1000 to 1000 Hounsfield units.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unimedvl.data.curation.ingest.files import files_under
from unimedvl.data.curation.ingest.settings import Reader, ReaderSettings, Skipped
from unimedvl.data.curation.ingest.subjects import VOLUME_SETTINGS, Subject, contrasts_of, read_subject
from unimedvl.data.curation.ingest.volumes import VOLUMES
from unimedvl.data.curation.pairs import Pair

_SPOKEN = {"mr": "MRI", "ct": "CT", "cbct": "cone-beam CT"}
_MODALITY = {"mr": "MRI", "ct": "CT", "cbct": "CT"}
_WINDOW = (0.0, 2000.0)


def _read(root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
    wanted = contrasts_of(settings, tuple(_SPOKEN))
    window = settings.window or _WINDOW
    for folder, files in _cases(root).items():
        found = {path.name.partition(".")[0]: path for path in files}
        windows = {name: window for name, kind in _MODALITY.items() if kind == "CT"}
        about = {"anatomy": folder.parent.name}
        subject = Subject(folder.name, found, modality=_MODALITY, spoken=_SPOKEN, windows=windows, more=about)
        # Each task has its own input: what is asked of the other is not missing here.
        other = "cbct" if "mr" in found else "mr"
        yield from read_subject(subject, [names for names in wanted if other not in names], settings, skipped)


def _cases(root: Path) -> dict[Path, list[Path]]:
    """Files by the folder of their patient, which lies in brain or pelvis."""
    found: dict[Path, list[Path]] = {}
    for path in files_under(root.resolve(), VOLUMES):
        if path.name.partition(".")[0] in _SPOKEN and path.parents[1].name in ("brain", "pelvis"):
            found.setdefault(path.parent, []).append(path)
    return found


read = Reader(
    _read,
    layout="Task1/brain/1BA001/{mr,ct}.nii.gz and Task2/brain/2BA001/{cbct,ct}.nii.gz",
    uses=(*VOLUME_SETTINGS, "contrasts"),
    defaults={"source": "SynthRAD 2023", "contrasts": ("mr-ct", "cbct-ct")},
)
