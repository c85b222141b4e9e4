"""BraTS 2023, gliomas: four MRI contrasts on one grid, and the tumor of the training cases.

``BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz``, and ``t1c``, ``t2w``, ``t2f`` and ``seg`` likewise, in any
folder. The first number is the patient's, the second that of the visit. Of ``seg`` come three masks, which can be asked
for as contrasts to make: ``seg`` (the tumor and the edema around it), ``core`` (without the edema) and ``enhancing``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from unimedvl.data.curation.ingest.files import files_under
from unimedvl.data.curation.ingest.settings import Reader, ReaderSettings, Skipped
from unimedvl.data.curation.ingest.subjects import VOLUME_SETTINGS, Subject, contrasts_of, read_subject
from unimedvl.data.curation.ingest.volumes import VOLUMES
from unimedvl.data.curation.pairs import Pair

_SPOKEN = {
    "t1n": "T1-weighted MRI",
    "t1c": "contrast-enhanced T1-weighted MRI",
    "t2w": "T2-weighted MRI",
    "t2f": "T2-FLAIR MRI",
}
_MASKS = {"seg": "tumor", "core": "tumor core", "enhancing": "enhancing tumor"}
_REGIONS = {"seg": (1, 2, 3), "core": (1, 3), "enhancing": (3,)}
_NAME = re.compile(r"(BraTS-[A-Za-z]+-\d{5}-\d{3})-(t1n|t1c|t2w|t2f|seg)\.nii(\.gz)?")
_HIGHEST = 3  # labels: 1 necrotic core, 2 edema, 3 enhancing tumor


def _read(root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
    wanted = contrasts_of(settings, tuple(_SPOKEN), _MASKS)
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in files_under(root, VOLUMES):
        if match := _NAME.fullmatch(path.name):
            for contrast in _MASKS if match[2] == "seg" else [match[2]]:
                files[match[1]].setdefault(contrast, path)
    for name, found in sorted(files.items()):
        subject = Subject(
            name,
            found,
            spoken={**_SPOKEN, **_MASKS},
            windows={} if settings.window is None else dict.fromkeys(found, settings.window),
            labels=dict.fromkeys(_MASKS, _HIGHEST),
            regions=_REGIONS,
            more={"subject": name.rpartition("-")[0], "visit": name.rpartition("-")[2], "anatomy": "brain"},
        )
        yield from read_subject(subject, wanted, settings, skipped)


read = Reader(
    _read,
    layout="BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz and the like",
    uses=(*VOLUME_SETTINGS, "contrasts"),
    defaults={"source": "BraTS 2023", "modality": "MRI", "contrasts": ("t2w-t2f", "t2f-t2w")},
)
