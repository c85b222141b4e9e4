"""Errors that a user can act on: what was wrong, where it stood, what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any


class UniMedVLError(Exception):
    """Base of the project's errors; prints as one line.

    Args:
        problem: what was wrong, with the offending value.
        remedy: what to do about it, as an imperative clause. Left out only by those who raise an error again from
            its text, as torch does with errors of its workers.
        where: file, field or argument in which the value stood.
    """

    def __init__(self, problem: str, *, remedy: str = "", where: str | None = None) -> None:
        self.problem = problem
        self.remedy = remedy
        self.where = where
        super().__init__(f"{problem}{f' ({where})' if where else ''}{f'; {remedy}' if remedy else ''}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive the way from a worker process."""
        return partial(type(self), remedy=self.remedy, where=self.where), (self.problem,)


class ConfigError(UniMedVLError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(UniMedVLError):
    """A sample, an image or a packed batch that the model cannot take."""


class CheckpointError(UniMedVLError):
    """A checkpoint that is absent, damaged, or does not fit the model."""


def exit_code(command: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """Run a command line's command; the exit code: its own or 0, 2 for what a user can mend, 130 when interrupted.

    Args:
        interrupted: what to say then.
    """
    try:
        return command() or 0
    except UniMedVLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror or error}{where}; give another file or folder", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
