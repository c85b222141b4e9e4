"""Sizes of the model as checked dataclasses, and the named presets.

Each part refuses values that cannot work when it is constructed, so a bad override fails before
anything is built or loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from unimedvl.errors import ConfigError
from unimedvl.settings import build

if TYPE_CHECKING:
    from torch import Tensor

PositionMode = Literal["extrapolate", "interpolate"]

# A larger side is pixels taken for patches: the table would have over 16 million rows.
_LARGEST_SIDE = 4096


def _require_positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        whole = type(config).__dataclass_fields__[name].type == "int"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or value <= 0:
            raise ConfigError(
                f"{name} is {value!r}",
                where=type(config).__name__,
                remedy=f"give a positive {'integer' if whole else 'number'}",
            )


def _require_multiple(config: object, name: str, divisor_name: str) -> None:
    value, divisor = getattr(config, name), getattr(config, divisor_name)
    if value % divisor:
        raise ConfigError(
            f"{name} {value} is not a multiple of {divisor_name} {divisor}",
            where=type(config).__name__,
            remedy=f"choose {name} divisible by {divisor_name}",
        )


@dataclass(frozen=True)
class LlmConfig:
    """Qwen2.5 decoder. Both experts of the mixture of transformers have these sizes."""

    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    vocab_size: int = 152064
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 32768

    def __post_init__(self) -> None:
        _require_positive(self, *self.__dataclass_fields__)
        _require_multiple(self, "hidden_size", "num_attention_heads")
        _require_multiple(self, "num_attention_heads", "num_key_value_heads")
        if self.head_dim % 2:
            raise ConfigError(
                f"head size {self.head_dim} is odd",
                where="LlmConfig",
                remedy="rotary embedding needs hidden_size / num_attention_heads to be even",
            )

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class VitConfig:
    """SigLIP vision encoder over packed patches.

    ``num_hidden_layers`` counts the layers that run; the published ``vit_config.json`` names one
    more, which the published model drops. ``max_side`` is the side of the learned position table.
    """

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 26
    num_attention_heads: int = 16
    num_channels: int = 3
    patch_size: int = 14
    max_side: int = 70
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        _require_positive(self, *self.__dataclass_fields__)
        _require_multiple(self, "hidden_size", "num_attention_heads")

    @property
    def patch_dim(self) -> int:
        """Values in one flattened patch."""
        return self.patch_size**2 * self.num_channels


@dataclass(frozen=True)
class VaeConfig:
    """FLUX autoencoder: sizes, and the affine map from posterior samples to latents."""

    base_channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    latent_channels: int = 16
    scale_factor: float = 0.3611
    shift_factor: float = 0.1159
    norm_groups: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "channel_multipliers", tuple(self.channel_multipliers))
        names = [name for name in self.__dataclass_fields__ if name not in ("channel_multipliers", "shift_factor")]
        _require_positive(self, *names)
        _require_multiple(self, "base_channels", "norm_groups")
        if not self.channel_multipliers or min(self.channel_multipliers) < 1:
            raise ConfigError(
                f"channel_multipliers is {self.channel_multipliers}",
                where="VaeConfig",
                remedy="give one positive integer per resolution",
            )

    @property
    def downsample(self) -> int:
        """Pixels per latent along one side."""
        return 2 ** (len(self.channel_multipliers) - 1)

    def scaled(self, z: Tensor) -> Tensor:
        """Latents of posterior samples: scale * (z - shift)."""
        return self.scale_factor * (z - self.shift_factor)


@dataclass(frozen=True)
class ModelConfig:
    """The whole model.

    ``visual_und`` and ``visual_gen`` tell which halves exist: without ``visual_und`` there is no
    vision encoder, without ``visual_gen`` neither gen expert nor flow head.
    """

    llm: LlmConfig = field(default_factory=LlmConfig)
    vit: VitConfig = field(default_factory=VitConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)
    latent_patch_size: int = 2
    max_latent_size: int = 64
    position_mode: PositionMode = "extrapolate"
    visual_und: bool = True
    visual_gen: bool = True

    def __post_init__(self) -> None:
        _require_positive(self, "latent_patch_size", "max_latent_size")
        for name, side in (("max_latent_size", self.max_latent_size), ("vit.max_side", self.vit.max_side)):
            if side > _LARGEST_SIDE:
                raise ConfigError(
                    f"{name} is {side}",
                    where="ModelConfig",
                    remedy=f"give the side in patches, at most {_LARGEST_SIDE}",
                )
        if self.position_mode not in ("extrapolate", "interpolate"):
            raise ConfigError(
                f"position_mode is {self.position_mode!r}",
                where="ModelConfig",
                remedy="use 'extrapolate' or 'interpolate'",
            )
        if self.llm.hidden_size % 4:
            raise ConfigError(
                f"hidden_size {self.llm.hidden_size} is not a multiple of 4",
                where="LlmConfig",
                remedy="the 2-D sin-cos position tables split it in four",
            )

    @property
    def latent_dim(self) -> int:
        """Values in one latent token: patch side squared times latent channels."""
        return self.latent_patch_size**2 * self.vae.latent_channels

    @property
    def latent_stride(self) -> int:
        """Pixels per latent token along one side."""
        return self.latent_patch_size * self.vae.downsample

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "model config") -> ModelConfig:
        """The config whose ``dataclasses.asdict`` is ``values``; missing keys keep their defaults.

        Raises:
            ConfigError: a key is unknown, or a value cannot work.
        """
        return build(cls, values, where)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> ModelConfig:
        """The preset called ``name``, with top-level fields replaced by ``changes``.

        Raises:
            ConfigError: no preset has that name.
        """
        if name not in PRESETS:
            raise ConfigError(
                f"no model is called {name!r}", where="preset", remedy=f"use one of {', '.join(sorted(PRESETS))}"
            )
        return replace(PRESETS[name], **changes)


PRESETS: dict[str, ModelConfig] = {
    # The published 14.6 B model.
    "7b_mot": ModelConfig(),
    # The size of the reference values in tests/golden.
    "tiny": ModelConfig(
        llm=LlmConfig(
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=448,
            max_position_embeddings=4096,
        ),
        vit=VitConfig(hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, max_side=10),
        vae=VaeConfig(base_channels=32, channel_multipliers=(1, 1, 2, 2), num_res_blocks=1, latent_channels=4),
        max_latent_size=16,
    ),
    # A model that trains on a CPU in minutes.
    "nano": ModelConfig(
        llm=LlmConfig(
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=2,
            vocab_size=2048,
            max_position_embeddings=4096,
        ),
        vit=VitConfig(hidden_size=96, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4, max_side=20),
        # Groups of at least four channels: norms of single channels would take brightness and color away.
        vae=VaeConfig(
            base_channels=32, channel_multipliers=(1, 1, 2, 2), num_res_blocks=1, latent_channels=8, norm_groups=8
        ),
        max_latent_size=16,
    ),
}
