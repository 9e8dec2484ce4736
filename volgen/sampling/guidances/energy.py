"""The sample reaches the data along the path on which its energy rises least, rather than along the shortest.

Song et al. 2022 move the sample to the nearest point of the hyperplane A u = y_s, y_s = y + s A z (see ``song``). The nearest point may
be one that hardly any volume is near to: for a Gaussian the energy -log p_s of each coefficient, which should be 1/2 on average, is then
up to three times as high at low noise. Three ways to choose another point:

``gaussian``: x^ = x + S_s A* (A S_s A*)^-1 (y_s - A x), S_s = S + s^2.
    Of all points of the hyperplane it is the one for which x^ - x has the least energy in the fitted Gaussian N(m, S); and if x is of
    the prior, x^ is of the prior given A x = y_s: exactly, for a Gaussian.
``score``: x^ <- x^ + stride s^2 s_proj, s_proj = score * (score * n > 0) element by element, where n leads to the nearest point.
    As long as the score points where the data are, the sample follows it, but no further than where it is nearest to the hyperplane. What
    is left then is gone by the proximal step: also where s_proj vanishes, which :meth:`Energy.noted` counts.
``grid``: a grid of points from x to the hyperplane, in the plane of n and of the part of the score that the instrument does not see.
    The shortest path from x to any point of the hyperplane is taken, each edge as long as the energy rises on it (the trapezoid of the
    score at its ends), by Dijkstra's algorithm. In this plane every point of the last column explains the data.

The last two ask the denoiser more often: ``moves`` times, and the square of ``points``, for each step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from volgen.core.protocols import Denoiser, Guidance, Measurement, Noises, Problem, Proximal, Sampler, Solver, Step
from volgen.core.search import Search
from volgen.sampling.guidances._data import Solving, measurement, proximal
from volgen.sampling.guidances._spread import Spread, covariance_of

Path = Literal["gaussian", "score", "grid"]
Pull = Callable[[Tensor], Tensor]
VANISHES = 1e-3
"""A score whose part towards the data is smaller than this share of it points nowhere."""
REACHED = 1e-3
"""A way that is shorter than this share of what it was is none."""
LONGER = 1e-6
"""What an edge without a rise of energy costs, relative to the steepest one: of paths on which it rises alike, the shorter."""


class Config(Solving):
    """Song et al. 2022 along the path on which the energy rises least, rather than the shortest."""

    goes_with: ClassVar[Mapping[str, Any]] = {"kind": "ddpm"}
    searched: ClassVar[Mapping[str, Search]] = {"strength": Search(0.0, 1.0)}
    kind: Literal["energy"] = "energy"
    path: Path = "gaussian"
    """How a point that explains the data is chosen."""
    strength: float = Field(default=1.0, ge=0.0, le=1.0)
    """How far the sample goes on its path (Song et al.'s lambda)."""
    end: float = Field(default=1.0, ge=0.0, le=1.0)
    """Lambda of the proximal step after the last step."""
    moves: int = Field(default=5, ge=1, le=1000)
    """``score``: moves along the projected score in one step, each with an evaluation of the denoiser."""
    stride: float = Field(default=0.5, gt=0.0, le=1.0)
    """``score``: length of a move, in units of the one that ends in what the denoiser expects."""
    points: int = Field(default=5, ge=2, le=101)
    """``grid``: points along each of its two axes, each with an evaluation of the denoiser."""

    def build(self) -> Energy:
        """Makes the guidance."""
        return Energy(self)


class Energy(Guidance):
    """What this module says.

    Args:
        config: its settings.
    """

    moves = True

    def __init__(self, config: Config) -> None:
        self.config = config
        self.spread = Spread(config.limits)
        self.count: Counter[str] = Counter()

    def check(self, problem: Problem) -> None:
        """Wants a measurement, and for a path of the Gaussian what is known of it.

        Raises:
            UserError: there is none.
        """
        measurement(problem, "energy")
        if self.config.path == "gaussian":
            covariance_of(problem)

    def solver(self, sampler: Sampler, problem: Problem, noises: Noises) -> Solver:
        """The solver's step from a sample that agrees with the data."""
        return _Reaching(sampler, problem, measurement(problem, "energy"), noises, self)

    def noted(self) -> Mapping[str, float]:
        """Shares of steps in which the projected score vanished (``fell_back``), or in which something was left after it (``finished``)."""
        steps = self.count["steps"]
        return {name: self.count[name] / steps for name in ("fell_back", "finished")} if steps and self.config.path != "gaussian" else {}


@dataclass(frozen=True)
class _Reaching:
    sampler: Sampler
    problem: Problem
    measured: Measurement
    noises: Noises
    method: Energy

    def step(self, denoise: Denoiser, x_BCXYZ: Tensor, step: Step, memory: Any) -> tuple[Tensor, Any]:
        config, measured = self.method.config, self.measured
        agreeing = proximal(measured, math.inf, config.limits)
        data = measured.data + measured.operator.apply(step.sigma * self.noises(0))
        x_BCXYZ = x_BCXYZ.lerp(self._reached(denoise, x_BCXYZ, data, step.sigma, agreeing), config.strength)
        x_BCXYZ, memory = self.sampler.step(denoise, x_BCXYZ, step, memory)
        if step.sigma_next == 0.0:
            x_BCXYZ = x_BCXYZ.lerp(agreeing(x_BCXYZ, measured.data), config.end)
        return x_BCXYZ, memory

    def _reached(self, denoise: Denoiser, x_BCXYZ: Tensor, data: Tensor, sigma: float, agreeing: Proximal) -> Tensor:
        """A point that explains the data."""
        config, count = self.method.config, self.method.count
        count["steps"] += 1
        if config.path == "gaussian":
            return x_BCXYZ + self.method.spread.noisy(self.problem, data - self.measured.operator.apply(x_BCXYZ), sigma)

        def pull(y_BCXYZ: Tensor) -> Tensor:
            """sigma^2 times the score."""
            return denoise(y_BCXYZ, y_BCXYZ.new_full((1,), sigma)) - y_BCXYZ

        if config.path == "score":
            x_BCXYZ, end = _along_the_score(pull, x_BCXYZ, lambda y: agreeing(y, data), config.moves, config.stride)
        else:
            unseen = torch.zeros_like(data)
            x_BCXYZ, end = _over_a_grid(pull, x_BCXYZ, agreeing(x_BCXYZ, data), lambda y: agreeing(y, unseen), sigma, config.points)
        count[end] += 1
        return agreeing(x_BCXYZ, data)


def _along_the_score(pull: Pull, x_BCXYZ: Tensor, agreeing: Pull, moves: int, stride: float) -> tuple[Tensor, str]:
    """Where the projected score leads, and how that ended."""
    whole = float(torch.linalg.vector_norm(agreeing(x_BCXYZ) - x_BCXYZ))
    for _ in range(moves):
        way = agreeing(x_BCXYZ) - x_BCXYZ
        if float(torch.linalg.vector_norm(way)) <= REACHED * whole:
            return x_BCXYZ, "reached"
        score = pull(x_BCXYZ)
        towards = torch.where(score * way > 0, score, 0.0)
        if float(torch.linalg.vector_norm(towards)) <= VANISHES * float(torch.linalg.vector_norm(score)):
            return x_BCXYZ, "fell_back"
        # What a unit of it takes off the way; it goes no further than where that is as short as it gets.
        taken = way - (agreeing(x_BCXYZ + towards) - (x_BCXYZ + towards))
        size = float((taken * taken).sum())
        best = float((way * taken).sum()) / size if size > 0 else 0.0
        x_BCXYZ = x_BCXYZ + min(stride, best) * towards
    return x_BCXYZ, "finished"


def _over_a_grid(pull: Pull, x_BCXYZ: Tensor, end_BCXYZ: Tensor, unseen: Pull, sigma: float, points: int) -> tuple[Tensor, str]:
    """The end of the shortest path over a grid, and how that ended."""
    across = end_BCXYZ - x_BCXYZ
    length, beside = float(torch.linalg.vector_norm(across)), unseen(pull(x_BCXYZ))
    size = float(torch.linalg.vector_norm(beside))
    if not length or not size:
        return end_BCXYZ, "reached" if not length else "fell_back"
    beside = beside * (length / size)
    nodes = [(a / (points - 1), b / (points - 1)) for a in range(points) for b in range(points)]
    places = [x_BCXYZ + a * across + b * beside for a, b in nodes]
    scores = [pull(place) / sigma**2 for place in places]
    ends = range((points - 1) * points, points**2)
    tree = dijkstra(_rises(places, scores, points), indices=0)
    return places[min(ends, key=lambda node: float(tree[node]))], "reached"


def _rises(places: list[Tensor], scores: list[Tensor], points: int) -> Any:
    """Rise of energy from each point to its eight neighbours, at least a little."""
    rows, columns, rises, lengths = list[int](), list[int](), list[float](), list[float]()
    for one in range(points**2):
        for a, b in ((1, 0), (0, 1), (1, 1), (1, -1), (-1, 0), (0, -1), (-1, -1), (-1, 1)):
            row, column = divmod(one, points)
            if 0 <= row + a < points and 0 <= column + b < points:
                other = (row + a) * points + column + b
                rise = -float(((scores[one] + scores[other]) / 2 * (places[other] - places[one])).sum())
                rows, columns, rises, lengths = [*rows, one], [*columns, other], [*rises, rise], [*lengths, math.hypot(a, b)]
    costs = np.maximum(np.asarray(rises), 0.0)
    costs += LONGER * max(float(np.abs(rises).max()), 1e-30) * np.asarray(lengths)
    return coo_matrix((costs, (rows, columns)), shape=(points**2, points**2)).tocsr()
