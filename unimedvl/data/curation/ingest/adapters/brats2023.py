"""BraTS 2023, gliomas: four MRI contrasts on one grid, and the tumor of the training cases.

``BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz``, and ``t1c``, ``t2w``, ``t2f`` and ``seg`` likewise, in any
folder. The first number is the patient's, the second that of the visit.
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

_KNOWN = ("t1n", "t1c", "t2w", "t2f", "seg")
_NAME = re.compile(r"(BraTS-[A-Za-z]+-\d{5}-\d{3})-(t1n|t1c|t2w|t2f|seg)\.nii(\.gz)?")
_HIGHEST = 3  # labels: 1 necrotic core, 2 edema, 3 enhancing tumor


def _read(root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
    wanted = contrasts_of(settings, _KNOWN)
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in files_under(root, VOLUMES):
        if match := _NAME.fullmatch(path.name):
            files[match[1]].setdefault(match[2], path)
    for name, found in sorted(files.items()):
        windows = {} if settings.window is None else dict.fromkeys(found, settings.window)
        about = {"subject": name.rpartition("-")[0], "visit": name.rpartition("-")[2]}
        subject = Subject(name, found, windows=windows, labels={"seg": _HIGHEST}, more=about)
        yield from read_subject(subject, wanted, settings, skipped)


read = Reader(
    _read,
    layout="BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz and the like",
    uses=(*VOLUME_SETTINGS, "contrasts"),
    defaults={"source": "BraTS 2023", "modality": "MRI", "contrasts": ("t2w-t2f", "t2f-t2w")},
)
