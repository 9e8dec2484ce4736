"""The gradient in which each patient's part is bounded and drowned in noise, and who ends training without looking at losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from volgen.core.given import Examples
from volgen.core.protocols import Pulse
from volgen.training import checkpoint
from volgen.training.draws import JoinedDraws, StepDraws
from volgen.training.gradient import Taken
from volgen.training.interrupt import Interrupt
from volgen.training.judge import Look
from volgen.training.metrics import Metrics
from volgen.training.objective import Objective
from volgen.training.protocols import NO_PULSE, Batch, Engine, Ranks
from volgen.training.together import together, told_to_stop

PUBLIC = ("learning_rate", "gradient_norm")
"""Metrics that give nothing away: the norm is that of the noised gradient. Losses would be exact functions of people."""


class Pass(Protocol):
    """What goes through the network at once: one view, one patient with all views, or several patients."""

    @property
    def patients(self) -> int:
        """Most patients in one pass."""
        ...

    @property
    def all_views(self) -> bool:
        """Whether all views of a patient go together."""
        ...


class PatientEngine(Engine, Protocol):
    """An engine that lets a gradient be taken, changed and given back."""

    @property
    def at_once(self) -> Pass:
        """What goes through the network at once."""
        ...

    @property
    def in_step(self) -> bool:
        """Whether all ranks must make equally many passes."""
        ...

    @property
    def shapes(self) -> list[torch.Size]:
        """Shapes of the trained parameters."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """The gradient of a loss, which nobody else sees."""
        ...

    def gradients_of(self, loss_B: Tensor, patients: int) -> Iterator[list[Tensor]]:
        """The gradient of each patient's mean loss; all views of one after another."""
        ...

    def give(self, gradients: Sequence[Tensor]) -> None:
        """The mean of all ranks' gradients is the next step's."""
        ...


class Sanitiser(Protocol):
    """Sampling, clipping and noise (``volgen/privacy``)."""

    def draw(self, patients: Sequence[str]) -> list[str]:
        """Who takes part in the next step; the same on all ranks."""
        ...

    def seed(self, patient: str) -> int:
        """Seed of all random numbers of one patient's part; nobody else knows it, and it has nothing to do with the other patients."""
        ...

    def zeros(self, shapes: Sequence[torch.Size], device: torch.device) -> list[Tensor]:
        """A sum of nothing."""
        ...

    def add(self, total: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Adds one patient's clipped gradient."""
        ...

    def finish(self, total: Sequence[Tensor]) -> list[Tensor]:
        """Adds noise and divides."""
        ...


Views = Callable[[Sequence[str], str, int], Iterator[Batch]]
"""(patients, phase, step) -> for each of them K views, positions 0 to K - 1; a function of this patient alone."""


class Withheld:
    """Passes on only those numbers that are noised already.

    Args:
        metrics: where they go.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def begin(self, phase: str, step: int, digest: str = "") -> None:
        """Numbers of a phase follow."""
        self._metrics.begin(phase, step, digest)

    def digest(self) -> str:
        """The digest of the lines that were passed on."""
        return self._metrics.digest()

    def write(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Numbers of one step; losses stay behind."""
        self._metrics.write(phase, step, {name: values[name] for name in PUBLIC if name in values})

    def flush(self) -> None:
        """Makes safe what was passed on."""
        self._metrics.flush()


class Allowance(Protocol):
    """What a run may still spend (``volgen/privacy``'s ledger)."""

    def check(self, scope: str, steps: int) -> None:
        """Refuses to go on if steps that were taken are not in the ledger."""
        ...

    def take(self, scope: str, step: int) -> bool:
        """Enters a step before it is taken, and says whether there is budget for it; if not, nothing was entered."""
        ...


class BudgetJudge:
    """A fixed number of steps, or as many as the budget allows. No loss is looked at.

    A step is entered in the ledger when the loop first asks whether there is one more, so before anything of it is computed. Whoever is
    stopped in between has paid for nothing; nobody has ever got anything unpaid.

    Args:
        max_steps: number of steps that are wanted.
        scope: name of the network.
        allowance: the ledger; only rank 0 needs one.
        ranks: the processes, which are all told the same.
        where: the run, for messages.
    """

    def __init__(
        self, max_steps: int, scope: str, allowance: Allowance | None, ranks: Ranks, where: Path
    ) -> None:  # fmt: skip
        self.max_steps, self.best_step, self.loss, self.note = max_steps, 0, None, ""
        self._scope, self._allowance, self._ranks, self._where = scope, allowance, ranks, where
        self._granted: dict[int, bool] = {}

    def done(self, step: int) -> bool:
        """Whether training ends after ``step``; if not, the next step is paid for. A collective call.

        Raises:
            UserError: the ledger does not know of steps that were taken, or cannot be written.
        """
        if step >= self.max_steps:
            return True
        if step not in self._granted:
            first = not self._granted

            def ask() -> str:
                if self._allowance is None:
                    return ""
                if first:
                    self._allowance.check(self._scope, step)
                return "yes" if self._allowance.take(self._scope, step + 1) else "no"

            answer = self._ranks.gather(together(self._ranks, self._where, checkpoint.MAKE_ROOM, ask) or " ")[0]
            self._granted = {step: answer == "yes"}
        return not self._granted[step]

    def due(self, step: int) -> bool:
        """Whether weights are taken now: once, at the end."""
        return self.done(step)

    def first(self, step: int, *, warm: bool) -> bool:
        """Whether to take weights before training goes on: trained ones, and those of a checkpoint after which there is no budget."""
        return self.done(step) if step else warm

    def look(self, state: Mapping[str, Tensor], objective: Objective, step: int) -> Look:
        """Takes the weights: there is nobody to score them with."""
        self.best_step = step
        return Look(kept=True)

    def state(self) -> dict[str, float | int | None]:
        """What a rule of losses remembers before it has seen any: checkpoints of private runs have that form."""
        return {"best": None, "reference": None, "best_step": self.best_step, "without_gain": 0}

    def restore(self, state: Mapping[str, float | int | None]) -> None:
        """Inverse of :meth:`state`."""
        self.best_step = int(state["best_step"] or 0)


@dataclass(frozen=True)
class PatientGradient:
    """A gradient whose unit is the patient.

    What a patient adds to a step is a function of their scans, of the secret and of public settings. Nothing of it may follow from who
    else is there: not the place in a list, not the neighbours in a pass, not how many there are.

    Attributes:
        sanitiser: sampling, clipping and noise.
        views: what a patient contributes with.
        patients: ids of all.
        ranks: the processes.
        interrupt: says when to stop.
        pulse: hears of every pass.
    """

    sanitiser: Sanitiser
    views: Views
    patients: Sequence[str]
    ranks: Ranks
    interrupt: Interrupt
    pulse: Pulse = NO_PULSE

    def take(self, phase: str, engine: Engine, objective: Objective, step: int, number: int) -> Taken:
        """One noisy gradient; no loss is told, because nothing would protect it."""
        private: PatientEngine = engine  # type: ignore[assignment]  # a regime brings the two together
        drawn = self.sanitiser.draw(self.patients)
        mine = drawn[self.ranks.rank :: self.ranks.world_size]
        rounds = -(-len(drawn) // self.ranks.world_size) if private.in_step else len(mine)
        # Ranks that have to keep up with the others compute somebody's gradient, and forget it.
        turns = [*mine, *drawn[:1] * (rounds - len(mine))]
        total = self.sanitiser.zeros(private.shapes, private.device)
        pairs = zip(turns, self.views(turns, phase, step), strict=True)
        place = 0
        while people := list(islice(pairs, private.at_once.patients)):
            count = len(people)
            # A pass is always as large: kernels choose their order of summation by the size.
            people += people[:1] * (private.at_once.patients - count)
            for contribution in islice(self._contributions(phase, private, objective, step, people), count):
                if place < len(mine):
                    self.sanitiser.add(total, contribution)
                place += 1
            self.pulse.beat()
        private.give(self.sanitiser.finish(total))
        return Taken({}, "private: losses are not looked at", told_to_stop(self.ranks, self.interrupt))

    def _contributions(
        self, phase: str, engine: PatientEngine, objective: Objective, step: int, people: Sequence[tuple[str, Batch]]
    ) -> Iterator[list[Tensor]]:  # fmt: skip
        """The gradient of each patient's mean loss over the views."""
        ids = [name for _, batch in people for name in batch.ids]
        if engine.at_once.all_views:
            examples = Examples.joined([Examples(batch.x_BCXYZ, batch.given) for _, batch in people]).to(engine.device)
            draws = JoinedDraws([self._draws(phase, step, patient, batch, batch.positions) for patient, batch in people])
            yield from engine.gradients_of(objective.loss(engine, examples, draws, ids), len(people))
            return
        ((patient, batch),) = people
        examples = Examples(batch.x_BCXYZ, batch.given).to(engine.device)
        mean: list[Tensor] = []
        for view, name in enumerate(ids):
            row = slice(view, view + 1)
            loss_B = objective.loss(engine, examples[row], self._draws(phase, step, patient, batch, batch.positions[row]), [name])
            gradients = engine.gradients(loss_B.mean() / len(ids))
            if mean:
                torch._foreach_add_(mean, gradients)
            else:
                mean = gradients
        yield mean

    def _draws(self, phase: str, step: int, patient: str, batch: Batch, positions: Sequence[int]) -> StepDraws:
        """Random numbers of some of a patient's views, which follow from the patient's own seed."""
        return StepDraws(self.sanitiser.seed(patient), phase, step, len(batch.positions), positions)
