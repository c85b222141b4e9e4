"""Parts of the model that a stage trains or freezes as one.

=========  =====================================================================
und        the language model without the gen expert, with embedding and head
gen        the expert of latent tokens (``_moe_gen``)
vit        the vision encoder
connector  vision width to the decoder's
flow       latents in (``vae2llm``), velocity out (``llm2vae``), time embedding
=========  =====================================================================

Position tables are buffers and belong to no part; the autoencoder is always frozen and belongs to none.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from unimedvl.errors import ConfigError
from unimedvl.model.mot import GEN

PARTS: tuple[str, ...] = ("und", "gen", "vit", "connector", "flow")

_PART_OF_MODULE = {
    "language_model": "und",
    "vit_model": "vit",
    "connector": "connector",
    "vae2llm": "flow",
    "llm2vae": "flow",
    "time_embedder": "flow",
}


def part_of(name: str) -> str:
    """The part to which a parameter of :class:`~unimedvl.model.unimedvl.UniMedVL` belongs.

    Args:
        name: its name in the model.

    Raises:
        ConfigError: no part has such a parameter.
    """
    part = _PART_OF_MODULE.get(name.partition(".")[0])
    if part is None:
        raise ConfigError(
            f"parameter {name!r} belongs to no part",
            where="parts",
            remedy=f"give the name of a parameter in {', '.join(_PART_OF_MODULE)}",
        )
    return "gen" if part == "und" and GEN in name else part


def check_frozen(frozen: Collection[str]) -> None:
    """Refuse names that are no parts.

    Raises:
        ConfigError: names the first of them.
    """
    names = [frozen] if isinstance(frozen, str) else frozen
    if unknown := sorted(set(names) - set(PARTS)):
        raise ConfigError(f"no part is called {unknown[0]!r}", where="frozen", remedy=f"use {', '.join(PARTS)}")
    if isinstance(frozen, str):
        raise ConfigError(f"frozen is the word {frozen!r}", where="frozen", remedy="give a list of parts")


def freeze(model: nn.Module, frozen: Collection[str]) -> None:
    """Let the parameters of every part but the ``frozen`` ones require gradients, and only those.

    Raises:
        ConfigError: a name is no part, or nothing would be trained.
    """
    check_frozen(frozen)
    trained = {name: part_of(name) not in frozen for name, _ in model.named_parameters()}
    if not any(trained.values()):
        raise ConfigError(
            "every part that the model has is frozen", where="frozen", remedy=f"train one of {', '.join(PARTS)}"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained[name])
