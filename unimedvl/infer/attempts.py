"""Calls of which some may fail: each gives its result, or the line that says why there is none."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from unimedvl.errors import UniMedVLError
from unimedvl.infer.pipeline import UniMedVLPipeline
from unimedvl.infer.requests import Result
from unimedvl.infer.tasks import Call

logger = logging.getLogger(__name__)


def attempts(pipe: UniMedVLPipeline, calls: Sequence[Call | str]) -> Iterator[Result | str]:
    """Results of the calls together; one by one if together they fail, so that only the culprits do.

    Args:
        calls: a string stands for a call that could not be read; it is handed on.
    """
    try:
        results: list[Result] | None = pipe.perform([call for call in calls if isinstance(call, Call)])
    except Exception:  # found again, and recorded, when its call runs alone
        results = None
    together = iter(results or ())
    for call in calls:
        if isinstance(call, str):
            yield call
        elif results is not None:
            yield next(together)
        else:
            yield _alone(pipe, call)


def _alone(pipe: UniMedVLPipeline, call: Call) -> Result | str:
    try:
        return pipe.perform([call])[0]
    except Exception as error:  # recorded; the others go on
        return said(error)


def said(error: Exception) -> str:
    """An error as one line; one that is not ours, and so perhaps a fault of the program, is also logged in full."""
    if not isinstance(error, UniMedVLError):
        logger.warning("a row failed unexpectedly", exc_info=error)
    line = (str(error).splitlines() or [""])[0]
    return line if isinstance(error, UniMedVLError) else f"{type(error).__name__}: {line}"
