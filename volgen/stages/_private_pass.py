"""How many patients go through the network at once in private training: as many as memory allows, and one where more is not exact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from volgen.models.denoiser import PreconditionedDenoiser, Preconditioner
from volgen.parallel.group import Group
from volgen.parallel.machine import identity
from volgen.parallel.memory import FP32, NetworkSize, engine_memory
from volgen.parallel.memory_trace import Allocations, conv_workspace
from volgen.parallel.precision import InPrecision
from volgen.parallel.private_engine import Pass
from volgen.privacy._per_sample import PerSample, differs
from volgen.recipe import Recipe
from volgen.training.loss import denoising_loss

GIB = 2**30
SHARE = 0.5
"""Of the memory that is free: the rest is for what allocators lose, and for batches that are read ahead."""
EDGE = 8
"""Voxels along an edge, about, of what Opacus is tried on."""


@dataclass(frozen=True)
class Choice:
    """What goes through the network at once, and why.

    Attributes:
        at_once: the choice.
        need: bytes that training takes with it at most.
        why: for people.
    """

    at_once: Pass
    need: int
    why: str


def choose(recipe: Recipe, network: nn.Module, group: Group) -> Choice:
    """The choice for one rank, with what is free there now; the same on all ranks. A collective call.

    Args:
        recipe: private.
        network: as it will be trained, before there is an engine.
        group: the ranks.
    """
    alike = group.gather(identity())
    free = _free(group.device) // (alike.count(alike[group.rank]) if group.device.type == "cpu" else 1)
    why = obstacle(recipe, network)  # the same everywhere: recipe and network are
    found = options(recipe, network, group.world_size, several=not why, gpu=group.device.type != "cpu")
    allowed = [place for place, (at_once, need) in enumerate(found) if need <= SHARE * free]
    # Ranks may have different machines; the least of them decides.
    place = min(int(text) for text in group.gather(str(max(allowed, default=0))))
    at_once, need = found[place]
    if not why and place < len(found) - 1:
        more, larger = found[place + 1]
        why = (
            f"{_called(more, recipe)} would take {larger / GIB:.2f} GiB of {free / GIB:.2f} GiB free, of which {SHARE:.0%} are used at most"
        )
    elif not why:
        why = f"a rank draws {at_once.patients} on average"
    return Choice(at_once, need, f"{_called(at_once, recipe)} at once, {need / GIB:.2f} GiB on each rank by estimate ({why})")


def obstacle(recipe: Recipe, network: nn.Module) -> str:
    """Why gradients of several patients cannot be had from one pass, or ""."""
    if recipe.engine.zero_stage == 3:
        return "more patients: not with ZeRO-3, where no layer has its weights"
    if recipe.engine.precision != "fp32":
        return "more patients: not in bf16, where gradients of single patients are rounded otherwise"
    if recipe.engine.activation_checkpointing:
        return "more patients: not with activation checkpointing, which runs a layer twice"
    edges = [multiple * -(-EDGE // multiple) for multiple in recipe.network.multiples]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(2, recipe.inputs, *edges)
        reason = differs(network, x, torch.tensor([-0.3, 0.4]))
    return f"more patients: {reason}" if reason else ""


def options(recipe: Recipe, network: nn.Module, ranks: int, several: bool, gpu: bool) -> list[tuple[Pass, int]]:
    """What could go through the network at once, from little to much, and bytes of training with it.

    Args:
        recipe: private.
        network: real or fake.
        ranks: that share the patients of a step.
        several: whether it may be more than one patient.
        gpu: whether not to count what oneDNN's convolutions take.
    """
    size = NetworkSize.of(network, muon=False)
    fp32 = recipe.engine.model_copy(update={"precision": "fp32"})
    engine, whole = engine_memory(fp32, size, ranks), FP32 * size.parameters
    average = whole if recipe.engine.zero_stage == 0 else FP32 * -(-size.parameters // ranks)
    held = (whole if recipe.engine.zero_stage == 3 else engine.weights) + engine.optimizer + average + engine.buckets + whole
    update = max(engine.reduction + whole, engine.update)
    passes = [Pass()]
    if recipe.privacy.views > 1:
        passes.append(Pass(1, whole=True))
    if several:
        passes += [Pass(patients, whole=True) for patients in range(2, -(-recipe.data.batch_size // ranks) + 1)]
    return [(each, held + max(peak, update)) for each, peak in zip(passes, _peaks(recipe, passes, gpu), strict=True)]


def _peaks(recipe: Recipe, passes: list[Pass], gpu: bool) -> Iterator[int]:
    """Most that forward and backward of each pass hold, gradients included. From three patients on it grows in proportion."""
    known: dict[int, int] = {}
    for each in passes:
        if each.patients <= 3:
            known[each.patients] = trace(recipe, each, gpu)
            yield known[each.patients]
        else:
            yield known[3] + (each.patients - 3) * (known[3] - known[2])


def trace(recipe: Recipe, at_once: Pass, gpu: bool) -> int:
    """Runs one patient, or several, through loss, preconditioner and network on tensors that take no memory; returns bytes at the peak."""
    views = recipe.privacy.views
    count = at_once.patients * views if at_once.whole else 1
    with FakeTensorMode():
        network = recipe.build_network(recipe.engine.activation_checkpointing)
        trained = list(network.parameters())
        each = PerSample(network) if at_once.patients > 1 else None
        bare = InPrecision(network, recipe.engine)
        preconditioner: Preconditioner = recipe.preconditioner.blank(recipe.data.shape, count)

        def call(inputs: Tensor, noise: Tensor) -> Tensor:
            return bare(*(each.inputs(inputs, noise) if each else (inputs, noise)))

        def losses() -> Tensor:
            x = torch.zeros(count, recipe.channels, *recipe.piece)
            held = preconditioner.held_out(range(count))
            return denoising_loss(PreconditionedDenoiser(call, held), held.weight, x, torch.zeros_like(x[:, :1]), torch.ones(count))

        with Allocations(None if gpu else conv_workspace) as followed:
            for _ in range(1 if at_once.whole else min(views, 2)):  # the mean over views is kept while the next one is computed
                if each is not None:
                    gradients = each.gradients(losses(), at_once.patients)
                else:
                    gradients = list(torch.autograd.grad(losses().mean(), trained, allow_unused=True))
                kept = gradients
        del kept
    return int(followed.peak)


def _free(device: torch.device) -> int:
    """Bytes that nobody has taken, on the device."""
    if device.type != "cpu":
        return int(torch.get_device_module(device).mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # in a container
        root = Path("/sys/fs/cgroup")
        free = min(free, int((root / "memory.max").read_text()) - int((root / "memory.current").read_text()))
    return max(free, 0)


def _called(at_once: Pass, recipe: Recipe) -> str:
    views = recipe.privacy.views
    if not at_once.whole:
        return "one patient" if views == 1 else f"one of a patient's {views} views"
    people = "one patient" if at_once.patients == 1 else f"{at_once.patients} patients"
    return people if views == 1 else f"{people} with {views} views"
