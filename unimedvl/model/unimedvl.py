"""The model: embed, mixture of transformers, heads. One forward for training and inference.

Shape letters as in :mod:`unimedvl.types`; D hidden size, U und tokens (text and ViT), G gen tokens (latents).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Sequence
from functools import partial
from typing import get_args

import torch
from torch import Tensor, nn

from unimedvl.config import ModelConfig
from unimedvl.errors import ConfigError, DataError
from unimedvl.model.attention import AttentionPlan, choose_backend, make_plan
from unimedvl.model.cache import CacheRow
from unimedvl.model.flow import PositionTable, TimestepEmbedder, interpolate
from unimedvl.model.layout import Document, documents_of, image_documents
from unimedvl.model.meta import on_meta
from unimedvl.model.mot import GEN, LanguageModel, Stage, Streams, rotary_factors
from unimedvl.model.recompute import Checkpointing
from unimedvl.model.vit import Connector, VisionEncoder
from unimedvl.types import ModelOutput, PackedBatch

logger = logging.getLogger(__name__)


class UniMedVL(nn.Module):
    """Medical image understanding and generation with one set of weights (paper section 3.2).

    Args:
        config: sizes, and which halves exist.
        attention: ``auto``, ``sdpa``, ``flex`` or ``varlen``; ``auto`` picks by device and logs its choice.
    """

    def __init__(self, config: ModelConfig, attention: str = "auto") -> None:
        super().__init__()
        self.config = config
        self.attention = attention
        hidden = config.llm.hidden_size
        self.language_model = LanguageModel(config.llm, ("", GEN) if config.visual_gen else ("",))
        if config.visual_und:
            self.vit_model = VisionEncoder(config.vit)
            self.connector = Connector(config.vit.hidden_size, hidden)
            self.vit_pos_embed = PositionTable(config.vit.max_side, hidden)
        if config.visual_gen:
            self.time_embedder = TimestepEmbedder(hidden)
            self.vae2llm = nn.Linear(config.latent_dim, hidden)
            self.llm2vae = nn.Linear(hidden, config.latent_dim)
            self.latent_pos_embed = PositionTable(config.max_latent_size, hidden)

    @classmethod
    def initialized(
        cls,
        config: ModelConfig,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        attention: str = "auto",
    ) -> UniMedVL:
        """A model with fresh weights that depend on ``seed`` alone (see :meth:`init_missing`)."""
        with on_meta():
            model = cls(config, attention)
        model.init_missing(torch.Generator(device).manual_seed(seed), dtype)
        return model

    @torch.no_grad()
    def init_missing(self, generator: torch.Generator, dtype: torch.dtype) -> None:
        """Fill the modules that are still on the meta device, on the generator's device.

        Matrices are normal(0, 0.02), norms one, biases and the velocity head zero; the gen expert starts as a copy
        of the und expert (paper section 3.3).
        """
        waiting = {name for name, tensor in self.state_dict().items() if tensor.is_meta}
        for name, module in self.named_modules():
            if any(tensor.is_meta for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
                module.to_empty(device=generator.device, recurse=False)
                module.to(dtype)
                if GEN not in name:
                    self._init_module(module, generator)
        self._copy_und_to_gen(waiting)

    def _init_module(self, module: nn.Module, generator: torch.Generator) -> None:
        if isinstance(module, PositionTable):
            module.reset(generator.device, self.dtype)
        elif isinstance(module, nn.RMSNorm | nn.LayerNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Linear | nn.Embedding):
            if module is getattr(self, "llm2vae", None):
                nn.init.zeros_(module.weight)
            else:
                nn.init.normal_(module.weight, std=0.02, generator=generator)
        if isinstance(bias := getattr(module, "bias", None), Tensor):
            nn.init.zeros_(bias)

    def _copy_und_to_gen(self, names: Collection[str]) -> None:
        """Give those tensors of the gen expert that are in ``names`` the values of the und expert's."""
        parameters = dict(self.named_parameters())
        for name, parameter in parameters.items():
            if GEN in name and name in names:
                parameter.copy_(parameters[name.replace(GEN, "")])

    @property
    def device(self) -> torch.device:
        """Where batches go: the token embedding's device, or the one on which an offloaded embedding runs."""
        return _runs_on(self.language_model.model.embed_tokens)

    @property
    def layer_devices(self) -> list[torch.device]:
        """Where each decoder layer runs, and keeps its keys and values."""
        return [_runs_on(layer) for layer in self.language_model.model.layers]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the token embedding, in which hidden states are computed."""
        return self.language_model.model.embed_tokens.weight.dtype

    def forward(
        self,
        batch: PackedBatch,
        cache: Sequence[CacheRow] | None = None,
        *,
        checkpointing: Checkpointing = "none",
    ) -> ModelOutput:
        """Run one packed batch.

        Without a cache every module runs, on zero rows where the batch has none of its kind, so that ranks that
        share sharded parameters gather the same ones in the same order. With a cache (one row per sample) the new
        tokens are written behind the rows' contexts, attend to them, and experts without tokens are skipped;
        rows advance by their new tokens, except that a noised image leaves no trace. No gradients flow then.

        Args:
            batch: on the model's device, its latents encoded.
            cache: the contexts that the samples continue, in order.
            checkpointing: what the backward recomputes, see :func:`~unimedvl.model.recompute.layer_runner`.

        Raises:
            ConfigError: the batch holds images for a half that the model lacks, or the backend cannot serve it.
            DataError: latents are not encoded yet, rows do not match, or an id or index is out of range.
        """
        self._check(batch, cache)
        if checkpointing not in get_args(Checkpointing):
            raise ConfigError(
                f"checkpointing is {checkpointing!r}",
                where="forward",
                remedy=f"use {', '.join(get_args(Checkpointing))}",
            )
        try:
            with torch.set_grad_enabled(torch.is_grad_enabled() and cache is None):
                return self._forward(batch, cache, checkpointing)
        except (IndexError, RuntimeError):
            if self.device.type == "cpu":
                batch.validate(self.config)  # names the culprit if the batch is at fault
            raise

    def _forward(
        self, batch: PackedBatch, cache: Sequence[CacheRow] | None, checkpointing: Checkpointing
    ) -> ModelOutput:
        documents = documents_of(batch.splits, cache)
        # 1. Embed each kind of token with its own module: und (U, D), gen (G, D).
        und_index, und_order = torch.cat([batch.text_index, batch.vit_index]).sort()
        und, gen = self._embed_und(batch, und_order, cache, checkpointing), self._embed_gen(batch, cache)
        # 2. Decode both streams.
        stage_on = functools.cache(partial(self._stage, batch, documents, und_index, cache))
        hidden = self.language_model.model(Streams(und, gen), stage_on, checkpointing)
        # 3. Read off what the batch asks for.
        output = self._heads(batch, hidden, und_index, lockstep=cache is None)
        for row, document in zip(cache or (), documents, strict=cache is not None):
            if "noise" not in {mode for _, mode in document.splits}:
                row.advance(document.length)
        return output

    def _embed_und(
        self, batch: PackedBatch, und_order: Tensor, cache: Sequence[CacheRow] | None, checkpointing: Checkpointing
    ) -> Tensor:
        """Text and ViT tokens in sequence order, (U, D)."""
        text_ND = self.language_model.model.embed_tokens(batch.text_ids)
        if not self.config.visual_und or (cache is not None and not batch.vit_lengths):
            return text_ND
        vit = self.config.vit
        head_dim = vit.hidden_size // vit.num_attention_heads
        plan = self._plan(image_documents(batch.vit_lengths), self.device, head_dim)
        patches = batch.vit_patches.to(self.dtype)
        vit_VD = self.connector(self.vit_model(patches, batch.vit_position_ids, plan, checkpointing))
        vit_VD = vit_VD + self.vit_pos_embed(batch.vit_position_ids)
        return torch.cat([text_ND, vit_VD]).index_select(0, und_order)

    def _embed_gen(self, batch: PackedBatch, cache: Sequence[CacheRow] | None) -> Tensor | None:
        """Latent tokens (G, D); None when the gen expert need not run."""
        if not self.config.visual_gen or (cache is not None and not batch.latent_shapes):
            return None
        latents = batch.latents
        if batch.noise is not None:
            token_timesteps = batch.timesteps.index_select(0, batch.latent_image)[:, None]
            latents = interpolate(latents, batch.noise, token_timesteps)
        time_ID = self.time_embedder(batch.timesteps)
        positions_GD = self.latent_pos_embed(batch.latent_position_ids)
        return self.vae2llm(latents.to(self.dtype)) + time_ID.index_select(0, batch.latent_image) + positions_GD

    def _stage(
        self,
        batch: PackedBatch,
        documents: list[Document],
        und_index: Tensor,
        cache: Sequence[CacheRow] | None,
        device: torch.device,
    ) -> Stage:
        llm = self.config.llm
        und_index, gen_index = und_index.to(device), batch.latent_index.to(device)
        cos, sin = rotary_factors(batch.position_ids.to(device), llm.head_dim, llm.rope_theta, self.dtype)
        only_und = not len(gen_index) and (cache is not None or not self.config.visual_gen)
        return Stage(
            order=None if only_und else torch.cat([und_index, gen_index]).argsort(),
            und_index=und_index,
            gen_index=gen_index,
            cos=cos,
            sin=sin,
            plan=self._plan(documents, device, llm.head_dim),
            write=_keep_as_is if cache is None else _cache_writer(documents, cache, device),
        )

    def _heads(self, batch: PackedBatch, hidden: Streams, und_index: Tensor, *, lockstep: bool) -> ModelOutput:
        def und_rows(index: Tensor) -> Tensor:
            return hidden.und.index_select(0, torch.searchsorted(und_index, index))

        head = self.language_model.lm_head
        logits = ce = velocity = squared_error = None
        if len(batch.logit_index):
            logits = head(und_rows(batch.logit_index))
        if len(batch.ce_index) or lockstep:
            ce = head(und_rows(batch.ce_index), batch.ce_labels)
        if hidden.gen is not None and (len(batch.velocity_index) or lockstep):
            gen_rows = torch.searchsorted(batch.latent_index, batch.velocity_index)
            velocity = self.llm2vae(hidden.gen.index_select(0, gen_rows))
            if batch.noise is not None:
                target = (batch.noise - batch.latents).index_select(0, gen_rows)
                squared_error = (velocity.float() - target).square()
        elif lockstep and not batch.latent_shapes:
            squared_error = hidden.und.new_zeros(0, self.config.latent_dim, dtype=torch.float32)
        return ModelOutput(logits, velocity, ce, batch.ce_weights if ce is not None else None, squared_error)

    def _plan(self, documents: list[Document], device: torch.device, head_dim: int) -> AttentionPlan:
        training = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        backend, reason = choose_backend(self.attention, device, self.dtype, head_dim, training=training)
        _announce(backend, reason)
        return make_plan(backend, documents, device)

    def _check(self, batch: PackedBatch, cache: Sequence[CacheRow] | None) -> None:
        """Refuse what can be told from the host alone."""
        if batch.text_ids.device != self.device:
            raise DataError(
                f"the batch is on {batch.text_ids.device}, the model on {self.device}",
                where="packed batch",
                remedy="move it with batch.to(model.device)",
            )
        for half, present, count in (
            ("visual_und", self.config.visual_und, len(batch.vit_lengths)),
            ("visual_gen", self.config.visual_gen, len(batch.latent_shapes)),
        ):
            if count and not present:
                raise ConfigError(
                    f"the batch holds {count} images for {half}, which this model was built without",
                    where="model config",
                    remedy=f"load the model with {half}=True",
                )
        if batch.pending:
            raise DataError(
                f"{len(batch.pending)} latent images hold pixels",
                where="packed batch",
                remedy="encode them first with unimedvl.model.vae.encode_latents",
            )
        if cache is not None:
            self._check_cache(batch, cache)

    def _check_cache(self, batch: PackedBatch, cache: Sequence[CacheRow]) -> None:
        if len(cache) != batch.num_documents:
            raise DataError(
                f"{len(cache)} cache rows for {batch.num_documents} samples", remedy="give one row per sample"
            )
        if len({id(row) for row in cache}) != len(cache) or len({id(row.cache) for row in cache}) != 1:
            raise DataError("the same row twice, or rows of two caches", remedy="give different rows of one cache")
        pools, llm = cache[0].cache.keys, self.config.llm
        here = (pools[0].dtype, pools[0].device, len(pools), *pools[0].shape[1:])
        first = _runs_on(self.language_model.model.layers[0])
        wanted = (self.dtype, first, llm.num_hidden_layers, llm.num_key_value_heads, llm.head_dim)
        if here != wanted:
            words = "{} on {}, {} layers, {} heads of {}"
            raise DataError(
                f"the cache is {words.format(*here)}; the model is {words.format(*wanted)}",
                where="cache",
                remedy="make the cache with the model's config, dtype and device",
            )
        noised = {split.document for split in batch.splits if split.mode == "noise"}
        mixed = noised & {split.document for split in batch.splits if split.mode != "noise"}
        if mixed:
            raise DataError(
                f"sample {min(mixed)} continues a cached context with a noised image and other segments",
                remedy="pass the noised image alone: it leaves nothing in the cache",
            )


def _runs_on(module: nn.Module) -> torch.device:
    """Device on which a module computes: that of its parameters, unless accelerate brings them elsewhere for it."""
    for part in module.modules():
        if (device := getattr(getattr(part, "_hf_hook", None), "execution_device", None)) is not None:
            return _indexed(torch.device("cuda", device) if isinstance(device, int) else torch.device(device))
    return next(module.parameters()).device


def _indexed(device: torch.device) -> torch.device:
    """``cuda`` as the tensors that lie there name it, with its index."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _keep_as_is(layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    return keys, values


def _cache_writer(documents: list[Document], rows: Sequence[CacheRow], device: torch.device):
    """Write a layer's new keys and values (T, K, d) into the rows' next slots; give back the pools."""
    pool = rows[0].cache
    slots = [slot for row, document in zip(rows, documents, strict=True) for slot in row.next_slots(document.length)]
    slot_index = torch.tensor(slots).to(device, non_blocking=True)

    def write(layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        # Under autocast the projections have another dtype than the weights, and the cache that of the weights.
        pool.keys[layer].index_copy_(0, slot_index, keys.to(pool.keys[layer].dtype))
        pool.values[layer].index_copy_(0, slot_index, values.to(pool.values[layer].dtype))
        return pool.keys[layer], pool.values[layer]

    return write


@functools.cache
def _announce(backend: str, reason: str) -> None:
    """Log each choice once."""
    logger.info("attention backend: %s (%s)", backend, reason)
