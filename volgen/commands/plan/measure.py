"""Calibration: real training steps on this machine, with made-up volumes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from volgen import recipe as recipes
from volgen.commands.plan.process import run_apart
from volgen.methods import Fitted
from volgen.parallel import launch as launches
from volgen.parallel.engine import Engine
from volgen.recipe import Recipe
from volgen.training.draws import StepDraws
from volgen.training.ema import EMA

SOMEBODY = "somebody"
"""Id of the one made-up scan."""
STEPS, SECONDS, MOST = 2, 2.0, 40
"""Least number of steps that are timed, seconds to time them for, and the largest number of them: one short step says little."""


@dataclass(frozen=True)
class Measured:
    """Seconds on this machine.

    Attributes:
        step: seconds of one optimiser step of one rank: its micro-batches, the update and the average.
        cpu: processor seconds of all threads in the same step; on a busy machine the better measure of a CPU.
        micro_batch: volumes of a micro-batch.
        device: what computed.
    """

    step: float
    cpu: float
    micro_batch: int
    device: str


def measure(recipe: Recipe, micro_batch: int, people: int, place: int = -1) -> Measured:
    """Times some steps after one that is not counted (the first use of every kernel).

    Args:
        recipe: what would be trained.
        micro_batch: volumes in one forward pass.
        people: training volumes, which size the preconditioner.
        place: which of the networks that it trains, in their order; the last one stands for all but those that come first.
    """
    device = launches.take_part(launches.Launch())
    phase = recipe.trained()[place]
    recipe = recipe if phase.points else recipe.of(phase)  # what comes first may have an optimiser of its own
    method = recipe.build()
    network = method.network(phase)
    objective = method.objective(phase, made_up(recipe, people, device))
    rate = recipe.optimiser.matrix_learning_rate / recipe.optimiser.learning_rate
    clip, make = recipe.optimiser.gradient_clip, recipe.optimiser.make()
    engine = Engine(network, recipe.engine, micro_batch, gradient_clip=clip, matrix_rate=rate, make=make)
    ema = EMA(recipe.ema, engine.masters())

    def step(number: int) -> None:
        for _ in range(recipe.engine.accumulation):
            examples = method.examples(micro_batch, partial(torch.rand, device=device))
            draws = StepDraws(recipe.seed, "plan", number, micro_batch, range(micro_batch))
            engine.backward(objective.loss(engine, examples, draws, [SOMEBODY] * micro_batch).mean())
        engine.step(1e-6)
        ema.update(engine.masters())
        if device.type != "cpu":
            torch.accelerator.synchronize()

    try:
        step(0)
        wall, cpu = timed(step)
    finally:
        engine.destroy()
    return Measured(wall, cpu, micro_batch, device.type)


def made_up(recipe: Recipe, people: int, device: torch.device) -> Fitted:
    """A preconditioner as large as a fit to ``people`` volumes, :data:`SOMEBODY` among them, whose numbers keep the loss finite."""
    state = recipe.preconditioner.blank(recipe.grid, people).state(training=True)
    numbers = {name: tensor.fill_(0.1) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    return Fitted(recipe.preconditioner.restore(numbers).to(device), {SOMEBODY: 0}, recipe.build().space(None, device))


def timed(step: Callable[[int], None], most: int = MOST) -> tuple[float, float]:
    """Seconds and processor seconds of one step: the mean of as many, numbered from 1, as take :data:`SECONDS`."""
    number, began, cpu = 0, time.perf_counter(), time.process_time()
    while number < STEPS or (time.perf_counter() - began < SECONDS and number < most):
        number += 1
        step(number)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    return wall / number, cpu / number


def calibrate_apart(recipe: Recipe, micro_batch: int, people: int, place: int = -1) -> Measured:
    """The same in a process of its own, which does not share kernels and memory with what ran here before."""
    return Measured(**json.loads(run_apart(recipe, __name__, "report", micro_batch, people, place)))


def report(path: str, micro_batch: int, people: int, place: int) -> None:
    """Prints a measurement as JSON without blanks."""
    print(json.dumps(asdict(measure(recipes.load(Path(path)), micro_batch, people, place)), separators=(",", ":")))
