"""Results that the paper (arXiv 2510.15710) gives for the published 14 B model, in the units of this package.

Shares are fractions of one where the paper prints percent. The published average gFID of text-to-image generation,
96.29, is not the mean of the eight modalities (95.80), and two of them carry the same number; both stand as printed.
"""

from __future__ import annotations

from collections.abc import Mapping

NAME = "UniMedVL 14B, published"

_GFID = {
    "CFP": (53.20, 0.708),
    "CXR": (73.04, 0.702),
    "CT": (73.04, 0.696),
    "HIS": (149.01, 0.704),
    "MRI": (90.36, 0.706),
    "OCT": (99.27, 0.721),
    "US": (95.38, 0.706),
    "endoscopy": (133.11, 0.707),
}

# Benchmark -> metric -> group -> value.
PUBLISHED: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "vqa_rad": {"accuracy": {"all": 0.619}},
    "slake": {"accuracy": {"all": 0.754}},
    "path_vqa": {"accuracy": {"all": 0.535}},
    "omni_med_vqa": {"accuracy": {"all": 0.858}},
    "gmai_mmbench": {"accuracy": {"all": 0.6075}},
    "mimic_cxr": {
        "meteor": {"all": 0.2193},
        "bleu-4": {"all": 0.0235},
        "rouge-1": {"all": 0.2843},
        "rouge-l": {"all": 0.2727},
        "rate": {"all": 0.5138},
    },
    "generation": {
        "gfid": {"average": 96.29, **{f"modality={name}": gfid for name, (gfid, _) in _GFID.items()}},
        "clip": {f"modality={name}": clip for name, (_, clip) in _GFID.items()},
    },
    "bci": {"psnr": {"all": 20.27}, "ssim": {"all": 0.456}},
    "ixi": {"psnr": {"all": 27.29}, "ssim": {"all": 0.890}},
    "brats2023": {"psnr": {"all": 25.07}, "ssim": {"all": 0.882}},
    "segmentation": {"dice": {"all": 0.3351}},
    "icg_cxr": {
        "gfid": {"all": 27.17},
        "auroc": {"all": 0.797},
        "f1": {"all": 0.873},
        "bleu-3": {"all": 0.264},
        "meteor": {"all": 0.449},
        "rouge-l": {"all": 0.465},
    },
    "autoencoder": {
        "psnr": {"modality=CXR": 37.09, "modality=MRI": 34.30},
        "ssim": {"modality=CXR": 0.973, "modality=MRI": 0.921},
    },
    "efficiency": {
        "tokens_per_second": {"all": 25.86},
        "tflops_per_image": {"all": 40.03},
        "memory_gb": {"answering": 28.25, "drawing": 28.39},
    },
}


def published(benchmark: str, metric: str, group: str = "all") -> float | None:
    """The paper's number; None where it gives none."""
    return PUBLISHED.get(benchmark, {}).get(metric, {}).get(group)
