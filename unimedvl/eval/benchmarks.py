"""The benchmarks, by name: how their files are read, and how their predictions are scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unimedvl.errors import DataError
from unimedvl.eval.answers import normalized
from unimedvl.eval.readers import READERS
from unimedvl.eval.rows import Row

Reader = Callable[[Path, str], Sequence[Row]]


@dataclass(frozen=True)
class Benchmark:
    """One of the paper's tables.

    Attributes:
        about: one line for the list of benchmarks.
        family: key of :data:`unimedvl.eval.families.FAMILIES`.
        plain: questions without options are put as they stand, without the wording of the settings.
    """

    about: str
    family: str
    read: Reader
    plain: bool = False


def _reports(path: Path, split: str) -> list[Row]:
    """Records of captions or reports: the wording of the record asks for them."""
    tables = path.is_dir() and any(path.glob(pattern) for pattern in ("annotation*.json", "*.csv"))
    records = path.suffix in _RECORDS or (path.is_dir() and not tables)
    rows = READERS["records"](path, split) if records else READERS["reports"](path, split)
    if silent := [row.name for row in rows if not row.truths]:
        raise DataError("no reference report", where=silent[0], remedy="give every row one")
    return list(rows)


def _questions(path: Path, split: str) -> list[Row]:
    """Questions of one's own; closed are those with options, or with yes or no as the answer."""
    return [
        row if row.closed is not None else replace(row, closed=normalized(row.truth) in ("yes", "no"))
        for row in READERS["records"](path, split)
    ]


def _reconstructed(path: Path, split: str) -> list[Row]:
    """Every picture that records ask for, or else show, through the autoencoder and back."""
    rows = []
    for row in READERS["records"](path, split):
        picture = row.wanted or (row.images[0] if row.images else None)
        if picture is not None:
            rows.append(replace(row, task="reconstruct", prompt="", truths=(), images=(picture,), wanted=picture))
    if not rows:
        raise DataError("no picture in these records", where=str(path), remedy="give records with images")
    return rows


_RECORDS = (".jsonl", ".parquet")
_records = READERS["records"]

BENCHMARKS: Mapping[str, Benchmark] = {
    "vqa_rad": Benchmark("VQA-RAD, radiology questions", "understanding", READERS["vqa_rad"]),
    "slake": Benchmark("SLAKE, its English questions", "understanding", READERS["slake"]),
    "path_vqa": Benchmark("PathVQA, pathology questions", "understanding", READERS["path_vqa"]),
    "omni_med_vqa": Benchmark("OmniMedVQA, open-access part", "understanding", READERS["omni_med_vqa"]),
    "gmai_mmbench": Benchmark("GMAI-MMBench, as a VLMEvalKit TSV", "understanding", READERS["gmai_mmbench"]),
    "vlmevalkit": Benchmark("any multiple-choice TSV of VLMEvalKit", "understanding", READERS["vlmevalkit"]),
    "vqa": Benchmark("questions of your own (JSONL, Parquet, ...)", "understanding", _questions, plain=True),
    "mimic_cxr": Benchmark("MIMIC-CXR reports, or others in its annotation.json", "reports", READERS["reports"]),
    "reports": Benchmark("reports or captions of your own", "reports", _reports),
    "generation": Benchmark("pictures from captions (records with a target)", "generation", _records),
    "bci": Benchmark("H&E to IHC, as records", "interleaved", _records),
    "ixi": Benchmark("MRI super-resolution by four, as records", "interleaved", _records),
    "brats2023": Benchmark("T2 to FLAIR and back, as records", "interleaved", _records),
    "segmentation": Benchmark("masks drawn by the model, as records", "interleaved", _records),
    "interleaved": Benchmark("any image-to-image records of your own", "interleaved", _records),
    "icg_cxr": Benchmark("counterfactual chest X-rays, as records", "counterfactual", _records),
    "counterfactual": Benchmark("counterfactuals of your own", "counterfactual", _records),
    "autoencoder": Benchmark("pictures through the autoencoder and back", "autoencoder", _reconstructed),
}
