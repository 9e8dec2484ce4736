"""What ``volgen train`` is put together from: data, preconditioner, network and validation of one recipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from volgen.core.errors import UserError
from volgen.core.exit_codes import BAD_INPUT
from volgen.core.progress import say
from volgen.core.protocols import Denoiser
from volgen.core.rng import seeded
from volgen.data.store import Store
from volgen.data.stream import Batch, Stream
from volgen.models.assembly import Assembly
from volgen.models.denoiser import PreconditionedDenoiser, Preconditioner
from volgen.parallel.engine import Engine
from volgen.parallel.group import Group
from volgen.parallel.precision import InPrecision
from volgen.recipe import Recipe
from volgen.stages._preconditioner_file import FOR_TRAINING, check_all, check_unchanged, restore, restore_assembly, write
from volgen.stages._train_start import Start
from volgen.training.interrupt import SIGNALS, Interrupt, Interrupted
from volgen.training.loss import Objective, Weight
from volgen.training.protocols import Pulse, Ranks
from volgen.training.validation import Validator

SECONDS_BETWEEN_LOOKS = 1.0
WAIT = "wait"


def fit_preconditioner(recipe: Recipe, store: Store, root: Path, group: Group, start: Start) -> Preconditioner:
    """Fitted once, on rank 0, to training volumes as they are, or taken from a public run; from then on read from the run."""
    path = root / FOR_TRAINING

    def fit() -> None:
        if path.exists():
            return
        if public := start.fit():
            write(*public, root)
            return
        with closing(Stream(store, "train", recipe.data, recipe.seed)) as stream:
            people = [record.patient for record in stream.records]
            say(f"Fitting the '{recipe.preconditioner.kind}' preconditioner to {len(stream)} volumes.")
            try:
                fitted = recipe.preconditioner.fit(stream.volumes, people, recipe.seed)
                assembly: Assembly = recipe.assembly.fit(stream.scans, people, recipe.seed)
            except ValueError as error:
                raise UserError(str(store.path), str(error), "more people, or other kinds of preconditioner and assembly") from None
        write(fitted, assembly, root)

    on_chief(group, fit)
    do = "delete this file: it will be fitted again"
    fitted = restore(recipe.preconditioner, path, do)
    check_unchanged(path, do)
    # Training needs no other file of the fit, but a run that has lost one could not be sampled from.
    again = f"delete {FOR_TRAINING}: both will be fitted again"
    restore_assembly(recipe.assembly, root, again)
    check_all(root, again)
    return fitted.to(group.device)


def make_objective(stream: Stream, preconditioner: Preconditioner, public: bool) -> Callable[[Engine], Objective]:
    """Each training volume is denoised with statistics that do not know its person, as a new person's will be; public ones know nobody."""
    numbers = {record.id: number for number, record in enumerate(stream.records)}

    def learn(engine: Engine) -> Objective:
        def objective(ids: Sequence[str]) -> tuple[Denoiser, Weight]:
            held_out = preconditioner if public else preconditioner.held_out([numbers[name] for name in ids])
            return PreconditionedDenoiser(engine, held_out), held_out.weight

        return objective

    return learn


def build_network(recipe: Recipe, name: str) -> nn.Module:
    """A network on the CPU without adapters, for weights as they are released; its random ones are a function of the seed and the name."""
    with seeded(recipe.seed, "weights", name):
        return recipe.build_network(recipe.engine.activation_checkpointing)


def make_validator(recipe: Recipe, store: Store, preconditioner: Preconditioner, group: Group) -> Validator:
    """Scores weights on a fixed choice of validation volumes."""
    with closing(Stream(store, "validation", recipe.data, recipe.seed, cut=recipe.assembly.cut)) as stream:
        volumes = stream.validation_volumes(recipe.stopping.validation_volumes, recipe.assembly.views(recipe.data.shape))
    network = build_network(recipe, "validation").to(group.device)
    denoise = PreconditionedDenoiser(InPrecision(network, recipe.engine), preconditioner)
    return Validator(network, denoise, preconditioner.weight, volumes, recipe.stopping.validation_draws, recipe.seed, group)


def batches(stream: Stream, device: torch.device) -> Callable[[int], Batch]:
    """Number of a batch -> this rank's part of it, on its device."""

    def batch(step: int) -> Batch:
        found = stream.batch(step)
        return replace(found, x_BCXYZ=found.x_BCXYZ.to(device, non_blocking=True))

    return batch


def on_chief(group: Ranks, work: Callable[[], object]) -> None:
    """Rank 0 does some work while the others wait; if it fails, they end quietly instead of waiting for ever."""

    def silent() -> str:
        work()
        return ""

    from_chief(group, silent)


def from_chief(group: Ranks, work: Callable[[], str]) -> str:
    """What rank 0's work returns, on every rank; if it fails there, the other ranks end quietly instead of waiting for ever."""
    failure: BaseException | None = None
    answer = ""
    if group.rank == 0:
        try:
            answer = f"={work()}"
        except BaseException as error:
            failure = error
    answer = group.gather(answer or "!")[0]
    if failure is not None:
        raise failure
    if answer == "!":
        raise SystemExit(BAD_INPUT)
    return answer[1:]


class Pulses:
    """Everybody who wants to hear of every step."""

    def __init__(self, *listeners: Pulse) -> None:
        self._listeners = listeners

    def beat(self) -> None:
        """A step, or something else that takes time, has ended."""
        for listener in self._listeners:
            listener.beat()


def when_ready(group: Ranks, look: Callable[[], str], interrupt: Interrupt, pulse: Pulse) -> str:
    """Looks, on rank 0, until there is something else to see than :data:`WAIT`, and returns it on every rank.

    Raises:
        SystemExit: a signal arrived, and there is nothing to save.
    """
    while (seen := from_chief(group, look)) == WAIT:
        if stop := told_to_stop(group, interrupt):
            say("Stopped while waiting. The same command continues this run.")
            raise SystemExit(Interrupted(stop).exit_code)
        pulse.beat()  # others are at work
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return seen


def told_to_stop(group: Ranks, interrupt: Interrupt) -> int:
    """The signal that ranks have received, 0 for none; of several the first of :data:`SIGNALS`. A collective call."""
    received = {int(text) for text in group.gather(str(int(interrupt.received)))}
    return next((int(number) for number in SIGNALS if number in received), 0)
