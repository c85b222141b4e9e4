"""Where every picture of UniMed-Mini comes from and under which terms, and what a user of it must know."""

from __future__ import annotations

from importlib.metadata import version

from unimedvl.data.mini.views import shipped_files

_PACKAGES = {
    "skimage": "scikit-image",
    "data_store": "pydicom-data",
    "pydicom": "pydicom",
    "nilearn": "nilearn",
    "wsidicom_data": "wsidicom-data",
}
_ALSO = ("pillow", "numpy", "nibabel")

# What each picture is, and its terms as its package states them.
ORIGINS = {
    "retina": ("Fundus photograph of a normal left eye, M. Haggstrom, Wikimedia Commons", "CC0 1.0"),
    "ihc": ("Colonic glands, FHL2 by DAB with hematoxylin, CMMI", "no known copyright restrictions"),
    "h_and_e": ("Tile of CMU-1-Small-Region from the OpenSlide test data", "package: Apache-2.0; image: CC0 1.0"),
    "chest": ("Frontal chest radiograph with many real nodules, DICOM test image", "package: MIT"),
    "leg": ("Frontal radiograph of a right lower leg (non-ossifying fibroma), DICOM test image", "package: MIT"),
    "ct_abdomen": ("CT slice of the abdomen", "package: MIT"),
    "ct_head": ("CT slice of a head", "package: MIT"),
    "ct_head_bone": ("CT slice of a head with coarsely quantized soft tissue", "package: MIT"),
    "ct_spine": ("CT slice through a vertebra and the muscles of the back", "package: MIT"),
    "ct_perfusion": ("CT perfusion map of a brain, from an enhanced CT test file", "package: MIT"),
    "mr_shoulder": ("MR slice of a shoulder, DICOM test image", "package: MIT"),
    "mr_abdomen": ("MR slice of an abdomen", "package: MIT"),
    "us_lymph_node": ("Power Doppler ultrasound of a lymph node", "package: MIT"),
    "us_heart": ("Echocardiogram, one frame", "package: MIT"),
    "us_pelvis": ("Ultrasound of a pelvis", "package: MIT"),
    "us_vessel": ("Color Doppler, transesophageal echocardiogram", "package: MIT"),
    "us_cine": ("Echocardiogram, a loop of 120 frames", "package: MIT"),
    "mni152": (
        "MNI ICBM152 2009a nonlinear symmetric template at 1 mm: T1, gray and white matter maps",
        "(C) 1993-2009 L. Collins, McConnell Brain Imaging Centre, MNI, McGill University: free to use, copy, modify "
        "and distribute for any purpose, with this notice; package: BSD-3-Clause",
    ),
}


def versions() -> dict[str, str]:
    """Versions of the packages that ship the pictures or make pixels of them."""
    return {name: version(name) for name in sorted({*_PACKAGES.values(), *_ALSO})}


def about() -> str:
    """What is to be known about the data set before its numbers, as Markdown."""
    return _TEXT.format(sources=_sources())


def _sources() -> str:
    files = {name.split()[0]: (module, file) for name, module, file in shipped_files()}
    lines = ["| source | what it is | shipped by | terms |", "|---|---|---|---|"]
    for source, (what, terms) in ORIGINS.items():
        module, file = files[source]
        lines.append(f"| {source} | {what} | {_PACKAGES[module]}, `{file.rsplit('/', 1)[-1]}` | {terms} |")
    return "\n".join(lines)


_TEXT = """# UniMed-Mini

Real medical pictures of 128 x 128 pixels, cut from public images that Python packages ship, with questions,
captions and image pairs that are true by construction. Made by `python -m unimedvl.data build mini`, without a
download. For trying and testing the framework; **for research only**, far too small to learn medicine from.

Six of the paper's eight modalities are here. **Optical coherence tomography and endoscopy are not**: no Python package
ships such an image. XR is a radiograph of a leg; the paper's list has chest radiographs (CXR) only.

## Splits

No pixel of a validation or test view is in a training view:

- single pictures (all but the two below): bands across the longer side, test between two bands of training, 2 % of the
  side apart;
- the ultrasound loop: blocks of frames, 5 frames apart. The heart beats on, so test frames resemble training frames;
- the MNI152 volume: each plane cuts a part of the brain of its own (axial: above 84 mm of the volume; coronal: below
  81 mm, the front; sagittal: below 81 mm, the back), so slices of different planes never cross. In each plane blocks of
  3 slices are for test and for validation, 3 mm away from training slices, which they resemble. The template is
  symmetric, so sagittal slices are of one half only: the other half's would be the same pictures.

`images.jsonl` gives the region of every view, and what was done to its pixels. Views come from few patients (18
sources, one subject each, the template an average of 152): a test score says that the framework learns, nothing about
patients.

## Tasks

- **vqa, caption, t2i**: modality, body part, plane, position and side come from the files' headers, what the whole
  picture shows and the geometry of the crop; a small crop need not show what makes its body part known. Yes and no are
  equally likely. The side of a chest crop is the patient's.
- **text**: facts about imaging; test wordings never occur in training.
- **super_resolution**: a quarter of the sides by bicubic interpolation, shown at full size by nearest neighbor.
- **segmentation**: gray matter at probability over 0.5, the lowest threshold at which no voxel is gray and white matter
  at once (1,080 ml; at 0.4 the two overlap by 157 ml); checked again at every build.
- **staining**: the hematoxylin channel by color deconvolution (Ruifrok and Johnston) to the stained image.
- **cross_modal**: a T1 weighted slice to its white matter map.
- **counterfactual**: **synthetic**. A smooth blob is rendered into a real crop of a lung or taken away; it is not a
  disease.

`tokenizer/` holds a small tokenizer learned from the training texts.

## Sources

{sources}

Candidates from these sources pass the filters of curation, which drop some near duplicates (frames of a loop,
neighboring slices) and a training slice that is as good as equal to a held-out one.

DICOM headers were read for orientation and windows and are not copied. Burned-in text is cropped away. "package" terms
are those of the package; where it states none for the picture itself, treat the picture as test data of its project.
"""
