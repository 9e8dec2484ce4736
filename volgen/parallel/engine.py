"""The one door to DeepSpeed. It is imported when the first engine or process group is made, never before: it takes seconds."""

from __future__ import annotations

import atexit
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn
from torch.distributed import DistNetworkError, DistStoreError
from torch.overrides import TorchFunctionMode

from volgen.core.config import MAY_CHANGE, Config
from volgen.core.errors import UserError
from volgen.parallel.by_name import WEIGHTS, ByName
from volgen.parallel.by_optimiser import ByOptimiser
from volgen.parallel.device import keep_fp32

if TYPE_CHECKING:
    from volgen.parallel.launch import Launch

_distributed: Any = torch.distributed  # its stores are documented, but not re-exported
PATIENCE = 1800.0
"""Seconds: torch's own."""
_MEETINGS: dict[tuple[int, int], Any] = {}
BUCKET = 500_000_000
"""Most elements of gradients that are sent at once: DeepSpeed's own default."""
MUON_MOMENTUM = 0.9
"""Jordan et al. 2024 use 0.95 for runs of many thousand steps; experts are short."""


Release = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


class EngineConfig(Config):
    """How a network is sharded and in which precision it runs."""

    zero_stage: Annotated[Literal[0, 1, 2, 3], MAY_CHANGE] = 0
    """What DeepSpeed ZeRO shards: 0 nothing, 1 optimiser state, 2 also gradients, 3 also weights."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the network; preconditioning, loss and EMA stay in fp32."""
    accumulation: Annotated[PositiveInt, MAY_CHANGE] = 1
    """Micro-batches per optimiser step."""
    activation_checkpointing: Annotated[bool, MAY_CHANGE] = False
    """Whether activations are computed again in the backward pass instead of being kept."""
    offload: Annotated[Literal["none", "optimiser", "optimiser_and_weights"], MAY_CHANGE] = "none"
    """What ZeRO keeps in host memory (weights: stage 3 only)."""

    @model_validator(mode="after")
    def _offloads(self) -> Self:
        if self.offload == "optimiser_and_weights" and self.zero_stage != 3:
            raise ValueError("offload 'optimiser_and_weights' needs zero_stage 3")
        if self.offload == "optimiser" and self.zero_stage == 0:
            raise ValueError("offload 'optimiser' needs zero_stage 1, 2 or 3")
        return self


def deepspeed() -> Any:
    """The DeepSpeed module, quiet: its warnings and errors stay, its chatter at INFO goes."""
    import deepspeed as module
    import deepspeed.ops as ops

    if os.environ.get("DS_ACCELERATOR") == "cpu":
        # Otherwise the first start on a CPU compiles a shared-memory all-reduce for 85 s; gloo does without.
        vars(ops).setdefault("__compatible_ops__", {})
    # DeepSpeed and torch have these out with each other; a user can do nothing about them.
    warnings.filterwarnings("ignore", r"`torch\.distributed\..*` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", r"`torch\.jit\..*` is deprecated", DeprecationWarning)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return module


def join(launch: Launch, name: str = "world", world: Launch | None = None, patience: float = PATIENCE) -> torch.device:
    """Makes the process group, unless there is one, and returns this rank's device.

    Use :func:`volgen.parallel.launch.take_part` or :func:`volgen.parallel.split.split`.

    Args:
        launch: this rank in the group.
        name: name of the group, another one each time.
        world: this rank among all that were launched together, if the group is a part of them.
        patience: seconds that ranks wait for each other, to come together and in one collective, at most.

    Raises:
        UserError: other ranks do not come.
    """
    keep_fp32()
    module = deepspeed()
    accelerator = module.accelerator.get_accelerator()
    if world is None:
        accelerator.set_device(launch.local_rank)
    if not torch.distributed.is_initialized():
        backend = accelerator.communication_backend_name()
        timeout = timedelta(seconds=patience)
        try:
            store: Any = _distributed.HashStore()
            if launch.world_size > 1:
                everybody = world or launch
                store = _distributed.PrefixStore(name, meeting(everybody.rank, everybody.world_size, patience))
            torch.distributed.init_process_group(backend, timeout=timeout, world_size=launch.world_size, rank=launch.rank, store=store)
        except (DistStoreError, DistNetworkError) as error:
            found = f"rank {launch.rank} of {launch.world_size} on {launch.host} waited for the others in vain"
            why = str(error).splitlines()[0]
            do = f"look why one did not start, and at the firewall ({why})"
            raise UserError(f"{launch.address}:{launch.port}", found, "all ranks", do) from None
        module.init_distributed(backend, auto_mpi_discovery=False, verbose=False, timeout=timeout)
        atexit.register(_leave)
    return torch.device(accelerator.current_device_name())


def meeting(rank: int, world_size: int, patience: float = PATIENCE) -> Any:
    """The key-value store at which all ranks of a launch meet; it lives in rank 0, or in torchrun's agent.

    Args:
        rank: number of this process in the launch.
        world_size: number of processes in the launch.
        patience: seconds that the first call waits for the others.
    """
    if (rank, world_size) not in _MEETINGS:
        store, _, _ = next(_distributed.rendezvous("env://", rank, world_size, timeout=timedelta(seconds=patience)))
        _MEETINGS[rank, world_size] = store
    return _MEETINGS[rank, world_size]


def leave() -> None:
    """Ends the process group and makes DeepSpeed forget it, so that :func:`join` can make another. No engine may be left."""
    module = deepspeed()
    from deepspeed.utils import groups

    module.comm.destroy_process_group()
    module.comm.comm.cdb = None
    # What DeepSpeed before 0.19 would keep.
    groups._WORLD_GROUP = groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = None


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class Engine:
    """A network that DeepSpeed trains with AdamW, or with Muon and AdamW: forward, backward, step.

    The optimiser's own masters are fp32 whatever the precision: bf16 is autocast, so the network's code need not know of it.

    Args:
        module: the network; equal weights on every rank.
        config: sharding, precision, accumulation, offload.
        micro_batch: volumes in one forward pass of one rank.
        betas: AdamW's decay rates.
        weight_decay: AdamW's decoupled decay.
        gradient_clip: largest gradient norm, 0 for no limit.
        matrix_rate: Muon's step size as a multiple of the learning rate; 0 leaves all weights to AdamW.
        make: makes another optimiser of the trained weights, for stage 0; DeepSpeed's if None.
        release: makes the weights that others get from the module's own (adapters are merged).

    Raises:
        UserError: Muon is asked for, but a weight has more than two axes.
    """

    def __init__(
        self, module: nn.Module, config: EngineConfig, micro_batch: int, *,
        betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.0, gradient_clip: float = 0.0, matrix_rate: float = 0.0,
        make: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer] | None = None, release: Release = dict,
    ) -> None:  # fmt: skip
        if matrix_rate:
            check_matrices(module)
        self._matrix_rate, self._release = matrix_rate, release
        # DeepSpeed compiles Muon's few matrix products: half a minute and a C++ compiler for nothing measurable.
        self._eager = torch.compiler.set_stance("force_eager") if matrix_rate else nullcontext()
        self._stage = config.zero_stage
        self._clip = gradient_clip
        self.accumulation = config.accumulation
        trained = [p for p in module.parameters() if p.requires_grad]
        size = sum(p.numel() for p in trained)
        chosen = settings(config, micro_batch, betas, weight_decay, gradient_clip, bool(matrix_rate), size)
        own = None if make is None else make(trained)
        if own is not None:
            assert config.zero_stage == 0, "what another optimiser remembers cannot be cut"
            del chosen["optimizer"]
        with _Unread():
            self._engine, *_ = deepspeed().initialize(
                model=module, optimizer=own, model_parameters=trained, config=chosen, dist_init_required=False
            )
        if self._stage == 0 and self._engine.dp_world_size == 1:
            # Alone, there is nobody to share gradients with, and flattening and dividing them took a tenth of a small network's step.
            self._engine.enable_backward_allreduce = False
        self._module = module
        self._state = (
            ByName(self._engine, module, config.zero_stage, config.offload != "none")
            if own is None
            else ByOptimiser(self._engine, module, own)
        )
        self._skipped = self._updates = 0

    def __call__(self, input_BCXYZ: Tensor, noise_B: Tensor, *told: Mapping[str, Tensor], **kept: Tensor) -> Tensor:
        """The network's output in fp32."""
        output: Tensor = self._engine(input_BCXYZ, noise_B, *told, **kept)
        return output.float()

    def backward(self, loss: Tensor) -> None:
        """Adds one micro-batch's gradient of a mean loss; the average over micro-batches and ranks is taken here."""
        with self._eager:
            self._engine.backward(loss)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()  # only counts the micro-batch

    def step(self, learning_rate: float) -> float:
        """Updates the weights after the last micro-batch.

        Returns:
            The gradient's norm over all parameters, before clipping; with Muon at stages 1 to 3, where DeepSpeed has replaced the
            matrices' gradients by then, that of its updates. If it is not finite, the weights are as they were.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate * (self._matrix_rate if group.get("use_muon") else 1.0)
        if self._stage == 0:
            # Without ZeRO, DeepSpeed neither reports the norm nor skips a step whose gradient is not finite.
            norm = float(nn.utils.get_total_norm([p.grad for p in self._module.parameters() if p.grad is not None]))
            finite = norm < float("inf")
            if finite and 0.0 < self._clip < norm:
                nn.utils.clip_grads_with_norm_(self._module.parameters(), self._clip, torch.tensor(norm))
            if finite:
                self._step()
                self._updates += 1
            else:
                self._skip()
            return norm
        self._step()
        if self._engine.skipped_steps > self._skipped:
            self._skipped = self._engine.skipped_steps
            return float("inf")
        self._updates += 1
        return float(self._engine.get_global_grad_norm())

    def _step(self) -> None:
        with self._eager:
            self._engine.step()

    def _skip(self) -> None:
        # The optimiser must not run at all: without gradients, Muon still moves the weights by its momentum.
        self._module.zero_grad()
        self._engine.set_gradient_accumulation_boundary(False)
        self._engine.step()  # only counts the micro-batch
        self._engine.set_gradient_accumulation_boundary(None)

    def masters(self) -> list[Tensor]:
        """The fp32 weights that this rank's optimiser owns: everything at stage 0, flat shards at 1 to 3.

        :meth:`full_state` sees what is written to them.
        """
        return [tensor.data for tensor in self._state.masters()]

    def full_state(self) -> dict[str, Tensor]:
        """Every parameter (trained ones gathered from :meth:`masters`, fp32) and buffer by name, on the CPU of every rank, as released.

        A collective call.
        """
        with self._state.judged():
            return self._release({**dict(self._state.frozen()), **dict(self._state.read(WEIGHTS))})

    @property
    def kinds(self) -> Sequence[str]:
        """Names of what training needs to go on: the weights, and each of the optimiser's moments."""
        return self._state.kinds

    def read(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        """One of :attr:`kinds` of what is trained: whole fp32 tensors by name, on every rank's CPU. A collective call; exhaust it."""
        return self._state.read(kind)

    def write(self, kind: str, tensors: Mapping[str, Tensor]) -> None:
        """Restores what :meth:`read` gave, with any number of ranks and any ZeRO stage. A collective call."""
        self._state.write(kind, tensors)

    @property
    def updates(self) -> int:
        """Steps that changed the weights; to be restored after the moments."""
        return self._updates

    @updates.setter
    def updates(self, count: int) -> None:
        self._updates = count
        self._state.set_updates(count)

    def destroy(self) -> None:
        """Frees hooks, buffers and optimiser state, so that hundreds of engines can follow one another in a process."""
        self._engine.destroy()
        self._engine.optimizer = None
        del self._engine, self._module, self._state


class _Unread(TorchFunctionMode):
    """A context in which the text of a tensor is its shape, and no value of it is read.

    DeepSpeed's ZeRO-3 begins with a message of all its arguments, each weight of the network among them. The message is never shown, but
    it is written: for a network of 94 million weights in half a second to one and a half, in which a GPU is waited for 194 times.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Calls everything but what writes a tensor."""
        return f"tensor of {list(args[0].shape)}" if func is Tensor.__repr__ else func(*args, **(kwargs or {}))


def check_matrices(module: nn.Module) -> None:
    """Makes sure that Muon can train a network.

    Raises:
        UserError: a weight has more than two axes.
    """
    # DeepSpeed gives Muon every weight with two axes or more but those called "embed", and would orthogonalise a 5-D one over its last two.
    odd = next((name for name, p in module.named_parameters() if p.requires_grad and p.dim() > 2 and "embed" not in name), None)
    if odd is not None:
        raise UserError(
            "optimiser.matrix_learning_rate", f"this network's weight {odd} is not a matrix", "a network whose weights are matrices",
            "set it to 0, or choose network.kind wavelet_unet3d",
        )  # fmt: skip


def _optimiser(betas: tuple[float, float], weight_decay: float, muon: bool) -> dict[str, Any]:
    # torch's AdamW needs no compiler on the user's machine, and is as fast on a GPU (foreach).
    settings = {"lr": 0.0, "betas": list(betas), "weight_decay": weight_decay, "torch_adam": True}
    if muon:
        return {"type": "Muon", "params": {**settings, "momentum": MUON_MOMENTUM}}
    return {"type": "AdamW", "params": settings}


def settings(
    config: EngineConfig, micro_batch: int, betas: tuple[float, float], weight_decay: float, clip: float, muon: bool, parameters: int
) -> dict[str, Any]:
    """DeepSpeed's configuration of a network with ``parameters`` parameters; the other arguments are those of :class:`Engine`."""
    # Muon needs a whole gradient on the rank that owns it. A bucket is allocated whole: 2 GB that a smaller network never fills.
    zero: dict[str, Any] = {"stage": config.zero_stage, "reduce_scatter": not muon, "reduce_bucket_size": min(BUCKET, parameters)}
    if config.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if config.offload == "optimiser_and_weights":
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": config.accumulation,
        "optimizer": _optimiser(betas, weight_decay, muon),
        "gradient_clipping": clip if config.zero_stage else 0.0,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "torch_autocast": {"enabled": config.precision == "bf16", "dtype": "bfloat16"},
        "steps_per_print": None,
    }
