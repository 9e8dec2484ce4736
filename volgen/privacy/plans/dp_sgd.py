"""Differentially private training by patient: clipped contributions and noise (Abadi et al. 2016), one budget for all experts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.rounding import lower, upper
from volgen.privacy.accounting import Steps, calibrate, epsilon, replace_one
from volgen.privacy.files import COVERED, NOT_COVERED
from volgen.privacy.ledger import Budget, Ledger, Mechanism, Neighbouring
from volgen.privacy.refusals import of_recipe

DIGITS = 4
SHARE = 10.0
"""delta has to be below one over this many times the patients: otherwise publishing one patient in ten runs whole would be allowed."""
ROUNDING = 1e-9


@dataclass(frozen=True)
class Forecast:
    """What the ledger of a run would say that has not begun.

    Attributes:
        budget: epsilon that may be spent.
        delta: of it.
        sampling_rate: with which each patient takes part in a step.
        noise_multiplier: of the noise on the sum, in units of the clip norm.
        steps: planned, over all networks.
        allowed: steps that the budget is enough for.
        epsilon: spent if nothing is repeated.
        neighbouring: which two cohorts that compares.
        replace_one: the same for the exchange of one patient for another; None if it cannot be told.
    """

    budget: float
    delta: float
    sampling_rate: float
    noise_multiplier: float
    steps: int
    allowed: int
    epsilon: float
    neighbouring: Neighbouring
    replace_one: float | None


class Config(BaseConfig):
    """Training in which no patient of the training split is worth more than (epsilon, delta), over all experts, steps and restarts."""

    kind: Literal["dp_sgd"] = "dp_sgd"
    epsilon: PositiveFloat
    """The budget of the whole run. In neighbouring cohorts one patient with all of their scans counts for nothing, or, with a public
    ``population``, is not there at all; the ledger also says what it is where another patient is in their place."""
    delta: float = Field(gt=0.0, lt=1.0)
    """Probability of a leak beyond epsilon; at most one over ten times the number of patients."""
    clip_norm: PositiveFloat = 1.0
    """Largest Euclidean norm of what one patient contributes to a step's gradient."""
    views: PositiveInt = 1
    """Augmentations, noise levels, noises and scans of a patient that are averaged into their contribution to one step."""
    population: PositiveInt | None = None
    """Public number of patients, such as a rounded one: each takes part in a step with probability data.batch_size / population. The
    cohort's own if None, which is then public."""
    each_file_is_a_patient: bool = False
    """Says that in a store whose patients were told apart by names of files or visits alone, no two of them are of one patient. Whoever
    has two is protected less."""
    accountant: Literal["prv", "rdp"] = "prv"
    """How steps are composed: numerically (tight), or by Renyi divergences (some 6 % more noise, fewer assumptions)."""
    spare: float = Field(default=0.02, ge=0.0, le=1.0)
    """Share of steps that the noise allows beyond those planned: what is repeated after a restart is counted again."""
    intensity: tuple[float, float] = (0.0, 1000.0)
    """Window of generated volumes, in any units; public, because the cohort's median window is not."""
    skull_stripped: bool = True
    """Whether the cohort shows brains rather than heads; public, because looking would not be."""

    @property
    def private(self) -> bool:
        """Yes."""
        return True

    @property
    def neighbouring(self) -> Neighbouring:
        """Which cohorts the budget compares: a cohort of another size is a neighbour only where its size decides nothing."""
        return "add-or-remove-one" if self.population else "zero-out"

    def refusals(self, recipe: Any) -> Iterator[str]:
        """Why this cannot be had with the rest of a recipe."""
        if self.intensity[0] >= self.intensity[1]:
            yield f"privacy.intensity {list(self.intensity)} is empty"
        yield from of_recipe(recipe)

    def begin(self, directory: Path, *, patients: int, batch_size: int, steps: int, assumed: Mapping[str, Any] | None = None) -> Ledger:
        """Chooses the noise and begins the run's ledger; or opens it, if there is one. Its summary then claims the whole budget.

        Args:
            directory: the run.
            patients: in the training split.
            batch_size: expected number of patients in a step.
            steps: planned, over all networks that are trained.
            assumed: what the guarantee rests on beside the mechanism.

        Raises:
            UserError: delta or the batch is too large, the budget cannot be kept, or the ledger is another run's.
        """
        rate, planned = self._rate(patients, batch_size), math.ceil(steps * (1.0 + self.spare))
        budget = Budget(self.epsilon, self.delta, self.accountant)
        if Ledger.exists(directory):
            ledger = Ledger(directory)
            theirs = (ledger.mechanism.sampling_rate, ledger.mechanism.clip_norm, ledger.budget, ledger.neighbouring)
            if theirs != (rate, self.clip_norm, budget, self.neighbouring):
                expected = f"sampling rate {rate:g}, clip norm {self.clip_norm:g}, {budget} and {self.neighbouring}"
                raise UserError(str(directory), f"has a ledger of another training ({theirs})", expected, "give the run another `name`")
        else:
            mechanism = Mechanism(rate, self._noise(rate, planned), self.clip_norm)
            about = {**self._assumed(patients), **(assumed or {})}
            ledger = Ledger.create(directory, budget, mechanism, planned, about, self.neighbouring)
        ledger.write_summary(finished=False)
        return ledger

    def finish(self, directory: Path) -> None:
        """Writes what was really spent."""
        Ledger(directory).write_summary(finished=True)

    def forecast(self, *, patients: int, batch_size: int, steps: int) -> Forecast:
        """What the ledger of such a run would say; the arguments, and what is refused, are those of :meth:`begin`."""
        rate, planned = self._rate(patients, batch_size), math.ceil(steps * (1.0 + self.spare))
        noise = self._noise(rate, planned)
        taken = [Steps(rate, noise, steps)]
        spent, exchanged = epsilon(taken, self.delta, self.accountant), replace_one(taken, self.delta)
        told = exchanged if math.isfinite(exchanged) else None
        return Forecast(self.epsilon, self.delta, rate, noise, steps, planned, spent, self.neighbouring, told)

    def _rate(self, patients: int, batch_size: int) -> float:
        people = self.population or patients
        if batch_size > people:
            raise UserError("data.batch_size", f"{batch_size} patients in a step of {people}", f"at most {people}")
        most = max(people, patients)
        if self.delta * most * SHARE > 1.0 + ROUNDING:
            found = f"{self.delta:g} times {most} patients is {upper(self.delta * most, 2)}: so many could be given away whole, on average"
            expected = f"at most {lower(1.0 / (SHARE * most), 3)}, one over {SHARE:g} times the number of patients"
            raise UserError("privacy.delta", found, expected, "1e-5, or one over the square of that number, is usual")
        return batch_size / people

    def _noise(self, rate: float, planned: int) -> float:
        return _round_up(calibrate(self.epsilon, self.delta, rate, planned, self.accountant))

    def _assumed(self, patients: int) -> dict[str, Any]:
        number = f"population {self.population}, given as public" if self.population else f"the number of patients, {patients}, is public"
        return {
            "sampling": f"Poisson, by patient; {number}",
            "patients": self.population or patients,
            "one_patient": "all scans with one patient id are one patient; whoever has two ids is protected less",
            "store": "both worlds have the store as it was ingested, but for one patient: whose the images are, and which of them were"
            " taken (contrast, space, one of each visit, no copies), follows from all of them",
            "views": self.views,
            "randomness": "noise, sampling and all draws for a patient follow from a secret of the operating system, by patient, which was"
            " kept nowhere",
            "people": "the training split; validation and test people were not looked at",
            "covered": list(COVERED),
            "not_covered": list(NOT_COVERED),
        }


def _round_up(value: float) -> float:
    """To four significant digits: what people copy is then what was used."""
    scale = 10.0 ** (DIGITS - 1 - math.floor(math.log10(value)))
    return math.ceil(value * scale) / scale
