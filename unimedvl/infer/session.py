"""Sessions: contexts that grow, fork and are cut, many at a time in one packed forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from unimedvl.data.packing import pack
from unimedvl.errors import DataError
from unimedvl.model.cache import CacheRow, KVCache
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.types import ModelOutput, PackedBatch, Segment, SpecialTokens


@dataclass(frozen=True)
class Mark:
    """A place in a session to come back to: tokens in the cache, and the position that follows them."""

    length: int
    position: int


class Session:
    """One context: a row of the cache, and the rotary position at which it goes on."""

    def __init__(self, row: CacheRow, position: int = 0) -> None:
        self.row = row
        self.position = position

    def __len__(self) -> int:
        """Tokens of context."""
        return len(self.row)

    def mark(self) -> Mark:
        """The present end."""
        return Mark(len(self.row), self.position)

    def truncate(self, mark: Mark) -> None:
        """Go back to an earlier end."""
        self.row.truncate(mark.length)
        self.position = mark.position

    def fork(self, capacity: int) -> Session:
        """A session that continues this one on its own, with room for ``capacity`` more tokens; copies nothing."""
        return Session(self.row.fork(capacity), self.position)

    def close(self) -> None:
        """Give its part of the cache back."""
        self.row.close()


class Engine:
    """Runs sessions on a model.

    Args:
        model: in eval mode, on its device.
        special: the tokenizer's control tokens.
    """

    def __init__(self, model: UniMedVL, special: SpecialTokens) -> None:
        self.model = model
        self.special = special

    def cache(self, slots: int) -> KVCache:
        """A cache for this model with room for ``slots`` tokens of all its sessions together."""
        model = self.model
        return KVCache(model.config.llm, slots, dtype=model.dtype, devices=model.layer_devices)

    def pack(
        self,
        sessions: Sequence[Session],
        parts: Sequence[Sequence[Segment]],
        logits: Literal["none", "last"] = "none",
    ) -> PackedBatch:
        """The segments that follow each session, packed at its position, on the model's device.

        Raises:
            DataError: a context would outgrow the positions that the model was made for.
        """
        batch = pack(
            [tuple(part) for part in parts],
            self.model.config,
            self.special,
            start_positions=[session.position for session in sessions],
            logits=logits,
        )
        limit = self.model.config.llm.max_position_embeddings
        if max(batch.next_positions) > limit:
            raise DataError(
                f"the context would reach position {max(batch.next_positions)}, the model was made for {limit}",
                where="prompt",
                remedy="shorten the text or ask for fewer new tokens",
            )
        return batch.to(self.model.device, non_blocking=True)

    @torch.inference_mode()
    def run(self, sessions: Sequence[Session], batch: PackedBatch) -> ModelOutput:
        """One forward over all sessions; each goes on behind what it was given, noised images leave no trace."""
        output = self.model(batch, [session.row for session in sessions])
        for session, position in zip(sessions, batch.next_positions, strict=True):
            session.position = position
        return output

    def append(
        self,
        sessions: Sequence[Session],
        parts: Sequence[Sequence[Segment]],
        logits: Literal["none", "last"] = "none",
    ) -> ModelOutput | None:
        """Put segments behind the sessions, all in one forward; sessions with nothing to add are left alone.

        Returns:
            the output for the sessions that had segments, in order; None if none had.
        """
        pairs = [(session, part) for session, part in zip(sessions, parts, strict=True) if part]
        if not pairs:
            return None
        active = [session for session, _ in pairs]
        return self.run(active, self.pack(active, [part for _, part in pairs], logits))
