"""Bytes on a GPU and its host during training, by item.

Counted for DeepSpeed ZeRO-3 (0.19, ``runtime/zero/stage3.py``), on every GPU unless offloaded:

- weights: the partition of all of them in the compute dtype; whole, what is no larger than
  ``param_persistence_threshold`` and the position tables;
- gradients: ``grad_partitions_flat_buffer`` of the trained partition, float32 (``grad_accum_dtype``); offloaded, the
  host holds them twice, as that buffer and as the ``grad`` of ``fp32_partitioned_groups_flat``;
- optimizer: AdamW's two averages and, in bf16, the float32 master (in fp32 the weights themselves are it);
- EMA: float32, of the trained partition, where the master lies;
- gathered weights: at most ``max_live_parameters`` at a time, or the largest tensor where that is larger;
- reduce buckets: the bucket of ``reduce_bucket_size`` that ``contiguous_gradients`` allocates, and while it is reduced
  its flat copy, or that of a larger gradient;
- optimizer step: the flat gradient of a sub-group, and AdamW's square root of one average.

Without ZeRO there is one process with float32 weights, gradients, averages and EMA; bf16 is autocast, whose copies of
the weights are among the activations. The allocator's fragmentation is not counted, nor the data loader on the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

GIB = 2**30
# DeepSpeed's defaults, in elements.
PERSISTENT, MAX_LIVE, REDUCE_BUCKET, SUB_GROUP = 100_000, 1_000_000_000, 500_000_000, 1_000_000_000
FLOAT32 = 4
# Phases of a step; what is made in one is gone in the next.
COMPUTE, ENCODE, UPDATE = "forward and backward", "encoding of images", "optimizer step"
OFFLOADS = ("nothing", "optimizer", "optimizer and parameters")


@dataclass(frozen=True)
class Budget:
    """Memory with one choice of offload, in bytes by item.

    Attributes:
        offload: what lies on the host, of ``OFFLOADS``.
        lasting: on the GPU all the time.
        passing: on the GPU in turn, by phase of the step: only the largest phase counts.
        host: on the host, for one GPU.
    """

    offload: str
    lasting: Mapping[str, int]
    passing: Mapping[str, Mapping[str, int]]
    host: Mapping[str, int]

    @property
    def phase(self) -> str:
        """The phase of a step that takes most."""
        return max(self.passing, key=lambda name: sum(self.passing[name].values()))

    @property
    def items(self) -> dict[str, int]:
        """What the GPU holds when it holds most."""
        return {**self.lasting, **self.passing[self.phase]}

    @property
    def gpu(self) -> int:
        """Most bytes on a GPU at any time."""
        return sum(self.items.values())


@dataclass(frozen=True)
class Run:
    """What a step needs beside the weights, whatever is offloaded: bytes by item, as in :class:`Budget`."""

    lasting: Mapping[str, int]
    compute: Mapping[str, int]
    encode: int


def plain_budget(model: nn.Module, run: Run, *, ema: bool) -> Budget:
    """One process: float32 weights, gradients and averages."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    weights = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    lasting = {
        "weights": FLOAT32 * weights,
        "gradients": FLOAT32 * trained,
        "optimizer": 2 * FLOAT32 * trained,
        "EMA": FLOAT32 * trained * ema,
        **run.lasting,
    }
    # torch's foreach AdamW takes the square root of all second averages at once.
    passing = {COMPUTE: run.compute, ENCODE: {"encoding": run.encode}, UPDATE: {"update": FLOAT32 * trained}}
    return Budget(OFFLOADS[0], lasting, passing, {})


def zero_budgets(model: nn.Module, run: Run, *, gpus: int, itemsize: int, ema: bool) -> tuple[Budget, ...]:
    """ZeRO-3 with each of ``OFFLOADS``; ``itemsize``: bytes of a weight in the compute dtype."""
    sharded = _Sharded(model, gpus, itemsize, ema)
    return tuple(sharded.budget(level, run) for level in range(len(OFFLOADS)))


class _Sharded:
    """Bytes of one rank."""

    def __init__(self, model: nn.Module, gpus: int, itemsize: int, ema: bool) -> None:
        parameters = list(model.parameters())
        sizes = [parameter.numel() for parameter in parameters]
        trained = [parameter.numel() for parameter in parameters if parameter.requires_grad]
        whole = sum(size for size in sizes if size <= PERSISTENT) + sum(buffer.numel() for buffer in model.buffers())
        owned = sum(-(-size // gpus) for size in trained)
        self.partition = itemsize * sum(-(-size // gpus) for size in sizes)
        self.whole = itemsize * whole
        self.gradients = FLOAT32 * owned
        self.optimizer = FLOAT32 * owned * (3 if itemsize < FLOAT32 else 2)
        self.ema = FLOAT32 * owned * ema
        self.gathered = itemsize * min(sum(sizes), max(MAX_LIVE, *sizes))
        self.buckets = itemsize * REDUCE_BUCKET + 4 * max(*trained, min(REDUCE_BUCKET, sum(trained)))
        self.update = 2 * FLOAT32 * min(owned, SUB_GROUP)

    def budget(self, level: int, run: Run) -> Budget:
        """With the optimizer on the host from ``level`` 1 on, and the parameters from 2 on."""
        here, there = int(level < 1), int(level >= 1)
        lasting = {
            "weights": self.whole + self.partition * (level < 2),
            "gradients": self.gradients * here,
            "optimizer": self.optimizer * here,
            "EMA": self.ema * here,
            "reduce buckets": self.buckets,
            **run.lasting,
        }
        passing = {
            COMPUTE: {**run.compute, "gathered weights": self.gathered},
            ENCODE: {"encoding": run.encode},
            UPDATE: {"update": self.update * here},
        }
        host = {
            "weights": self.partition * (level >= 2),
            "gradients": 2 * self.gradients * there,
            "optimizer": self.optimizer * there,
            "EMA": self.ema * there,
        }
        return Budget(OFFLOADS[level], lasting, passing, host)
