"""IXI: brain MRI of healthy people, several contrasts of each.

``IXI-T1/IXI002-Guys-0828-T1.nii.gz`` and likewise ``IXI-T2`` and ``IXI-PD``. T2 and PD were acquired together and lie
on one grid; T1 does not, and pairs with it must be registered first.
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
    "T1": "T1-weighted MRI",
    "T2": "T2-weighted MRI",
    "PD": "proton-density-weighted MRI",
    "MRA": "MR angiography",
}
_NAME = re.compile(r"(IXI\d{3})-([A-Za-z]+)-(\d+)-(T1|T2|PD|MRA)\.nii(\.gz)?")


def _read(root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
    wanted = contrasts_of(settings, tuple(_SPOKEN))
    files: dict[tuple[str, ...], dict[str, Path]] = defaultdict(dict)
    for path in files_under(root, VOLUMES):
        if match := _NAME.fullmatch(path.name):
            files[match.group(1, 2, 3)].setdefault(match[4], path)
    for (name, site, _), found in sorted(files.items()):
        windows = {} if settings.window is None else dict.fromkeys(found, settings.window)
        subject = Subject(name, found, spoken=_SPOKEN, windows=windows, more={"site": site, "anatomy": "brain"})
        yield from read_subject(subject, wanted, settings, skipped)


read = Reader(
    _read,
    layout="IXI-T2/IXI002-Guys-0828-T2.nii.gz and the like",
    uses=(*VOLUME_SETTINGS, "contrasts"),
    defaults={"source": "IXI", "modality": "MRI", "contrasts": ("PD-T2",)},
)
