"""UniMedVL: medical image understanding and generation with one model. For research, not for diagnosis."""

__version__ = "0.1.0"
