"""Readers of public benchmarks, each in the form in which it is published.

A reader takes the folder or file that was downloaded, and a split, and returns rows; see :data:`READERS`. Images are
referenced, not decoded, so that reading is cheap; that their files are there is checked.
"""

from __future__ import annotations

from collections.abc import Callable

from unimedvl.eval.readers import omni_med_vqa, path_vqa, records, reports, slake, vlmevalkit, vqa_rad
from unimedvl.eval.rows import Row

Reader = Callable[..., "list[Row]"]
"""``read(path: Path, split: str = "test")``."""

READERS: dict[str, Reader] = {
    "vqa_rad": vqa_rad.read,
    "slake": slake.read,
    "path_vqa": path_vqa.read,
    "omni_med_vqa": omni_med_vqa.read,
    "gmai_mmbench": vlmevalkit.read,
    "vlmevalkit": vlmevalkit.read,
    "records": records.read,
    "reports": reports.read,
}
