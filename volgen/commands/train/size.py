"""What ``volgen train --dry-run`` prints: the size of a run, from networks that have shapes but no memory."""

from __future__ import annotations

import torch

from volgen.planning.checkpoints import checkpoint_bytes
from volgen.planning.step import size_of
from volgen.recipe import Recipe

FP32, BF16 = 4, 2
SHOWN = 12


def report(recipe: Recipe) -> str:
    """Parameters, bytes and spans of a recipe, as text. No store is read and nothing is written."""
    with torch.device("meta"):
        phase = recipe.trained()[-1]
        size = size_of(recipe, phase, recipe.build().network(phase))
    parameters, buffers = size.released, size.buffers
    phases = recipe.phases()
    exported = parameters * FP32 + buffers
    resumable = checkpoint_bytes(size)
    trains = f"; {size.parameters:,} in each are trained (adapter {recipe.adapter.kind})" if recipe.adapter.needs_trained else ""
    total = parameters * recipe.experts.count
    x, y, z = recipe.data.shape
    each = " for each noise level" if recipe.stopping.steps_per == "point" else ""
    made = f", in pieces of {' x '.join(map(str, recipe.piece))} ({recipe.assembly.kind})" if recipe.assembly.piecewise else ""
    lines = [
        f"{recipe.name}: {recipe.experts.count} experts on {len(recipe.schedule.grid())} noise levels, volumes of {x} x {y} x {z}{made}",
        f"network              {recipe.network.kind} with {recipe.build().inputs} input channels ({recipe.preconditioner.kind})",
        f"parameters           {parameters:,} in each expert, {total:,} in all{trains}",
        f"weights              {_size(exported)} in fp32 or {_size(parameters * BF16 + buffers)} in bf16 for each expert; "
        f"{_size(total * FP32)} or {_size(total * BF16)} in all",
        f"Adam and EMA         {_size(3 * size.parameters * FP32)} in fp32 for the one expert that is being trained",
        f"preconditioner       {_preconditioner(recipe)}",
        f"disk for the run     {_size(exported * len(phases) + resumable)}: {len(phases)} weight files, one expert's checkpoints",
        f"order of training    {'shared network, then ' if phases[0].index is None else ''}{recipe.experts.order.replace('_', ' ')} noise, "
        f"each from {recipe.start.told(recipe)}, at most {recipe.stopping.max_steps} steps{each} of {recipe.data.batch_size} volumes",
    ]
    experts = sorted((phase for phase in phases if phase.index is not None), key=lambda phase: phase.span.low)
    rows = [f"  expert {p.index:>4}   sigma [{p.span.low:.5g}, {p.span.high:.5g})   {len(p.points)} grid points" for p in experts]
    if len(rows) > SHOWN:
        rows = [*rows[: SHOWN // 2], f"  ... {len(rows) - SHOWN} more ...", *rows[-SHOWN // 2 :]]
    return "\n".join([*lines, "spans:", *rows])


def _preconditioner(recipe: Recipe) -> str:
    """What a fit keeps, of a cohort that is large enough for all of its components."""
    fit = recipe.preconditioner.fit_bytes(recipe.data.shape)
    if not fit:
        return "nothing to fit"
    with torch.device("meta"):
        kept = recipe.preconditioner.blank(recipe.data.shape, 10_000).state(training=True)
    held = sum(tensor.numel() * tensor.element_size() for tensor in kept.values() if tensor.is_floating_point())
    return f"{_size(held)} on each device while training; fitting takes at most {_size(fit)} on rank 0, for any number of people"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
