"""How many experts there are, what each starts from and in which order they are trained."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Literal, Self

from pydantic import NonNegativeInt, PositiveInt, model_validator

from volgen.core.config import MAY_CHANGE, Config
from volgen.core.errors import UserError
from volgen.core.span import SigmaSpan, tile


class ExpertsConfig(Config):
    """A bank of K denoisers that share the sigma axis. K = 1 is the usual single network, K = T one network per timestep."""

    count: PositiveInt = 1
    """K, at most the number of points of the schedule."""
    points: tuple[PositiveInt, ...] = ()
    """The schedule's points that each expert owns, lowest noise first; equally many if empty."""
    order: Literal["high_to_low", "low_to_high"] = "high_to_low"
    """Order of training along the noise axis."""
    warm_start: Literal["neighbour", "shared", "none"] = "neighbour"
    """Weights that an expert starts from: the expert trained before it, the shared network, or random ones."""
    chains: PositiveInt = 1
    """Contiguous parts of the order, each a chain of neighbours that begins from the shared network (without one, from random weights).
    That many experts can be trained at a time; with one chain they follow one another."""
    groups: Annotated[PositiveInt, MAY_CHANGE] = 1
    """Equal groups of ranks that train experts side by side, each ZeRO's world. Changes no number; may change between launches."""
    shared_steps: NonNegativeInt = 0
    """Steps of training one network on all noise levels first (Balaji et al. 2022, eDiff-I): a fixed count. Experts start from it. Where
    experts are of several models, there is one for each, on the noise levels of its experts."""
    on_grid: bool = True
    """Whether to train at the schedule's points only (the levels that sampling visits), or anywhere inside each span (log-uniform)."""

    @property
    def alike(self) -> tuple[int, ...]:
        """How many experts are made alike, lowest noise first: weights pass from one to another only among them."""
        return (self.count,)

    @property
    def own_batches(self) -> bool:
        """Whether some are trained on batches of another size than the run's."""
        return False

    @property
    def heads(self) -> set[int]:
        """Places in the order of training at which a chain of neighbours begins: where chains are cut, and where other models begin."""
        sizes = self.alike[::-1] if self.order == "high_to_low" else self.alike
        return {link * self.count // self.chains for link in range(self.chains)} | {0, *accumulate(sizes[:-1])}

    @property
    def at_a_time(self) -> int:
        """Experts that can be trained at the same time, once there is a shared network."""
        return len(self.heads) if self.warm_start == "neighbour" else self.count

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.points and len(self.points) != self.count:
            raise ValueError(f"points has {len(self.points)} numbers, but count is {self.count}: each expert needs one")
        if self.warm_start == "shared" and not self.shared_steps:
            raise ValueError("warm_start is 'shared', but shared_steps is 0: there is no shared network to start from")
        if self.shared_steps and self.warm_start == "none":
            raise ValueError("shared_steps trains a shared network, but warm_start is 'none': no expert would start from it")
        if self.chains > self.count:
            raise ValueError(f"chains is {self.chains}, but there are {self.count} experts: each chain needs at least one")
        if self.chains > 1 and self.warm_start != "neighbour":
            raise ValueError(f"chains are chains of neighbours, but warm_start is '{self.warm_start}': leave it at 1")
        if self.groups > self.at_a_time:
            found = f"groups is {self.groups}, but only {self.at_a_time} of the experts can be trained at a time"
            raise ValueError(f"{found}: the other groups would idle. Lower it, or raise chains")
        return self


SHARED = "shared"


@dataclass(frozen=True)
class Phase:
    """One network to train: an expert, or the shared network before them.

    Attributes:
        name: ``shared`` (``shared-<model>`` if there are several models) or the expert's index; also its folder in ``experts/``.
        index: the expert's index, None for a shared network.
        span: noise levels it owns.
        points: the schedule's points inside the span, ascending; empty for a network that knows no noise.
        start: name of the phase whose exported weights it starts from, None for random ones.
        max_steps: upper bound of its training, None for that of the stopping rule.
        model: what it is made of, a number among the models of the run; it starts only from networks of the same model.
        needs: names of other phases that have to be finished before it, such as the autoencoder of its latents.
    """

    name: str
    index: int | None
    span: SigmaSpan
    points: tuple[float, ...]
    start: str | None
    max_steps: int | None = None
    model: int = 0
    needs: tuple[str, ...] = ()

    @property
    def shared(self) -> bool:
        """Whether experts start from it: other networks without an index know no noise, such as the autoencoder of latents."""
        return self.index is None and bool(self.points)

    @property
    def label(self) -> str:
        """What people call it."""
        if self.index is not None:
            return f"expert {self.index}"
        if self.name == SHARED:
            return "the shared network"
        return f"the shared network of model {self.model}" if self.name.startswith(SHARED) else f"the {self.name}"

    @property
    def levels(self) -> str:
        """Its noise levels, for people; "" if it has none."""
        return f" (sigma {self.points[0]:.3g} to {self.points[-1]:.3g})" if self.points else ""

    def sigma(self, quantile: float, on_grid: bool) -> float:
        """Noise level at a quantile in [0, 1) of this phase's training distribution.

        On the grid: uniform over the points, ascending. Otherwise log-uniform over the span; the lowest span starts at the
        schedule's sigma_min, because it reaches down to 0, which has no logarithm.
        """
        if on_grid:
            return self.points[int(quantile * len(self.points))]
        low, high = math.log(self.span.low or self.points[0]), math.log(self.span.high)
        # exp(log(x)) may be a rounding error beyond x, where another expert begins.
        return min(math.exp(low + quantile * (high - low)), math.nextafter(self.span.high, 0.0))


def plan(config: ExpertsConfig, grid: Sequence[float]) -> list[Phase]:
    """The phases of a run, in an order in which one process can train them: none starts from a later one.

    Args:
        config: the bank.
        grid: the schedule's points, in any order.
    """
    spans = tile(grid, config.count, config.points)
    ascending = sorted(grid)

    def owned(span: SigmaSpan) -> tuple[float, ...]:
        return tuple(ascending[bisect_left(ascending, span.low) : bisect_left(ascending, span.high)])

    models = [model for model, size in enumerate(config.alike) for _ in range(size)]
    phases, shared = [], dict[int, str]()
    for model in range(len(config.alike) if config.shared_steps else 0):
        mine = [span for span, of in zip(spans, models, strict=True) if of == model]
        whole = SigmaSpan(mine[0].low, mine[-1].high)
        shared[model] = SHARED if len(config.alike) == 1 else f"{SHARED}-{model}"
        phases.append(Phase(shared[model], None, whole, owned(whole), None, max_steps=config.shared_steps, model=model))
    before: str | None = None
    heads = config.heads
    order = range(config.count - 1, -1, -1) if config.order == "high_to_low" else range(config.count)
    for place, index in enumerate(order):
        first = shared.get(models[index])
        start = {"neighbour": first if place in heads else before, "shared": first, "none": None}[config.warm_start]
        phases.append(Phase(str(index), index, spans[index], owned(spans[index]), start, model=models[index]))
        before = str(index)
    return phases


def select(phases: Sequence[Phase], only: str) -> list[Phase]:
    """The shared networks alone (``shared``), or a range of experts and the shared networks too: whoever needs one first may train it.

    Args:
        phases: the whole plan.
        only: ``shared``, or a range as :func:`indices` reads it.

    Raises:
        UserError: it is neither, or there is no shared network.
    """
    shared = [phase for phase in phases if phase.index is None]
    if only == SHARED:
        if not shared:
            raise UserError("--only", "there is no shared network", "experts.shared_steps above 0, or a range of experts")
        return shared
    chosen = indices(only, len(phases) - len(shared))
    return [phase for phase in phases if phase.index is None or phase.index in chosen]


def blocker(phase: Phase, phases: Sequence[Phase], finished: Collection[str]) -> Phase | None:
    """The phase that has to be trained next before ``phase`` can begin; None if it can begin now."""
    named = {other.name: other for other in phases}
    found = None
    while unmet := [name for name in (phase.start, *phase.needs) if name is not None and name not in finished]:
        phase = found = named[unmet[0]]
    return found


def indices(text: str, count: int) -> range:
    """Experts of a half-open range such as ``8:16``. ``:8`` begins with the first; ``8:`` goes on to the last, and so does one beyond it.

    Raises:
        UserError: it is no such range, or has no expert of the bank in it.
    """
    match = re.fullmatch(r"(\d*):(\d*)", text.strip())
    found = range(int(match[1] or 0), min(int(match[2] or count), count)) if match else range(0)
    if not found:
        expected = f"FIRST:LAST with 0 <= FIRST < LAST, FIRST < {count}; LAST is not in it"
        raise UserError("--only", f"'{text}' is no range with experts in it", expected)
    return found
