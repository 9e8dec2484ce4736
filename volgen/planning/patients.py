"""How many patients go through the network at once in private training: as many as memory allows, and one where more is not exact."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from volgen.methods import Fitted
from volgen.models.condition import embedded
from volgen.models.denoiser import Network, Preconditioner
from volgen.parallel.group import Group
from volgen.parallel.machine import identity
from volgen.parallel.memory import FP32, NetworkSize, engine_memory
from volgen.parallel.memory_trace import Allocations, conv_workspace
from volgen.parallel.private_engine import Pass
from volgen.planning.blank import BlankDraws
from volgen.privacy.per_sample import PerSample, differs, meets
from volgen.recipe import Recipe
from volgen.training.draws import StepDraws

GIB = 2**30
SHARE = 0.5
"""Share of the free memory that is used: the rest is for what allocators lose, and for batches that are read ahead."""
EDGE = 8
"""Voxels along an edge, about, of what Opacus is tried on."""


@dataclass(frozen=True)
class Choice:
    """What goes through the network at once, and why.

    Attributes:
        at_once: the choice.
        need: bytes that training takes with it at most.
        why: the reason, for people.
    """

    at_once: Pass
    need: int
    why: str


def choose(recipe: Recipe, network: nn.Module, group: Group) -> Choice:
    """The choice for one rank, with what is free there now; the same on all ranks. A collective call.

    Args:
        recipe: private.
        network: the network that will be trained, before there is an engine.
        group: the ranks.
    """
    alike = group.gather(identity())
    free = _free(group.device) // (alike.count(alike[group.rank]) if group.device.type == "cpu" else 1)
    why = excluded(recipe) or group.gather("" if group.rank else _differs(recipe, network) or " ")[0].strip()
    passes = recipe.privacy.passes(-(-recipe.data.batch_size // group.world_size), several=not why)
    gpu = group.device.type != "cpu"
    size, held = NetworkSize.of(network, muon=False), peaks(recipe, passes, gpu=gpu)
    needs = [need(recipe, size, group.world_size, peak, gpu) for peak in held]
    # Ranks may have different machines; the least of them decides.
    place = min(int(text) for text in group.gather(str(largest(needs, free))))
    place, apart = _exact(recipe, network, passes, place, group)
    why = apart or why
    if not why and place < len(passes) - 1:
        more = f"{_called(passes[place + 1], recipe)} would take {needs[place + 1] / GIB:.2f}"
        why = f"{more} GiB of {free / GIB:.2f} GiB free, of which {SHARE:.0%} are used at most"
    elif not why:
        why = f"a rank draws {-(-recipe.data.batch_size // group.world_size)} on average"
    text = f"{_called(passes[place], recipe)} at once, {needs[place] / GIB:.2f} GiB on each rank by estimate ({why})"
    return Choice(passes[place], needs[place], text)


def largest(needs: Sequence[int], free: int) -> int:
    """Place of the last that fits; the first is what there is no way around."""
    return max((place for place, count in enumerate(needs) if count <= SHARE * free), default=0)


def excluded(recipe: Recipe) -> str:
    """Why gradients of several patients cannot be had from one pass with this engine, or ""."""
    if recipe.engine.zero_stage == 3:
        return "more patients: not with ZeRO-3, where no layer has its weights"
    if recipe.engine.precision != "fp32":
        return "more patients: not in bf16, where gradients of single patients are rounded otherwise"
    if recipe.engine.activation_checkpointing:
        return "more patients: not with activation checkpointing, which runs a layer twice"
    return ""


def _differs(recipe: Recipe, network: nn.Module) -> str:
    edges = [multiple * -(-EDGE // multiple) for multiple in recipe.network.multiples]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(2, recipe.build().inputs, *edges)
        noise, told = torch.tensor([-0.3, 0.4]), {one.name: torch.randn(2, *one.edges) for one in embedded(recipe.conditions)}
        reason = differs(network, x, noise, *([told] if told else []))
    return f"more patients: {reason}" if reason else ""


def _exact(recipe: Recipe, network: nn.Module, passes: Sequence[Pass], place: int, group: Group) -> tuple[int, str]:
    """The largest pass, up to a place, in which patients do not meet on any rank, of sizes that kernels like; and why not a larger one."""
    most, reason = passes[place].patients, ""
    for patients in sorted({most, most - most % 4, most - most % 2, 1} - {0}, reverse=True):
        place = max(number for number, each in enumerate(passes[: place + 1]) if each.patients == patients)
        said = group.gather(_meets(recipe, network, passes[place], group) or " ") if patients > 1 else []
        if not any(text.strip() for text in said):
            break
        reason = f"more patients: {next(text for text in said if text.strip())}"
    return place, reason


def _meets(recipe: Recipe, network: nn.Module, at_once: Pass, group: Group) -> str:
    generator, count = torch.Generator().manual_seed(0), at_once.patients * recipe.privacy.views
    method = recipe.build()
    examples = method.examples(count, partial(torch.randn, generator=generator)).to(group.device)
    # Any positive numbers will do for what is fitted: kernels do not choose by value.
    blank = recipe.preconditioner.blank(recipe.grid, count).state()
    fitted = {name: torch.rand(tensor.shape, generator=generator) + 0.5 for name, tensor in blank.items()}
    preconditioner: Preconditioner = recipe.preconditioner.restore(fitted).to(group.device)

    space = method.space(None, group.device)
    objective = method.objective(recipe.trained()[-1], Fitted(preconditioner, space=space), lambda quantile: 10.0 ** (quantile - 0.5))

    def loss(network: Network, rows: Sequence[int]) -> Tensor:
        return objective.loss(network, examples[rows], StepDraws(0, "meets", 1, count, rows))

    return meets(copy.deepcopy(network).to(group.device), loss, at_once.patients, recipe.privacy.views)


def need(recipe: Recipe, size: NetworkSize, ranks: int, peak: int, gpu: bool) -> int:
    """Bytes that training takes on one rank: what it holds all the time, and a pass or the update."""
    engine = engine_memory(recipe.privacy.reduced(recipe.engine), size, ranks, gpu)
    whole = FP32 * size.parameters
    average = whole if recipe.engine.zero_stage == 0 else FP32 * -(-size.parameters // ranks)
    total = whole  # of the patients so far
    held = engine.weights + engine.gathered + engine.optimizer + average + engine.buckets + total
    return held + max(peak, engine.reduction + whole, engine.update)


def peaks(recipe: Recipe, passes: Sequence[Pass], gpu: bool) -> list[int]:
    """Most that forward and backward of each pass hold, gradients included. From three patients on it grows in proportion."""
    known: dict[int, int] = {}
    found = []
    for each in passes:
        if each.patients <= 3:
            known[each.patients] = trace(recipe, each, gpu)
            found.append(known[each.patients])
        else:
            found.append(known[3] + (each.patients - 3) * (known[3] - known[2]))
    return found


def trace(recipe: Recipe, at_once: Pass, gpu: bool) -> int:
    """Runs one patient, or several, through loss, preconditioner and network on tensors that take no memory; returns bytes at the peak."""
    views = recipe.privacy.views
    count = at_once.patients * views if at_once.all_views else 1
    with FakeTensorMode():
        phase, method = recipe.trained()[-1], recipe.build()  # all are alike
        network = method.network(phase)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        each = PerSample(network) if at_once.patients > 1 else None
        bare = method.forward(network)
        ids = [str(number) for number in range(count)]
        space, numbers = method.space(None, torch.device("cpu")), {name: number for number, name in enumerate(ids)}
        fitted = Fitted(recipe.preconditioner.blank(recipe.grid, count), numbers, space)
        objective = method.objective(phase, fitted)

        def call(inputs: Tensor, noise: Tensor, *told: Mapping[str, Tensor], **kept: Tensor) -> Tensor:
            return bare(*(each.inputs(inputs, noise) if each else (inputs, noise)), *told, **kept)

        def losses() -> Tensor:
            return objective.loss(call, method.examples(count), BlankDraws(count), ids)

        with Allocations(None if gpu else conv_workspace) as followed:
            for _ in range(1 if at_once.all_views else min(views, 2)):  # the mean over views is kept while the next one is computed
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
    if not at_once.all_views:
        return "one patient" if views == 1 else f"one of a patient's {views} views"
    people = "one patient" if at_once.patients == 1 else f"{at_once.patients} patients"
    return people if views == 1 else f"{people} with {views} views"
