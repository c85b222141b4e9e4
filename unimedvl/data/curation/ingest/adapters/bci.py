"""BCI: breast cancer sections stained with H&E, and again with immunohistochemistry for HER2.

``HE/train/00000_train_1+.png`` with ``IHC/train/00000_train_1+.png``, and ``test`` likewise; the end of the name is the
HER2 score, 0, 1+, 2+ or 3+.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from unimedvl.data.curation.ingest.files import split_named
from unimedvl.data.curation.ingest.pairs_of_folders import partners
from unimedvl.data.curation.ingest.settings import Reader, ReaderSettings, Skipped
from unimedvl.data.curation.pairs import Pair
from unimedvl.errors import DataError

_FACTS = {"modality": "H&E", "target_modality": "HER2 IHC", "anatomy": "breast"}
_KEY = re.compile(r"(\w+)/[^/]+_(0|1\+|2\+|3\+)")


def _read(root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
    for key, image, target in partners(root, replace(settings, input_folder="HE", target_folder="IHC"), skipped):
        match = _KEY.fullmatch(key)
        split = split_named(match[1]) if match else None
        if match is None or split is None:
            remedy = "give the folders as they were published, such as HE/train/00000_train_1+.png"
            raise DataError("no name of this data set", where=str(image), remedy=remedy)
        more = {**_FACTS, "her2": match[2]}
        yield settings.pair(key, images=(str(image),), target=str(target), split=split, more=more)


read = Reader(
    _read,
    layout="HE/{train,test} and IHC/{train,test} with pictures of the same names",
    defaults={"source": "BCI", "family": "edit", "subtask": "virtual staining", "modality": "HIS"},
)
