"""Which of the waiting samples fill a batch best."""

from __future__ import annotations

from collections.abc import Sequence


def fullest(lengths: Sequence[int], budget: int) -> list[int]:
    """The subset, first item included, whose lengths add to most without passing the budget.

    An exact subset sum over a bit set: bit n of a number says that n tokens can be reached. The first item is the
    one that has waited longest, so none waits forever.

    Args:
        lengths: tokens of the waiting samples, each from 1 to ``budget``.

    Returns:
        indexes, ascending.
    """
    within = (1 << (budget + 1)) - 1
    reachable = [1 << lengths[0]]
    for length in lengths[1:]:
        reachable.append((reachable[-1] | reachable[-1] << length) & within)
    total = reachable[-1].bit_length() - 1
    chosen = [0]
    for number in range(len(lengths) - 1, 0, -1):
        if not reachable[number - 1] >> total & 1:
            chosen.append(number)
            total -= lengths[number]
    return sorted(chosen)
