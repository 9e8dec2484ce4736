"""What DeepSpeed trains, as whole tensors by parameter name: the form that no number of ranks and no ZeRO stage changes.

DeepSpeed's own route from one sharding to another, its universal checkpoint, knows stages 1 to 3 only, reads pickles, and needs a
second copy on disk. Whole tensors through its functions on fragments do for every stage, and the optimiser state goes the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

WEIGHTS = "weights"
ADAM = ("exp_avg", "exp_avg_sq")
MOMENTUM = "momentum_buffer"


class ByName:
    """Reads and writes the weights and the optimiser state of one DeepSpeed engine.

    Every kind of state lies in tensors laid out like the fp32 masters, so that it can be put in their place and read as weights are.

    Args:
        engine: DeepSpeed's engine.
        module: the network in it.
        stage: ZeRO's stage, 0 to 3.
        offloaded: whether the optimiser's state is in host memory.
    """

    def __init__(self, engine: Any, module: nn.Module, stage: int, offloaded: bool) -> None:
        self._engine, self._module, self._stage = engine, module, stage
        parameters = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        # To a type checker a parameter is anything: DeepSpeed hangs attributes on it.
        self._adam: list[tuple[str, Any]] = [(name, p) for name, p in parameters if not _muon(p)]
        self._matrices: list[tuple[str, Any]] = [(name, p) for name, p in parameters if _muon(p)]
        # There, DeepSpeed keeps momenta of whole matrices on every rank that owns a part of one (`get_flat_partition`).
        self._whole_momenta = stage in (1, 2) and not offloaded
        self.kinds: Sequence[str] = (WEIGHTS, *(ADAM if self._adam else ()), *((MOMENTUM,) if self._matrices else ()))

    def masters(self) -> list[Tensor]:
        """The fp32 weights that this rank's optimiser owns: everything at stage 0, flat shards at 1 to 3."""
        optimiser = self._engine.optimizer
        if self._stage == 0:
            return [p for p in self._module.parameters() if p.requires_grad]
        owned: list[Tensor] = optimiser.fp32_partitioned_groups_flat if self._stage == 3 else optimiser.single_partition_of_fp32_groups
        return list(owned)

    def read(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        """Name and whole fp32 tensor on the CPU of what is trained (for weights, buffers too). A collective; exhaust it."""
        if kind == WEIGHTS:
            yield from (
                (name, _whole(self._stage, parameter)) for name, parameter in self._module.named_parameters() if parameter.requires_grad
            )
            yield from ((name, buffer.detach().to("cpu", copy=True)) for name, buffer in self._module.named_buffers())
        elif kind == MOMENTUM and self._whole_momenta:
            yield from self._read_momenta()
        else:
            with self._in_place_of_weights(kind):
                for name, parameter in self._of(kind):
                    yield name, _whole(self._stage, parameter)

    def frozen(self) -> Iterator[tuple[str, Tensor]]:
        """The weights that are not trained, whole, bit for bit. A collective; exhaust it."""
        for name, parameter in self._module.named_parameters():
            if not parameter.requires_grad:
                with gathered(self._stage, [parameter]):
                    yield name, parameter.detach().to("cpu", copy=True)

    def write(self, kind: str, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`read`; every rank gives the same tensors. A collective."""
        if kind == WEIGHTS:
            self._write_weights(tensors)
        elif kind == MOMENTUM and self._whole_momenta:
            self._write_momenta(tensors)
        else:
            with self._in_place_of_weights(kind):
                for name, parameter in self._of(kind):
                    self._write_master(parameter, tensors[name])

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Inside the block the weights are those that they are judged by: they are always."""
        yield

    def set_updates(self, count: int) -> None:
        """Tells Adam, which corrects its bias by it, how many updates there have been."""
        for state in self._states():
            if ADAM[0] in state:
                state["step"] = torch.tensor(float(count))

    def _of(self, kind: str) -> list[tuple[str, Any]]:
        return self._matrices if kind == MOMENTUM else self._adam

    def _states(self) -> list[dict[str, Any]]:
        """The optimiser's state of each master, made if no step has been taken yet."""
        optimiser = getattr(self._engine.optimizer, "optimizer", self._engine.optimizer)
        states: list[dict[str, Any]] = [optimiser.state[master] for master in self.masters()]
        for master, state, muon in zip(self.masters(), states, self._masters_of_muon(), strict=True):
            if muon:
                if not self._whole_momenta:
                    state.setdefault(MOMENTUM, torch.zeros_like(master, requires_grad=False))
            elif not state:
                state.update({key: torch.zeros_like(master, requires_grad=False) for key in ADAM}, step=torch.tensor(0.0))
        return states

    def _masters_of_muon(self) -> list[bool]:
        optimiser = self._engine.optimizer
        if self._stage == 0:
            return [_muon(p) for p in self._module.parameters() if p.requires_grad]
        groups = optimiser.fp16_groups if self._stage == 3 else optimiser.bit16_groups
        return [_muon(group[0]) for group in groups]

    @contextmanager
    def _in_place_of_weights(self, kind: str) -> Iterator[None]:
        """Inside the block the masters hold this kind of state, and what is written to them becomes it."""
        pairs = [(master.data, state[kind]) for master, state in zip(self.masters(), self._states(), strict=True) if kind in state]
        _exchange(pairs)
        try:
            yield
        finally:
            _exchange(pairs)

    def _write_master(self, parameter: Any, whole: Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        if self._stage == 0:
            parameter.data.copy_(whole)
        elif self._stage == 3:
            # Not the function for whole tensors: it fails where the last rank's part is padded.
            size, rank = parameter.ds_tensor.numel(), torch.distributed.get_rank(self._engine.optimizer.dp_process_group)
            part = torch.zeros(size, dtype=whole.dtype)
            mine = whole.flatten()[rank * size : (rank + 1) * size]
            part[: mine.numel()] = mine
            safe_set_local_fp32_param(parameter, part)
        else:
            safe_set_full_fp32_param(parameter, whole)

    def _write_weights(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in self._adam + self._matrices:
            self._write_master(parameter, tensors[name])
        if self._stage == 3:
            from deepspeed.runtime.zero import GatheredParameters

            for name, parameter in self._adam + self._matrices:
                with GatheredParameters([parameter], modifier_rank=0):
                    parameter.data.copy_(tensors[name])
        elif self._stage:
            self._engine.optimizer.update_lp_params()
        for name, buffer in self._module.named_buffers():
            buffer.copy_(tensors[name])

    def _momenta(self) -> Iterator[tuple[Any, Tensor]]:
        """This rank's matrices with the momentum of each, whole."""
        optimiser = self._engine.optimizer
        for master, parameters in zip(self.masters(), optimiser.params_in_partition, strict=True):
            if parameters and _muon(parameters[0]):
                state, sizes = optimiser.optimizer.state[master], [p.numel() for p in parameters]
                state.setdefault(MOMENTUM, torch.zeros(sum(sizes), device=master.device))
                yield from zip(parameters, state[MOMENTUM].split(sizes), strict=True)

    def _read_momenta(self) -> Iterator[tuple[str, Tensor]]:
        mine = dict(self._momenta())
        for name, parameter in self._matrices:
            whole = torch.zeros_like(parameter, dtype=torch.float32, requires_grad=False)
            if parameter in mine and parameter._hp_mapping.lp_fragment_address.start == 0:  # of several ranks, one
                whole.copy_(mine[parameter].view_as(whole))
            torch.distributed.all_reduce(whole, group=self._engine.optimizer.dp_process_group)
            yield name, whole.cpu()

    def _write_momenta(self, tensors: Mapping[str, Tensor]) -> None:
        names = {parameter: name for name, parameter in self._matrices}
        for parameter, momentum in self._momenta():
            momentum.copy_(tensors[names[parameter]].flatten())


def _exchange(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    for one, other in pairs:
        kept = one.clone()
        one.copy_(other)
        other.copy_(kept)


def _muon(parameter: nn.Parameter) -> bool:
    return bool(getattr(parameter, "use_muon", False))


def gathered(stage: int, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[None]:
    """Gathers parameters for a block, in which ranks hold whole what ZeRO-3 splits among them."""
    if stage != 3:
        return nullcontext()
    from deepspeed.runtime.zero import GatheredParameters

    whole: AbstractContextManager[None] = GatheredParameters(list(parameters))
    return whole


def _whole(stage: int, parameter: nn.Parameter) -> Tensor:
    from deepspeed.utils import safe_get_full_fp32_param

    full = safe_get_full_fp32_param(parameter) if stage else parameter
    assert full is not None, "DeepSpeed holds no fp32 weights for a parameter"
    # ZeRO-3 replaces a parameter's storage by an empty one and keeps its shape aside.
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return full.detach().to("cpu", torch.float32, copy=True).reshape(shape)
