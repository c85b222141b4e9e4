"""How a step is computed: in one process, or sharded over many by DeepSpeed ZeRO-3.

Both keep float32 master weights and give, for every trained parameter, the piece of it that this process owns: the
whole of it, or its ZeRO-3 partition, flat and padded at the end so that all ranks own as much.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unimedvl.model.unimedvl import UniMedVL
from unimedvl.train.optim import adamw
from unimedvl.train.parts import PARTS, part_of
from unimedvl.train.settings import OptimizerSettings, RuntimeSettings, pick_device
from unimedvl.types import PackedBatch

MOMENTS = ("exp_avg", "exp_avg_sq")


class Losses(nn.Module):
    """The model as a function from a batch to the sums of its losses, which is what is differentiated."""

    def __init__(self, model: UniMedVL) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: PackedBatch, checkpointing: str) -> tuple[Tensor, Tensor]:
        """Weighted sum of the cross-entropy, and sum of the squared error; float32 scalars."""
        output = self.model(batch, checkpointing=checkpointing)
        return output.ce_sum, output.mse_sum


class Backend(ABC):
    """A model under training."""

    rank, world = 0, 1
    model: UniMedVL
    device: torch.device

    def __init__(self, model: UniMedVL, settings: RuntimeSettings) -> None:
        self.model, self.settings = model, settings
        self.trained = {name: param for name, param in model.named_parameters() if param.requires_grad}
        self.frozen = {name: param for name, param in model.named_parameters() if not param.requires_grad}

    @abstractmethod
    def losses(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Sums of the two losses of a batch on the device, connected to every parameter."""

    @abstractmethod
    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of this process's share of the loss; ``last`` of the step."""

    @abstractmethod
    def step(self, learning_rate: float) -> bool:
        """Clip and update; False, with nothing changed, if a gradient was not finite on any rank."""

    @abstractmethod
    def local_master(self) -> dict[str, Tensor]:
        """float32 pieces of the trained weights, alive: a step changes them."""

    @abstractmethod
    def local_gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Pieces of the gradients before clipping, averaged over ranks."""

    @abstractmethod
    def local_frozen(self) -> dict[str, Tensor]:
        """Pieces of the weights that are not trained."""

    @abstractmethod
    def moments(self) -> dict[str, dict[str, Tensor]]:
        """Pieces of the optimizer's averages by their name and the parameter's; empty before the first step."""

    @abstractmethod
    def restore(self, master: Mapping[str, Tensor], moments: Mapping[str, Mapping[str, Tensor]], steps: int) -> None:
        """Go on from pieces that a backend gave, after ``steps`` updates."""

    def gradient_norms(self) -> dict[str, float]:
        """Norm of the whole gradient under ``all``, and that of each part, over all ranks."""
        names, gradients = zip(*self.local_gradients(), strict=True)
        # One read of the device for all of them.
        norms_P = torch.stack(torch._foreach_norm([gradient.float() for gradient in gradients])).double().cpu()
        parts = torch.tensor([PARTS.index(part_of(name)) for name in names])
        squares = torch.zeros(len(PARTS), dtype=torch.float64).index_add_(0, parts, norms_P.square())
        squares = self.summed(squares)
        norms = {part: float(square.sqrt()) for part, square in zip(PARTS, squares, strict=True)}
        return {"all": float(squares.sum().sqrt()), **norms}

    def summed(self, values: Tensor) -> Tensor:
        """Sum over the ranks of a small tensor on the host."""
        if self.world > 1:
            moved = values.to(self.device) if dist.get_backend() == "nccl" else values.clone()
            dist.all_reduce(moved)
            values = moved.cpu()
        return values

    def gathered(self, value: Any) -> list[Any]:
        """A picklable value of every rank, in order."""
        values: list[Any] = [value]
        if self.world > 1:
            values = [None] * self.world
            dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            dist.barrier()


class Plain(Backend):
    """One process: float32 weights, and autocast for bfloat16."""

    def __init__(self, model: UniMedVL, settings: RuntimeSettings, optimizer: OptimizerSettings) -> None:
        self.device = pick_device(settings.device)
        super().__init__(model.to(self.device, torch.float32), settings)
        self._losses = Losses(model)
        self._optimizer = adamw(model.parameters(), optimizer)
        self._clip = optimizer.clip

    def losses(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """See :class:`Backend`."""
        with self._autocast():
            return self._losses(batch, self.settings.checkpointing)

    def _autocast(self) -> AbstractContextManager[Any]:
        half = self.settings.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """See :class:`Backend`."""
        del last
        loss.backward()

    def step(self, learning_rate: float) -> bool:
        """See :class:`Backend`."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        for parameter in self.trained.values():
            if parameter.grad is None:  # ZeRO-3 updates these too, with zeros
                parameter.grad = torch.zeros_like(parameter)
        norm = nn.utils.clip_grad_norm_(self.trained.values(), self._clip)
        finite = bool(norm.isfinite())
        if finite:
            self._optimizer.step()
        self._optimizer.zero_grad()
        return finite

    def local_master(self) -> dict[str, Tensor]:
        """See :class:`Backend`."""
        return {name: parameter.detach().view(-1) for name, parameter in self.trained.items()}

    def local_gradients(self) -> Iterator[tuple[str, Tensor]]:
        """See :class:`Backend`."""
        return ((name, param.grad) for name, param in self.trained.items() if param.grad is not None)

    def local_frozen(self) -> dict[str, Tensor]:
        """See :class:`Backend`."""
        return {name: parameter.detach().view(-1) for name, parameter in self.frozen.items()}

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """See :class:`Backend`."""
        state = self._optimizer.state
        return {
            key: {name: state[param][key].view(-1) for name, param in self.trained.items()}
            for key in (MOMENTS if state else ())
        }

    @torch.no_grad()
    def restore(self, master: Mapping[str, Tensor], moments: Mapping[str, Mapping[str, Tensor]], steps: int) -> None:
        """See :class:`Backend`."""
        for name, parameter in self.trained.items():
            parameter.view(-1).copy_(master[name])
            if moments:
                values = {key: own[name].to(self.device).view_as(parameter) for key, own in moments.items()}
                self._optimizer.state[parameter] = {"step": torch.tensor(float(steps)), **values}


class Zero(Backend):
    """DeepSpeed ZeRO-3, set up by accelerate: weights, gradients, optimizer and EMA partitioned over the ranks.

    The model comes with its parameters partitioned already (:func:`partition`), so no rank held all of them.

    Args:
        frozen: float32 pieces of frozen weights that are computed with in bfloat16, to save them as they were.
    """

    def __init__(
        self,
        model: UniMedVL,
        settings: RuntimeSettings,
        optimizer: OptimizerSettings,
        frozen: Mapping[str, Tensor],
    ) -> None:
        from accelerate import Accelerator, DeepSpeedPlugin

        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._exact = dict(frozen)
        super().__init__(model, settings)
        plugin = DeepSpeedPlugin(hf_ds_config=deepspeed_config(settings, optimizer.clip))
        accelerator = Accelerator(deepspeed_plugin=plugin)
        self.device = torch.device(accelerator.device)
        self.engine, _ = accelerator.prepare(Losses(model), adamw(model.parameters(), optimizer))
        self._inner = self.engine.optimizer

    def losses(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """See :class:`Backend`."""
        return self.engine(batch, self.settings.checkpointing)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """See :class:`Backend`."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> bool:
        """See :class:`Backend`."""
        for group in self._inner.optimizer.param_groups:
            group["lr"] = learning_rate
        self.engine.step()
        return not self._inner.overflow

    def local_master(self) -> dict[str, Tensor]:
        """See :class:`Backend`."""
        from deepspeed.utils import safe_get_local_fp32_param

        return {name: safe_get_local_fp32_param(param) for name, param in self.trained.items()}

    def local_gradients(self) -> Iterator[tuple[str, Tensor]]:
        """See :class:`Backend`."""
        from deepspeed.utils import safe_get_local_grad

        return ((name, safe_get_local_grad(param)) for name, param in self.trained.items())

    def local_frozen(self) -> dict[str, Tensor]:
        """See :class:`Backend`."""
        return {name: self._exact.get(name, _partition_of(param)) for name, param in self.frozen.items()}

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """See :class:`Backend`."""
        from deepspeed.utils import safe_get_local_optimizer_state

        return {
            key: {name: safe_get_local_optimizer_state(param, key) for name, param in self.trained.items()}
            for key in (MOMENTS if self._inner.optimizer.state else ())
        }

    @torch.no_grad()
    def restore(self, master: Mapping[str, Tensor], moments: Mapping[str, Mapping[str, Tensor]], steps: int) -> None:
        """See :class:`Backend`."""
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        if moments:
            for flat in self._inner.fp32_partitioned_groups_flat:
                state = self._inner.optimizer.state[flat]
                state.update({key: torch.zeros_like(flat) for key in MOMENTS}, step=torch.tensor(float(steps)))
        for name, parameter in self.trained.items():
            safe_set_local_fp32_param(parameter, master[name])
            _partition_of(parameter).copy_(master[name])
            for key, own in moments.items():
                safe_set_local_optimizer_state(parameter, own[name], key)


def deepspeed_config(settings: RuntimeSettings, clip: float) -> dict[str, Any]:
    """DeepSpeed's own configuration, which people need not write."""
    zero: dict[str, Any] = {
        "stage": 3,
        "overlap_comm": torch.cuda.is_available(),
        "contiguous_gradients": True,
        "stage3_gather_16bit_weights_on_model_save": False,
    }
    if settings.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if settings.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    half = settings.precision == "bf16"
    return {
        # The batch is ours: DeepSpeed only wants to know that accumulation is not its business.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": half},
        # Gradients are added up over ranks and batches in float32.
        **({"data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32"} if half else {}),
    }


def start_processes(device: torch.device) -> None:
    """Join the ranks that a launcher started; one process is its own group."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed looks when it is imported
    import deepspeed

    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    deepspeed.init_distributed("nccl" if device.type == "cuda" else "gloo", verbose=False)


def partition(units: Iterable[tuple[str, nn.Module]], settings: RuntimeSettings, clip: float) -> None:
    """Give each rank its piece of one unit after the other; only one unit is whole at a time."""
    import deepspeed

    config = deepspeed_config(settings, clip)
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    for _, unit in units:
        deepspeed.zero.Init(module=unit, config_dict_or_path=config, dtype=dtype)


def _partition_of(parameter: Any) -> Tensor:
    return parameter.ds_tensor.data


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
