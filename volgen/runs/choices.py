"""What is chosen beside a run when volumes are drawn from it: a solver and the like, noise levels, experts in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from volgen.core.config import validate
from volgen.core.errors import UserError, nearest_word
from volgen.core.limits import MAX_LEVELS
from volgen.core.protocols import Guidance
from volgen.core.registry import config_class, kinds
from volgen.core.span import owner
from volgen.runs.trained import TrainedRun

BYTES_PER_WEIGHT = {"fp32": 4, "bf16": 2}


def component(option: str, package: str, asked: str | Mapping[str, Any] | None, default: Any) -> Any:
    """A configuration of a file in ``package``; of the default's kind, it changes only what is asked."""
    if asked is None:
        return default
    content = {"kind": asked} if isinstance(asked, str) else dict(asked)
    kind = content.setdefault("kind", getattr(default, "kind", ""))
    if default is not None and kind == default.kind:
        content = {**default.model_dump(mode="json"), **content}
    if kind not in kinds(package):
        raise UserError(option, f"there is no {option[2:]} '{kind}'", "a known kind", nearest_word(str(kind), kinds(package)))
    return validate(config_class(package, kind), content, option)


def check_amounts(memory_gib: float, *amounts: tuple[str, int, int]) -> None:
    """Checks numbers of options that several commands have.

    Args:
        memory_gib: ``--memory-gib``.
        amounts: name of an option, its value, and the least that it may be.

    Raises:
        UserError: names the first that is out of range.
    """
    for option, value, least in amounts:
        if value < least:
            raise UserError(f"--{option}", str(value), f"at least {least}")
    if not (math.isfinite(memory_gib) and memory_gib >= 0):
        raise UserError("--memory-gib", str(memory_gib), "a finite number of GiB, at least 0")


def resident(trained: TrainedRun, memory_gib: float) -> int:
    """How many experts fit into memory; at least two, at most all."""
    experts = trained.ensemble.experts
    largest = max(expert.parameters for expert in experts) * BYTES_PER_WEIGHT[trained.recipe.engine.precision]
    return max(2, int(min(len(experts), memory_gib * 2**30 / largest)))


def costs_of(trained: TrainedRun, grid: Sequence[float], evaluations: Sequence[int]) -> list[float]:
    """Costs of the steps, in proportion: an evaluation costs as its expert has weights and voxels."""
    experts, levels = trained.ensemble.experts, trained.levels(grid)
    weights = [experts[owner(trained.ensemble.spans, sigma)].parameters / 8**level for sigma, level in zip(grid, levels, strict=False)]
    return [count * weight / max(weights) for count, weight in zip(evaluations, weights, strict=True)]


def coarser(trained: TrainedRun, voxel_size: float | None) -> int:
    """How often a run's voxels are doubled on the way to others, given the edge of these in mm; 0 if None.

    Raises:
        UserError: no power of 2 leads there, or such voxels do not fill what the run draws.
    """
    if voxel_size is None:
        return 0
    geometry, option = trained.geometry, "--voxel-size"
    own = geometry.voxel_size
    fitting = []
    for level in range(MAX_LEVELS + 1):
        try:
            fitting.append(geometry.coarser(level).voxel_size)
        except ValueError:
            break
    for level, edges in enumerate(fitting):
        if all(math.isclose(voxel_size, edge, rel_tol=1e-4) for edge in edges):
            return level
    found = f"{voxel_size:g} mm, and the run has voxels of {' x '.join(f'{edge:g}' for edge in own)} mm"
    if len(set(own)) > 1:
        raise UserError(option, found, "a run of voxels with equal edges", "leave it out")
    possible = " or ".join(f"{edge:g}" for edge, *_ in fitting)
    raise UserError(option, found, f"{possible}: means over cubes of whole voxels that fill its grid")


def visited(trained: TrainedRun, steps: int | None, below: float = math.inf) -> list[float]:
    """The points of a run's grid that a descent of some steps visits; of a usual one if None. None of them is above ``below``.

    Raises:
        UserError: there are no such.
    """
    return trained.recipe.build().visits(trained.ensemble.grid, steps, below)


def fewer(trained: TrainedRun, steps: int | None) -> int | None:
    """Steps of a descent that is shortened to a number of them; None, for a usual one, where the run has no more."""
    return None if steps is None or steps >= len(trained.ensemble.grid) else steps


def masked(operator: str | Mapping[str, Any] | None, mask: str | Mapping[str, Any] | None) -> str | Mapping[str, Any] | None:
    """What was asked of an operator, with its mask.

    Raises:
        UserError: there is a mask, and no operator.
    """
    if mask is None:
        return operator
    if operator is None:
        raise UserError("--mask", "is there, and --operator is not", "an operator that measures k-space")
    content = {"kind": operator} if isinstance(operator, str) else dict(operator)
    return {**content, "mask": {"kind": mask} if isinstance(mask, str) else dict(mask)}


def solver_for(trained: TrainedRun, guide: Guidance) -> Any:
    """The recipe's solver, or the first that renoises where the guidance draws volumes rather than expecting them."""
    if not guide.renoises:
        return trained.recipe.sampler
    known = [config_class("volgen.sampling.samplers", kind)() for kind in kinds("volgen.sampling.samplers")]
    return next((solver for solver in known if solver.build().renoises), trained.recipe.sampler)  # type: ignore[attr-defined]
