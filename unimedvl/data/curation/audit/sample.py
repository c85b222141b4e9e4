"""A sample of the corpus that stands for its modalities."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise

from unimedvl.data.curation.pairs import Pair
from unimedvl.errors import ConfigError, DataError

SIZE = 200  # the paper's


def stratified(pairs: Iterable[Pair], size: int = SIZE, *, seed: int = 0) -> list[Pair]:
    """A random sample whose modalities have the shares that they have in the corpus.

    One pass; of each modality no more than ``size`` pairs are held. It depends on the seed and the ids alone, not on
    the order of the pairs, and comes in a random order.

    Args:
        size: of the sample; a smaller corpus is taken whole.

    Raises:
        ConfigError: ``size`` is under 1.
        DataError: two pairs of the sample have the same id.
    """
    if size < 1:
        raise ConfigError(f"a sample of {size}", where="size", remedy="give 1 or more")
    counts: Counter[str] = Counter()
    held: dict[str, list[tuple[int, int, Pair]]] = {}  # by modality those of the lowest ranks, the highest on top
    for number, pair in enumerate(pairs):
        counts[pair.modality] += 1
        heap = held.setdefault(pair.modality, [])
        push = heapq.heappush if len(heap) < size else heapq.heappushpop
        push(heap, (-_rank(seed, pair.id), number, pair))
    shares = quotas(counts, size)
    # Heaps are cut to the quota: the lowest ranks are the largest entries.
    chosen = [entry for modality, heap in held.items() for entry in heapq.nlargest(shares[modality], heap)]
    sample = [pair for *_, pair in sorted(chosen, key=lambda entry: (-entry[0], entry[2].id))]
    for one, two in pairwise(sample):
        if one.id == two.id:
            raise DataError(f"id {one.id} twice", where="sample", remedy="remove the duplicate from the corpus")
    return sample


def quotas(counts: Mapping[str, int], size: int) -> dict[str, int]:
    """How many of each stratum: proportional by largest remainder, and at least one of each if the size allows it.

    Args:
        counts: members of each stratum, 1 or more.
        size: of the sample; all members where there are fewer.
    """
    total = sum(counts.values())
    size = min(size, total)
    # In whole numbers of 1 / total, so that no rounding decides.
    shares = {name: size * count // total for name, count in counts.items()}
    remainders = sorted(counts, key=lambda name: (-(size * counts[name] % total), name))
    for name in remainders[: size - sum(shares.values())]:
        shares[name] += 1
    if size < len(counts):
        return shares
    for name in sorted(name for name, share in shares.items() if share == 0):
        # The one that is furthest over its share gives one up.
        rich = [other for other, share in shares.items() if share > 1]
        giver = max(rich, key=lambda other: (shares[other] * total - size * counts[other], counts[other], other))
        shares[giver] -= 1
        shares[name] = 1
    return shares


def _rank(seed: int, pair: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {pair}".encode()).digest()[:8], "big")
