"""A guidance with its solver, as a row of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from volgen.bench._shared.scene import Made, Scene
from volgen.core.config import validate
from volgen.core.registry import config_class
from volgen.runs.choices import solver_for
from volgen.runs.trained import TrainedRun

GUIDANCES, SAMPLERS = "volgen.sampling.guidances", "volgen.sampling.samplers"


@dataclass(frozen=True)
class Guided:
    """A guidance and the solver that it goes with.

    Attributes:
        guidance: configuration of the guidance.
        solver: configuration of the solver.
    """

    guidance: Any
    solver: Any

    @property
    def identity(self) -> dict[str, Any]:
        """Both, as a record of figures knows them by."""
        return {"guidance": self.guidance.model_dump(mode="json"), "sampler": self.solver.model_dump(mode="json")}

    def __call__(self, scene: Scene) -> Made:
        """Draws the scene's volumes."""
        found = dict[int, Tensor]()
        drawing = scene.drawing(self.guidance.build(), self.solver)
        drawing.draw(scene.seed, range(scene.count), found.__setitem__, lambda count, note: None)
        return Made([found[index] for index in range(scene.count)])


def guided(trained: TrainedRun, kind: str, tuned: Mapping[str, Mapping[str, Any]], iterations: int | None) -> Guided:
    """A guidance with the solver that its paper takes, or with what was tuned."""
    content: dict[str, Any] = {"kind": kind, **tuned.get("guidance", {})}
    cls = config_class(GUIDANCES, kind)
    if iterations is not None and "tolerance" in cls.model_fields:  # a number of iterations that is no part of the method
        content["iterations"] = iterations
    guidance: Any = validate(cls, content, kind)
    solver = dict(tuned.get("sampler", {}) or guidance.goes_with)
    if not solver:
        return Guided(guidance, solver_for(trained, guidance.build()))
    return Guided(guidance, validate(config_class(SAMPLERS, str(solver["kind"])), solver, kind))
