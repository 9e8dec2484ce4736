"""What one training step allocates and computes: the real code on fake tensors, which have shapes but no memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from volgen.experts.plan import Phase
from volgen.methods import Fitted
from volgen.models.space import VOXELS
from volgen.parallel.memory import NetworkSize
from volgen.parallel.memory_trace import Allocations, conv_workspace
from volgen.planning.blank import BlankDraws
from volgen.recipe import Recipe

_RAISED = (nn.GroupNorm, nn.LayerNorm, nn.Softmax)
"""What autocast runs in fp32 on a GPU and in bf16 on a CPU."""


@dataclass(frozen=True)
class StepTrace:
    """Bytes and floating-point operations of one micro-batch on one rank.

    Attributes:
        peak: most that forward and backward hold at once, gradients as they come included.
        apart: the same without the gradients.
        validation: most that denoising one volume without gradients holds.
        preconditioner: its tensors, folds included.
        flops: floating-point operations of forward and backward, recomputation included.
        operations: number of operations of forward and backward, whatever their size.
        forward_flops: floating-point operations of denoising one volume.
        forward_operations: number of operations of the same.
        network: sizes.
    """

    peak: int
    apart: int
    validation: int
    preconditioner: int
    flops: int
    operations: int
    forward_flops: int
    forward_operations: int
    network: NetworkSize


def networks(recipe: Recipe) -> list[Phase]:
    """A phase for each kind of network: of each model, whose experts are alike, and then each that owns no noise level."""
    phases = recipe.phases()
    of_model = [next(phase for phase in reversed(phases) if phase.points and phase.model == model) for model in range(len(recipe.variants))]
    return [*of_model, *(phase for phase in phases if not phase.points)]


def kind(recipe: Recipe, phase: Phase) -> int:
    """Place of a phase among :func:`networks`."""
    return phase.model if phase.points else [other.name for other in networks(recipe)].index(phase.name)


def size_of(recipe: Recipe, phase: Phase, network: nn.Module) -> NetworkSize:
    """Counts the network of a phase as it is trained; on fake or meta tensors if it is on such."""
    with torch.device(next(network.parameters()).device):
        plain = sum(parameter.numel() for parameter in recipe.build().released(phase).parameters())
    added = sum(parameter.numel() for parameter in network.parameters()) - plain
    return NetworkSize.of(network, recipe.optimiser.matrix_learning_rate > 0, added)


def trained_beside(recipe: Recipe, size: NetworkSize) -> str:
    """What an adapter leaves to be trained of a network, behind its size; empty where all of it is trained."""
    return f"; {size.parameters:,} in each are trained (adapter {recipe.adapter.kind})" if recipe.adapter.needs_trained else ""


def trace(recipe: Recipe, micro_batch: int, people: int, gpu: bool, phase: Phase | None = None) -> StepTrace:
    """Runs loss, preconditioner and network of a recipe on fake tensors.

    Args:
        recipe: network, preconditioner, precision and checkpointing.
        micro_batch: volumes in one forward pass.
        people: training volumes, which size what the preconditioner fits.
        gpu: autocast as a GPU does it; otherwise also what oneDNN's convolutions take.
        phase: which network; an expert if None, all of which are alike in a recipe of one model.
    """
    method = recipe.build()
    phase = phase or networks(recipe)[0]
    with FakeTensorMode():
        network = method.network(phase)
        for module in network.modules():
            if gpu and isinstance(module, _RAISED):
                module.register_forward_pre_hook(lambda _, inputs: tuple(tensor.float() for tensor in inputs))
        size = size_of(recipe, phase, network)
        with Allocations() as fitted:
            numbers = {str(number): number for number in range(micro_batch)}
            preconditioner = recipe.preconditioner.blank(recipe.grid, people)  # stays, whatever an expert's level needs of it
            space = method.space(None, torch.device("cpu")) if phase.needs else VOXELS
            objective = method.objective(phase, Fitted(preconditioner, numbers, space))
        computing = method.forward(network)

        def loss(volumes: int) -> Tensor:
            ids = [str(number) for number in range(volumes)]
            return objective.loss(computing, method.examples(volumes), BlankDraws(volumes), ids).mean()

        def backward() -> None:
            loss(micro_batch).backward()

        def forward() -> None:
            with torch.no_grad():
                loss(1)

        followed = Allocations(conv_workspace if not gpu else None)
        for parameter in filter(lambda p: p.requires_grad, network.parameters()):
            parameter.register_post_accumulate_grad_hook(lambda p: followed.mark(p.numel() * p.element_size()))
        with followed:
            backward()
        network.zero_grad()
        gc.collect()
        with Allocations(conv_workspace if not gpu else None) as validated:
            forward()
        flops = _flops(backward)
        network.zero_grad()
        return StepTrace(
            followed.peak, followed.peak_apart, validated.peak, fitted.now, flops, followed.operations, _flops(forward),
            validated.operations, size,
        )  # fmt: skip


def _flops(work: Callable[[], None]) -> int:
    # Apart from following allocations: the counter keeps tensors alive.
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())
