"""UniMedVL: medical image understanding and generation with one model. For research, not for diagnosis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unimedvl.infer.pipeline import UniMedVLPipeline as UniMedVLPipeline

__version__ = "0.1.0"
__all__ = ["NOTICE", "UniMedVLPipeline", "__version__"]

NOTICE = "For research use only. Not for diagnosis."


def __getattr__(name: str) -> Any:
    """Import the pipeline when it is asked for: it stands on libraries that take seconds to import."""
    if name == "UniMedVLPipeline":
        from unimedvl.infer.pipeline import UniMedVLPipeline

        return UniMedVLPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
