"""One arm of `volgen bench privacy`: some steps with made-up volumes, in the process that this is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from volgen.commands.plan.measure import timed
from volgen.core.given import Examples
from volgen.core.manifest import peak_memory_bytes
from volgen.data.stream import Batch
from volgen.images.intensity import to_model
from volgen.methods import Fitted
from volgen.parallel import launch as launches
from volgen.parallel.engine import Engine
from volgen.parallel.group import Group
from volgen.parallel.private_engine import Pass, PrivateEngine
from volgen.privacy.mechanism import GradientMechanism
from volgen.privacy.per_sample import PerSample
from volgen.privacy.plans.dp_sgd import Mechanism
from volgen.privacy.secret import Secret
from volgen.recipe import Recipe
from volgen.training.draws import StepDraws
from volgen.training.ema import EMA
from volgen.training.gradient import BatchGradient, GradientRule
from volgen.training.interrupt import Interrupt
from volgen.training.objective import Objective
from volgen.training.private import PatientGradient

MOST = 20
"""Least number of steps that are timed, seconds to time them for, and the largest number of them."""
RATE, NOISE, CLIP = 1e-5, 1.0, 1.0
Step = Callable[[int], None]


@dataclass(frozen=True)
class Exercised:
    """What one process measured.

    Attributes:
        wall: seconds of a step.
        cpu: processor seconds of a step, of all threads.
        peak: resident bytes at most.
        beyond: what of these came after the process had been started and its libraries read.
    """

    wall: float
    cpu: float
    peak: int
    beyond: int


def measure(content: str, arm: int) -> Exercised:
    """What one arm takes; to be called once in a process.

    Args:
        content: the recipe, as JSON.
        arm: its number.
    """
    recipe = Recipe.model_validate_json(content)
    device = launches.take_part(launches.Launch())
    import opacus.grad_sample  # for its size, in every arm
    import opacus.optimizers  # noqa: F401

    before = peak_memory_bytes()
    torch.manual_seed(0)
    network = recipe.build().released(recipe.phases()[-1]).to(device)
    step, end = (_plain, _plain_one_by_one, _one_patient, _several_patients, _opacus)[arm](
        recipe, network, Group(launches.Launch(), device)
    )
    step(0)
    wall, cpu = timed(step, MOST)
    peak = peak_memory_bytes()
    end()
    return Exercised(wall, cpu, peak, peak - before)


def _objective(recipe: Recipe) -> Objective:
    fitted = Fitted(recipe.preconditioner.blank(recipe.data.grid, 1))
    return recipe.build().objective(recipe.phases()[-1], fitted, lambda quantile: 0.2 + quantile)


def _plain(recipe: Recipe, network: nn.Module, group: Group) -> tuple[Step, Callable[[], None]]:
    """Ordinary training: the batch in one pass."""
    return _ordinary(recipe, network, group, 1)


def _plain_one_by_one(recipe: Recipe, network: nn.Module, group: Group) -> tuple[Step, Callable[[], None]]:
    """Ordinary training with accumulation: micro-batches of one volume."""
    return _ordinary(recipe, network, group, recipe.data.batch_size)


def _ordinary(recipe: Recipe, network: nn.Module, group: Group, accumulation: int) -> tuple[Step, Callable[[], None]]:
    size = recipe.data.batch_size
    config = recipe.engine.model_copy(update={"accumulation": accumulation})
    engine = Engine(network, config, size // accumulation, betas=recipe.optimiser.betas)

    def batch(number: int) -> Batch:
        x = to_model(torch.rand(size, 1, *recipe.data.grid))
        return Batch(x.to(group.device), list(range(size)), ["made up"] * size)

    rule = BatchGradient(batch, size, recipe.seed, group, Interrupt(watch_parent=False))
    return _steps(recipe, rule, engine), engine.destroy


def _one_patient(recipe: Recipe, network: nn.Module, group: Group) -> tuple[Step, Callable[[], None]]:
    """Private, a patient at a time."""
    return _private(recipe, network, group, Pass())


def _several_patients(recipe: Recipe, network: nn.Module, group: Group) -> tuple[Step, Callable[[], None]]:
    """Private, all patients in one pass with the hooks of Opacus."""
    return _private(recipe, network, group, Pass(recipe.data.batch_size, all_views=True))


def _private(recipe: Recipe, network: nn.Module, group: Group, at_once: Pass) -> tuple[Step, Callable[[], None]]:
    people = recipe.data.batch_size
    each = PerSample(network) if at_once.patients > 1 else None
    engine = PrivateEngine(network, recipe.engine, betas=recipe.optimiser.betas, at_once=at_once, per_sample=each)
    # Everybody takes part in every step, so that all arms see equally many patients.
    sanitiser = GradientMechanism(Mechanism(1.0, NOISE, CLIP), people, Secret(), 0, 1)

    def views(patients: Sequence[str], phase: str, step: int) -> Iterator[Batch]:
        for _ in patients:
            yield Batch(to_model(torch.rand(1, 1, *recipe.data.grid)), [0], ["made up"])

    rule = PatientGradient(sanitiser, views, [f"{n}" for n in range(people)], group, Interrupt(watch_parent=False))
    return _steps(recipe, rule, engine), engine.destroy


def _steps(recipe: Recipe, rule: GradientRule, engine: Engine) -> Step:
    objective, ema = _objective(recipe), EMA(recipe.ema, engine.masters())

    def step(number: int) -> None:
        rule.take("bench", engine, objective, number + 1, number)
        engine.step(RATE)
        ema.update(engine.masters())
        _wait()

    return step


def _opacus(recipe: Recipe, network: nn.Module, group: Group) -> tuple[Step, Callable[[], None]]:
    """Opacus alone: its module and its optimiser, no DeepSpeed."""
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    size, device = recipe.data.batch_size, group.device
    warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)  # the first layer's input needs no gradient
    wrapped = GradSampleModule(network, loss_reduction="sum")
    adam = torch.optim.AdamW(wrapped.parameters(), lr=RATE, betas=recipe.optimiser.betas)
    optimiser = DPOptimizer(adam, noise_multiplier=NOISE, max_grad_norm=CLIP, expected_batch_size=size, loss_reduction="sum")
    weights = [p.data for p in network.parameters()]
    objective, ema = _objective(recipe), EMA(recipe.ema, weights)

    def step(number: int) -> None:
        x = to_model(torch.rand(size, 1, *recipe.data.grid)).to(device)
        objective.loss(wrapped, Examples(x), StepDraws(recipe.seed, "bench", number, size, range(size))).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        ema.update(weights)
        _wait()

    return step, wrapped.cleanup


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
