"""Who attends to whom: documents of splits, and the visibility rule that every attention backend implements.

Inside its own document a token sees everything earlier, and its whole split if the split is an image; nobody
but its own split sees a noised image (paper section 3.2, figure 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from unimedvl.model.cache import CacheRow, Extent
from unimedvl.types import AttentionMode, Split


@dataclass(frozen=True)
class Document:
    """One sample as attention sees it.

    Attributes:
        start: place of its first query in the packed sequence.
        splits: (length, mode) of its runs of queries.
        keys: runs of the key pool that hold its keys in order: the cached context, then the queries' own.
    """

    start: int
    splits: tuple[tuple[int, AttentionMode], ...]
    keys: tuple[Extent, ...]

    @property
    def length(self) -> int:
        """Number of queries."""
        return sum(length for length, _ in self.splits)

    @property
    def past(self) -> int:
        """Number of cached keys, all of which every query sees."""
        return sum(count for _, count in self.keys) - self.length


def documents_of(splits: Sequence[Split], rows: Sequence[CacheRow] | None = None) -> list[Document]:
    """Group splits by document; with cache rows, document i continues row i."""
    grouped: list[list[tuple[int, AttentionMode]]] = []
    for split in splits:
        if split.document == len(grouped):
            grouped.append([])
        grouped[split.document].append((split.length, split.mode))
    documents, start = [], 0
    for number, parts in enumerate(grouped):
        length = sum(count for count, _ in parts)
        keys = rows[number].extents(length) if rows is not None else ((start, length),)
        documents.append(Document(start, tuple(parts), keys))
        start += length
    return documents


def image_documents(lengths: Sequence[int]) -> list[Document]:
    """Every image a document of its own, attended in full (the vision encoder)."""
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    return [
        Document(start, ((length, "full"),), ((start, length),)) for start, length in zip(starts, lengths, strict=True)
    ]


@dataclass(frozen=True)
class TokenLayout:
    """What decides visibility, per token: all (n,) tensors on one device.

    ``document``, ``order`` (place in the document, context included), ``split`` (unique in the batch; -1 for the
    cached context), ``image`` (its split is attended in full) and ``noise`` (its split is hidden from others).
    """

    document: Tensor
    order: Tensor
    split: Tensor
    image: Tensor
    noise: Tensor

    def to(self, device: torch.device) -> TokenLayout:
        """The layout on ``device``, sent without waiting."""
        return TokenLayout(*(getattr(self, item.name).to(device, non_blocking=True) for item in fields(self)))


def sees(query: TokenLayout, key: TokenLayout, i: Tensor, j: Tensor) -> Tensor:
    """Whether query token ``i`` sees key token ``j``; indexes broadcast. The one statement of the mask."""
    same_split = query.split[i] == key.split[j]
    reached = (key.order[j] <= query.order[i]) | (same_split & key.image[j])
    return (query.document[i] == key.document[j]) & reached & (same_split | ~key.noise[j])


def token_layout(documents: Sequence[Document], *, with_context: bool) -> TokenLayout:
    """The layout of all queries, or, ``with_context``, of all keys (each document's context first)."""
    runs: list[tuple[int, int, int, int, bool, bool]] = []  # length, document, first order, split, image, noise
    split_id = 0
    for number, document in enumerate(documents):
        order = document.past
        if with_context:
            runs.append((order, number, 0, -1, False, False))
        for length, mode in document.splits:
            runs.append((length, number, order, split_id, mode != "causal", mode == "noise"))
            order += length
            split_id += 1
    lengths = torch.tensor([run[0] for run in runs], dtype=torch.int64)
    total = sum(run[0] for run in runs)
    starts = lengths.cumsum(0) - lengths

    def spread(values: list[int] | list[bool], dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.tensor(values, dtype=dtype).repeat_interleave(lengths, output_size=total)

    first_order = spread([run[2] for run in runs])
    return TokenLayout(
        document=spread([run[1] for run in runs]),
        order=first_order + torch.arange(total) - starts.repeat_interleave(lengths, output_size=total),
        split=spread([run[3] for run in runs]),
        image=spread([run[4] for run in runs], torch.bool),
        noise=spread([run[5] for run in runs], torch.bool),
    )


def dense_mask(document: Document) -> Tensor:
    """Bool (queries, keys) of one document on the host, true where a query sees a key."""
    queries = token_layout([document], with_context=False)
    keys = token_layout([document], with_context=True)
    return sees(queries, keys, torch.arange(len(queries.order))[:, None], torch.arange(len(keys.order)))


def key_index(documents: Sequence[Document]) -> Tensor:
    """int64 slots of all documents' keys, document after document."""
    runs = [torch.arange(start, start + count) for document in documents for start, count in document.keys]
    return torch.cat([torch.empty(0, dtype=torch.int64), *runs])
