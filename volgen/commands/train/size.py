"""What ``volgen train --dry-run`` prints: the size of a run, from networks that have shapes but no memory."""

from __future__ import annotations

import torch

from volgen.experts.plan import Phase
from volgen.parallel.memory import NetworkSize
from volgen.planning.checkpoints import checkpoint_bytes
from volgen.planning.step import kind, networks, size_of, trained_beside
from volgen.recipe import Recipe

FP32, BF16 = 4, 2
SHOWN = 12


def report(recipe: Recipe) -> str:
    """Parameters, bytes and spans of a recipe, as text. No store is read and nothing is written."""
    variants, phases = recipe.variants, recipe.phases()
    sizes = [_of(recipe.of(phase), phase) for phase in networks(recipe)]
    exported = [size.released * FP32 + size.buffers for size in sizes]
    (x, y, z), box = recipe.data.shape, recipe.data.box
    place = f" ({' x '.join(map(str, box.size))} of it computed, from voxel {', '.join(map(str, box.start))})" if box else ""
    made = f", in pieces of {' x '.join(map(str, recipe.piece))} ({recipe.assembly.kind})" if recipe.assembly.piecewise else ""
    bank = f"{recipe.experts.count} experts on {len(recipe.schedule.grid())} noise levels"
    lines = [f"{recipe.name}: {bank}, volumes of {x} x {y} x {z}{place}{made}"]
    for number, (variant, size, count) in enumerate(zip(variants, sizes, recipe.experts.alike, strict=False)):
        if len(variants) > 1:
            first = sum(recipe.experts.alike[:number])
            piece = " x ".join(map(str, variant.piece))
            owners = f"expert {first}" if count == 1 else f"experts {first} to {first + count - 1}"
            lines.append(f"model {number:<15}{owners}: level {variant.level}, view {variant.view.kind}, {piece} at once, {_steps(variant)}")
        lines += _network(variant, size, count)
    lines += [f"border (chosen)      {border.text}" for border in recipe.experts.borders]
    for phase, size in zip(networks(recipe)[len(variants) :], sizes[len(variants) :], strict=True):
        lines.append(f"{phase.label:<20} {size.released:,} parameters, {_size(size.released * FP32 + size.buffers)} in fp32")
    total = sum(exported[kind(recipe, phase)] for phase in phases) + max(checkpoint_bytes(size) for size in sizes)
    each = f", {_steps(recipe)}" if len(variants) == 1 else ""
    earlier = dict.fromkeys("shared network" if phase.shared else phase.name for phase in phases if phase.index is None)
    before = "".join(f"{name}, then " for name in earlier)
    lines += [
        f"preconditioner       {_preconditioner(recipe)}",
        f"disk for the run     {_size(total)}: {len(phases)} weight files, one expert's checkpoints",
        f"order of training    {before}{recipe.experts.order.replace('_', ' ')} noise, each from {recipe.start.told(recipe)}{each}",
    ]
    experts = sorted((phase for phase in phases if phase.index is not None), key=lambda phase: phase.span.low)
    rows = [f"  expert {p.index:>4}   sigma [{p.span.low:.5g}, {p.span.high:.5g})   {len(p.points)} grid points" for p in experts]
    if len(rows) > SHOWN:
        rows = [*rows[: SHOWN // 2], f"  ... {len(rows) - SHOWN} more ...", *rows[-SHOWN // 2 :]]
    return "\n".join([*lines, "spans:", *rows])


def _of(recipe: Recipe, phase: Phase) -> NetworkSize:
    """The network of a phase, of a recipe of one model."""
    with torch.device("meta"):
        return size_of(recipe, phase, recipe.build().network(phase))


def _network(recipe: Recipe, size: NetworkSize, count: int) -> list[str]:
    """Sizes of the networks of one model, of which there are ``count``."""
    parameters, total = size.released, size.released * count
    fp32, bf16 = _size(parameters * FP32 + size.buffers), _size(parameters * BF16 + size.buffers)
    return [
        f"network              {recipe.network.kind} with {recipe.build().inputs} input channels ({recipe.preconditioner.kind})",
        f"parameters           {parameters:,} in each expert, {total:,} in all{trained_beside(recipe, size)}",
        f"weights              {fp32} in fp32 or {bf16} in bf16 for each expert; {_size(total * FP32)} or {_size(total * BF16)} in all",
        f"Adam and EMA         {_size(3 * size.parameters * FP32)} in fp32 for the one expert that is being trained",
    ]


def _steps(recipe: Recipe) -> str:
    each = " for each noise level" if recipe.stopping.steps_per == "point" else ""
    return f"at most {recipe.stopping.max_steps} steps{each} of {recipe.data.batch_size} volumes"


def _preconditioner(recipe: Recipe) -> str:
    """What a fit keeps, of a cohort that is large enough for all of its components."""
    fit = recipe.preconditioner.fit_bytes(recipe.grid)
    if not fit:
        return "nothing to fit"
    with torch.device("meta"):
        kept = recipe.preconditioner.blank(recipe.grid, 10_000).state(training=True)
    held = sum(tensor.numel() * tensor.element_size() for tensor in kept.values() if tensor.is_floating_point())
    return f"{_size(held)} on each device while training; fitting takes at most {_size(fit)} on rank 0, for any number of people"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
