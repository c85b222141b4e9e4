"""Floating point operations of one training step, from the lengths in a packed batch.

Counted are the matrix products and the attention, two operations per multiply and add. Left out is what is linear in
tokens times width (norms, rotary embedding, activations, softmax, residuals, losses, lookups, optimizer), under 1 % of
a step at published sizes, the autoencoder, and logits that a batch asks for without a loss.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from unimedvl.config import ModelConfig
from unimedvl.model.flow import TimestepEmbedder
from unimedvl.model.layout import documents_of
from unimedvl.model.recompute import Checkpointing
from unimedvl.train.parts import check_frozen
from unimedvl.types import PackedBatch, Split

# Matrix products of attention: scores and values forward; scores again and the gradients of values, weights, queries
# and keys backward, as kernels do that keep no scores (FlashAttention-2, section 3.1).
_FORWARD, _BACKWARD = 2, 5


def batch_flops(
    config: ModelConfig, batch: PackedBatch, *, frozen: Collection[str] = (), recompute: Checkpointing = "none"
) -> float:
    """Floating point operations of forward, backward and recomputation of one packed batch.

    Only lengths are read, no values: the batch may lie on any device, meta included.

    Args:
        frozen: parts (:data:`~unimedvl.train.parts.PARTS`) without weight gradients; where nothing before a product
            is trained, it needs no gradient of its input either.
        recompute: the checkpointing of decoder and vision encoder. ``selective`` keeps every product, so only ``full``
            adds any.

    Raises:
        ConfigError: a name in ``frozen`` is no part.
    """
    check_frozen(frozen)
    own = ["und", *(["vit", "connector"] * config.visual_und), *(["gen", "flow"] * config.visual_gen)]
    trained = set(own) - set(frozen)
    decoder = _Decoder(config, batch, trained)
    again = 0
    if recompute == "full":
        again += decoder.recomputed() if trained else 0
        again += _vision_recomputed(config, batch) if "vit" in trained else 0
    return float(_vision(config, batch, trained) + _flow(config, batch, trained) + decoder.step() + again)


def visible_pairs(splits: Sequence[Split]) -> int:
    """(query, key) pairs that see each other under the packed mask, see :func:`unimedvl.model.layout.sees`."""
    pairs = 0
    for document in documents_of(splits):
        earlier = 0
        for length, mode in document.splits:
            pairs += length * earlier + (length * (length + 1) // 2 if mode == "causal" else length**2)
            if mode != "noise":
                earlier += length
    return pairs


def _product(rows: int, inputs: int, outputs: int, *, weight: bool, source: bool) -> int:
    """A linear layer's products: forward, and the gradients of its ``weight`` and of its ``source`` if they exist."""
    return 2 * rows * inputs * outputs * (1 + weight + source)


def _attention(pairs: int, width: int, *, backward: bool) -> int:
    return 2 * pairs * width * (_FORWARD + _BACKWARD * backward)


def _vision(config: ModelConfig, batch: PackedBatch, trained: set[str]) -> int:
    """Encoder and connector."""
    vit, hidden, patches = config.vit, config.llm.hidden_size, len(batch.vit_index)
    width, tuned, connected = vit.hidden_size, "vit" in trained, "connector" in trained
    pairs = sum(length**2 for length in batch.vit_lengths)
    layer = _product(patches, width, 4 * width + 2 * vit.intermediate_size, weight=tuned, source=tuned)
    layer += _attention(pairs, width, backward=tuned)
    return (
        _product(patches, vit.patch_dim, width, weight=tuned, source=False)
        + vit.num_hidden_layers * layer
        + _product(patches, width, hidden, weight=connected, source=tuned)
        + _product(patches, hidden, hidden, weight=connected, source=tuned or connected)
    )


def _vision_recomputed(config: ModelConfig, batch: PackedBatch) -> int:
    """Forward of the encoder's layers once more, except the last product of each."""
    vit, patches = config.vit, len(batch.vit_index)
    width = vit.hidden_size
    products = 2 * patches * width * (4 * width + vit.intermediate_size)
    pairs = sum(length**2 for length in batch.vit_lengths)
    return vit.num_hidden_layers * (products + _attention(pairs, width, backward=False))


def _flow(config: ModelConfig, batch: PackedBatch, trained: set[str]) -> int:
    """Latents in, velocity out, time embedding."""
    if not config.visual_gen:
        return 0
    hidden, tuned, images = config.llm.hidden_size, "flow" in trained, len(batch.latent_shapes)
    return (
        _product(len(batch.latent_index), config.latent_dim, hidden, weight=tuned, source=False)
        + _product(len(batch.velocity_index), hidden, config.latent_dim, weight=tuned, source=bool(trained))
        + _product(images, TimestepEmbedder.features, hidden, weight=tuned, source=False)
        + _product(images, hidden, hidden, weight=tuned, source=tuned)
    )


class _Decoder:
    """Layers of both experts, and the head of the rows with a loss."""

    def __init__(self, config: ModelConfig, batch: PackedBatch, trained: set[str]) -> None:
        self.llm, self.trained = config.llm, trained
        self.rows = {"und": len(batch.text_index) + len(batch.vit_index)}
        if config.visual_gen:
            self.rows["gen"] = len(batch.latent_index)
        self.pairs = visible_pairs(batch.splits)
        self.loss_rows = len(batch.ce_index)

    def step(self) -> int:
        """Forward and backward."""
        # Below the first layer only what is trained asks for gradients; above it attention has mixed the streams.
        below = {"und": {"und", "vit", "connector"}, "gen": {"gen", "flow"}}
        layers = 0
        for expert, rows in self.rows.items():
            gradients = self.llm.num_hidden_layers * [bool(self.trained)]
            gradients[0] = bool(below[expert] & self.trained)
            layers += sum(self._layer(rows, expert, source) for source in gradients)
        backward = bool(self.trained)
        layers += self.llm.num_hidden_layers * _attention(self.pairs, self.llm.hidden_size, backward=backward)
        return layers + self._head(backward)

    def recomputed(self) -> int:
        """Forward of the layers once more, except the very last product, of which the backward needs nothing."""
        rows, last = list(self.rows.values()), list(self.rows.values())[-1]
        hidden, inner = self.llm.hidden_size, self.llm.intermediate_size
        layer = sum(rows) * self._weights() - last * inner * hidden
        return self.llm.num_hidden_layers * (2 * layer + _attention(self.pairs, hidden, backward=False))

    def _weights(self) -> int:
        """Entries of the matrices of one expert in one layer."""
        hidden, keys = self.llm.hidden_size, self.llm.num_key_value_heads * self.llm.head_dim
        return 2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * self.llm.intermediate_size

    def _layer(self, rows: int, expert: str, source: bool) -> int:
        """One expert's products in one layer; ``source``: queries, keys and values pass gradients on."""
        hidden, keys = self.llm.hidden_size, self.llm.num_key_value_heads * self.llm.head_dim
        first = hidden * (hidden + 2 * keys)
        tuned, later = expert in self.trained, bool(self.trained)
        return 2 * rows * (first * (1 + tuned + source) + (self._weights() - first) * (1 + tuned + later))

    def _head(self, backward: bool) -> int:
        """Logits forward; in the backward they are made again, chunk by chunk, for the gradient of the hidden rows."""
        products = 1 + (2 + ("und" in self.trained)) * backward
        return 2 * self.loss_rows * self.llm.hidden_size * self.llm.vocab_size * products
