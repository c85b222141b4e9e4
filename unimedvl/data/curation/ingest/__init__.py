"""From raw data to pairs: one reader for each layout, all called with a path and settings."""

from __future__ import annotations

from unimedvl.data.curation.ingest import dicoms, folders, pairs_of_folders, records, subjects, tables
from unimedvl.data.curation.ingest.adapters import (
    bci,
    brats2023,
    chexpert_plus,
    icg_cxr,
    ixi,
    pmc_oa,
    pubmedvision,
    quilt_1m,
    synthrad,
    unimed_mini,
)
from unimedvl.data.curation.ingest.settings import Reader, ReaderSettings, Skipped

__all__ = ["READERS", "Reader", "ReaderSettings", "Skipped"]

READERS: dict[str, Reader] = {
    "folder": folders.read,
    "table": tables.read,
    "records": records.read,
    "dicom": dicoms.read,
    "nifti": subjects.read,
    "paired": pairs_of_folders.paired,
    "masks": pairs_of_folders.masks,
    "pmc_oa": pmc_oa.read,
    "quilt_1m": quilt_1m.read,
    "pubmedvision": pubmedvision.read,
    "chexpert_plus": chexpert_plus.read,
    "ixi": ixi.read,
    "brats2023": brats2023.read,
    "synthrad": synthrad.read,
    "bci": bci.read,
    "icg_cxr": icg_cxr.read,
    "unimed_mini": unimed_mini.read,
}
