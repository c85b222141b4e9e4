"""UniMed-Mini: a small real data set from public images that Python packages ship, built without a download.

Six of the paper's eight modalities: no package ships optical coherence tomography or endoscopy.
"""

from unimedvl.data.mini.build import build

__all__ = ["build"]
