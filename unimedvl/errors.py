"""Errors that a user can act on: what was wrong, where it stood, what to do."""


class UniMedVLError(Exception):
    """Base of the project's errors; prints as one line.

    Args:
        problem: what was wrong, with the offending value.
        remedy: what to do about it, as an imperative clause.
        where: file, field or argument in which the value stood.
    """

    def __init__(self, problem: str, *, remedy: str, where: str | None = None) -> None:
        self.problem = problem
        self.remedy = remedy
        self.where = where
        super().__init__(f"{problem}{f' ({where})' if where else ''}; {remedy}")


class ConfigError(UniMedVLError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(UniMedVLError):
    """A sample, an image or a packed batch that the model cannot take."""


class CheckpointError(UniMedVLError):
    """A checkpoint that is absent, damaged, or does not fit the model."""
