"""What flows through the framework: segments make a sample, samples make one packed batch.

Shape letters: T tokens of the packed sequence, N text tokens, V ViT patches, G latent tokens, I latent
images, E tokens with a text loss, M latent tokens with a velocity loss, L rows of logits, D documents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from unimedvl.errors import DataError

if TYPE_CHECKING:
    from unimedvl.config import ModelConfig

AttentionMode = Literal["causal", "full", "noise"]


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the four control tokens, taken from the tokenizer."""

    bos: int
    eos: int
    vision_start: int
    vision_end: int


@dataclass(frozen=True)
class TextSegment:
    """Text tokens, attended causally.

    ``token_ids`` holds everything that stands in the sequence, bos and eos included. With ``loss``, every
    token but the last predicts the one that follows it.
    """

    token_ids: tuple[int, ...]
    loss: bool = False


@dataclass(frozen=True)
class VitSegment:
    """An image for understanding: ``pixels`` float (3, H, W) in [-1, 1], sides multiples of the ViT patch."""

    pixels: Tensor


@dataclass(frozen=True)
class VaeSegment:
    """An image in latent space: clean (a condition) or noised (a target).

    Give ``pixels``, float (3, H, W) in [-1, 1], to be encoded by the autoencoder later, or ``latent``, float
    (C, h, w). With ``noise``, of the latent's shape, the model sees (1 - t) * latent + t * noise and the segment
    is a training target; without, it sees the latent as it is (a clean condition, or x_t while sampling).

    For pixels, ``eps``, standard normal of the latent's shape, samples the posterior (its mean is used without), and
    ``key`` names the moments for a cache; empty means that they are not kept.
    """

    pixels: Tensor | None = None
    latent: Tensor | None = None
    noised: bool = False
    timestep: float = 0.0
    noise: Tensor | None = None
    eps: Tensor | None = None
    key: str = ""


@dataclass(frozen=True)
class DroppedImage:
    """A condition image left out for guidance: no token, but what follows stands one position further."""


Segment = TextSegment | VitSegment | VaeSegment | DroppedImage
Sample = tuple[Segment, ...]


@dataclass(frozen=True)
class PendingImage:
    """An image of a batch that waits for the autoencoder.

    Attributes:
        image: its number among the latent images.
        pixels: float (3, H, W) in [-1, 1].
        eps: float (C, h, w) with which the posterior is sampled; None takes its mean.
        key: under which its moments may be kept; empty if they may not.
    """

    image: int
    pixels: Tensor
    eps: Tensor | None = None
    key: str = ""


@dataclass(frozen=True)
class Split:
    """A run of tokens of one document that share an attention mode."""

    document: int
    length: int
    mode: AttentionMode


@dataclass(frozen=True)
class PackedBatch:
    """Samples packed back to back into one sequence of T tokens.

    ``splits`` and ``vit_lengths`` live on the host: they shape the attention and cost no device read. Every
    ``*_index`` holds ascending positions in the packed sequence.

    Attributes:
        splits: the sequence as runs, in order; their lengths add to T.
        position_ids: int64 (T,), rotary positions.
        text_ids: int64 (N,), with their places ``text_index`` (N,).
        vit_patches: float (V, p*p*3); ``vit_position_ids`` int64 (V,), ``vit_index`` (V,), and the number
            of patches of every image in ``vit_lengths``.
        latents: float (G, P*P*C), clean latents if ``noise`` is given, otherwise x_t as the model sees it; zeros
            for images that are ``pending``. ``latent_position_ids`` int64 (G,), ``latent_index`` (G,).
        latent_image: int64 (G,), the image to which a latent token belongs; ``timesteps`` float32 (I,) in [0, 1].
        latent_shapes: (height, width) in latent tokens of every latent image, on the host.
        noise: float (G, P*P*C) or None outside training.
        velocity_index: int64 (M,), latent tokens whose velocity is predicted.
        ce_index: int64 (E,), text tokens with a loss; ``ce_labels`` int64 (E,), ``ce_weights`` float32 (E,).
        logit_index: int64 (L,), text tokens whose logits are returned.
        pending: latent images that the autoencoder must encode before the model can run.
        next_positions: position at which each sample would go on, on the host.
    """

    splits: tuple[Split, ...]
    position_ids: Tensor
    text_ids: Tensor
    text_index: Tensor
    vit_patches: Tensor
    vit_position_ids: Tensor
    vit_index: Tensor
    vit_lengths: tuple[int, ...]
    latents: Tensor
    latent_position_ids: Tensor
    latent_index: Tensor
    latent_image: Tensor
    latent_shapes: tuple[tuple[int, int], ...]
    timesteps: Tensor
    noise: Tensor | None
    velocity_index: Tensor
    ce_index: Tensor
    ce_labels: Tensor
    ce_weights: Tensor
    logit_index: Tensor
    pending: tuple[PendingImage, ...] = ()
    next_positions: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """T, the tokens of the packed sequence."""
        return len(self.position_ids)

    @property
    def num_documents(self) -> int:
        """Number of samples."""
        return self.splits[-1].document + 1 if self.splits else 0

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PackedBatch:
        """The batch with every tensor on ``device``; dtypes are kept."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PackedBatch:
        """The batch in page-locked memory, from which copies to a GPU need not wait; data loaders call this."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> PackedBatch:
        tensors = {item.name: value for item in fields(self) if isinstance(value := getattr(self, item.name), Tensor)}
        pending = tuple(
            replace(item, pixels=change(item.pixels), eps=None if item.eps is None else change(item.eps))
            for item in self.pending
        )
        return replace(self, pending=pending, **{name: change(tensor) for name, tensor in tensors.items()})

    def validate(self, config: ModelConfig) -> None:
        """Check every length, id and index against the model.

        Reads tensor values, so it belongs on the host, where the batch is made, and not in a step on a GPU.

        Raises:
            DataError: names the first field that cannot be right.
        """
        self._validate_lengths(config)
        self._validate_values(config)

    def _validate_lengths(self, config: ModelConfig) -> None:
        expected = {
            "text_ids": (len(self.text_index),),
            "vit_patches": (len(self.vit_index), config.vit.patch_dim),
            "vit_position_ids": (len(self.vit_index),),
            "latent_position_ids": (len(self.latent_index),),
            "latent_image": (len(self.latent_index),),
            "timesteps": (len(self.latent_shapes),),
            "ce_labels": (len(self.ce_index),),
            "ce_weights": (len(self.ce_index),),
            "latents": (len(self.latent_index), config.latent_dim),
        }
        if self.noise is not None:
            expected["noise"] = (len(self.latent_index), config.latent_dim)
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise DataError(
                    f"{name} has shape {tuple(getattr(self, name).shape)}, expected {shape}",
                    where="packed batch",
                    remedy="build the batch with unimedvl.data.packing.pack and this model's config",
                )
        placed = len(self.text_index) + len(self.vit_index) + len(self.latent_index)
        counts = {
            "the split lengths add to": sum(split.length for split in self.splits),
            "the text, ViT and latent indexes place": placed,
        }
        for what, count in counts.items():
            if count != self.length:
                raise DataError(
                    f"{what} {count} tokens, position_ids to {self.length}",
                    where="packed batch",
                    remedy="every token needs one split and one index",
                )
        if sum(self.vit_lengths) != len(self.vit_index):
            raise DataError(
                f"vit_lengths add to {sum(self.vit_lengths)}, vit_index has {len(self.vit_index)} patches",
                where="packed batch",
                remedy="give the number of patches of every image",
            )

    def _validate_values(self, config: ModelConfig) -> None:
        bounds = {
            "text_ids": config.llm.vocab_size,
            "ce_labels": config.llm.vocab_size,
            "vit_position_ids": config.vit.max_side**2,
            "latent_position_ids": config.max_latent_size**2,
            "latent_image": len(self.latent_shapes),
            "position_ids": config.llm.max_position_embeddings,
        }
        indexes = ("text_index", "vit_index", "latent_index", "velocity_index", "ce_index", "logit_index")
        bounds.update(dict.fromkeys(indexes, self.length))
        for name, bound in bounds.items():
            values = getattr(self, name)
            wrong = values[(values < 0) | (values >= bound)]
            if len(wrong):
                raise DataError(
                    f"{name} holds {int(wrong[0])}, outside 0..{bound - 1}",
                    where="packed batch",
                    remedy="check the tokenizer and the transforms against the model's config",
                )
        self._validate_places()

    def _validate_places(self) -> None:
        """Indexes ascend, name every token once, and point at tokens of their kind."""
        for name in ("text_index", "vit_index", "latent_index", "velocity_index", "ce_index", "logit_index"):
            if (getattr(self, name).diff() <= 0).any():
                raise DataError(f"{name} does not ascend", where="packed batch", remedy="list places in their order")
        places = torch.cat([self.text_index, self.vit_index, self.latent_index])
        if len(places.unique()) != self.length:
            raise DataError(
                "a token of the sequence is placed twice",
                where="text_index, vit_index, latent_index",
                remedy="the three indexes together must name every position once",
            )
        kinds = (("ce_index", "text_index"), ("logit_index", "text_index"), ("velocity_index", "latent_index"))
        for name, kind in kinds:
            stray = getattr(self, name)[~torch.isin(getattr(self, name), getattr(self, kind))]
            if len(stray):
                raise DataError(
                    f"{name} holds {int(stray[0])}, which is not in {kind}",
                    where="packed batch",
                    remedy="losses and logits are of text tokens, velocities of latent tokens",
                )


@dataclass(frozen=True)
class ModelOutput:
    """What one forward gives; a field is None when the batch did not ask for it.

    Losses come per token, unreduced, so that the caller divides by counts over ranks and accumulation steps. A forward
    without a cache always gives them, of zero tokens where the batch or the model has none of their kind; only a
    batch whose noised images come without noise has no ``squared_error``.

    Attributes:
        logits: (L, vocabulary), at ``batch.logit_index``.
        velocity: (M, P*P*C), at ``batch.velocity_index``.
        ce: float32 (E,), cross-entropy in nats of every loss token; ``ce_weights`` float32 (E,).
        squared_error: float32 (M, P*P*C), squared error of the velocity.
    """

    logits: Tensor | None
    velocity: Tensor | None
    ce: Tensor | None
    ce_weights: Tensor | None
    squared_error: Tensor | None

    @property
    def ce_sum(self) -> Tensor:
        """Weighted sum of the cross-entropy, float32 scalar."""
        return (_given(self.ce) * _given(self.ce_weights)).sum()

    @property
    def ce_count(self) -> Tensor:
        """Sum of the weights of the loss tokens (their number, when unweighted), float32 scalar."""
        return _given(self.ce_weights).sum()

    @property
    def mse_sum(self) -> Tensor:
        """Sum over target tokens of the squared error averaged over channels, float32 scalar."""
        return _given(self.squared_error).mean(dim=-1).sum()

    @property
    def mse_count(self) -> int:
        """Number of target tokens."""
        return len(_given(self.squared_error))


def _given(losses: Tensor | None) -> Tensor:
    if losses is None:
        raise DataError(
            "this forward made no losses",
            where="model output",
            remedy="run it without a cache, and give noised images their noise",
        )
    return losses
