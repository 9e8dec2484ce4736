"""What plans have in common that protect patients: a budget, a bound on each patient's part, and all that may not follow from anybody."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.rounding import lower, upper
from volgen.core.run_files import CONFIG, LEDGER, TRAIN_AGAIN
from volgen.parallel.engine import EngineConfig
from volgen.parallel.memory import FP32
from volgen.parallel.private_engine import Pass
from volgen.privacy.accounting import calibrate, epsilon, replace_one
from volgen.privacy.files import COVERED, NOT_COVERED
from volgen.privacy.ledger import Budget, Ledger, Neighbouring
from volgen.privacy.mechanism import NoisyStep
from volgen.privacy.plan import Forecast, Regime, Run
from volgen.privacy.protected import Protected
from volgen.privacy.refusals import of_recipe

DIGITS = 4
SHARE = 10.0
"""delta has to be below one over this many times the patients: otherwise publishing one patient in ten runs whole would be allowed."""
ROUNDING = 1e-9
CLOSE = 1e-6
"""Relative difference of numbers that were written and computed anew."""
NOISE_SECONDS = 55e-9
"""Seconds of a processor for one weight's noise, measured on one machine (docs/privacy.md)."""


class ByPatient(BaseConfig, ABC):
    """Training in which no patient of the training split is worth more than (epsilon, delta), over all experts, steps and restarts.

    What a plan adds is its noisy steps: :meth:`mechanism`, in how many words the ledger tells ``sampling``, and options of its own.
    """

    sampling: ClassVar[str]
    """Who takes part in a step, for the ledger."""

    kind: str
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
    """Whether each scan of a store whose patients were told apart by names of files or visits alone is of another patient. Whoever has two
    of them is protected less."""
    accountant: Literal["prv", "rdp"] = "prv"
    """How steps are composed: numerically (tight), or by Renyi divergences (some 6 % more noise, fewer assumptions)."""
    spare: float = Field(default=0.02, ge=0.0, le=1.0)
    """Share of steps that the noise allows beyond those planned: what is repeated after a restart is counted again."""
    intensity: tuple[float, float] = (0.0, 1000.0)
    """Window of generated volumes, in any units; public, because the cohort's median window is not."""
    skull_stripped: bool = True
    """Whether the cohort shows brains rather than heads; public, because looking would not be."""

    @property
    def neighbouring(self) -> Neighbouring:
        """Which cohorts the budget compares: a cohort of another size is a neighbour only where its size decides nothing."""
        return "add-or-remove-one" if self.population else "zero-out"

    @abstractmethod
    def mechanism(self, rate: float, planned: int) -> NoisyStep:
        """Its noisy steps, with as little noise as the budget allows.

        Args:
            rate: probability that a patient takes part in a step.
            planned: steps over all networks, those to spare included.
        """

    @property
    def validates(self) -> bool:
        """Whether losses of single people may be looked at: they may not, nothing would protect them."""
        return False

    @property
    def looks(self) -> bool:
        """Whether the configuration may follow from scans: it may not, nothing accounts for that."""
        return False

    @property
    def measured(self) -> bool:
        """Whether wall time and memory may be told: they may not, they would tell how many patients took part."""
        return False

    @property
    def strangers(self) -> bool:
        """Whether the promise needs people whom a public run has not seen: what it knows of a patient is in no budget."""
        return True

    @property
    def buckets(self) -> bool:
        """Whether gradients go to DeepSpeed as they come: a patient's is clipped before DeepSpeed sees any."""
        return False

    def refusals(self, run: Run) -> Iterator[str]:
        """Everything that is not known to be right."""
        if self.intensity[0] >= self.intensity[1]:
            yield f"privacy.intensity {list(self.intensity)} is empty"
        yield from of_recipe(run)

    def build(self, run: Run) -> Regime:
        """Training by patient, on a ledger."""
        return Protected(self, run)

    def reduced(self, engine: EngineConfig) -> EngineConfig:
        """The sum in fp32 whatever the network computes in: rounding after clipping would be a contribution that nobody has bounded."""
        return engine.model_copy(update={"precision": "fp32"})

    def micro_batch(self, volumes: int) -> int:
        """One view of one patient; how many go together follows from memory."""
        return 1

    def passes(self, share: int, *, several: bool) -> list[Pass]:
        """One view, one patient with all views, and as many patients as there are."""
        found = [Pass()]
        if self.views > 1:
            found.append(Pass(1, all_views=True))
        if several:
            found += [Pass(patients, all_views=True) for patients in range(2, share + 1)]
        return found

    def held(self, parameters: int) -> dict[str, int]:
        """The sum of clipped gradients."""
        return {"sum over patients": FP32 * parameters}

    def step_seconds(self, parameters: int) -> float:
        """Seconds that the noise takes."""
        return NOISE_SECONDS * parameters

    def assumptions(self) -> list[str]:
        """How fast noise is drawn, and for how many patients there is work."""
        return [f"noise: {NOISE_SECONDS * 1e9:g} ns of a processor for each weight in each step; as many patients drawn as expected"]

    def open_ledger(
        self, directory: Path, *, patients: int, batch_size: int, steps: int, assumed: Mapping[str, Any] | None = None
    ) -> Ledger:
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
        rate, planned = self._rate(patients, batch_size), self._planned(steps)
        budget = Budget(self.epsilon, self.delta, self.accountant)
        if Ledger.exists(directory):
            ledger = Ledger(directory)
            theirs = (ledger.mechanism.sampling_rate, ledger.mechanism.clip_norm, ledger.budget, ledger.neighbouring)
            if theirs != (rate, self.clip_norm, budget, self.neighbouring) or ledger.mechanism.plan != self.kind:
                expected = f"sampling rate {rate:g}, clip norm {self.clip_norm:g}, {budget} and {self.neighbouring}"
                raise UserError(str(directory), f"has a ledger of another training ({theirs})", expected, "give the run another `name`")
        else:
            mechanism = self.mechanism(rate, planned)
            about = {**self._assumed(patients), **(assumed or {})}
            ledger = Ledger.create(directory, budget, mechanism, planned, about, self.neighbouring)
        ledger.write_summary(finished=False)
        return ledger

    def forecast(self, run: Run, patients: int) -> Forecast:
        """What the ledger of such a run would say; what is refused is as in :meth:`open_ledger`."""
        if Ledger.exists(run.directory):
            Ledger(run.directory)  # one that does not count is refused here, before anybody waits for machines
        steps = sum(run.rule(phase).max_steps for phase in run.trained())
        planned = self._planned(steps)
        mechanism = self.mechanism(self._rate(patients, run.data.batch_size), planned)
        taken = [mechanism.cost(steps)]
        spent, exchanged = epsilon(taken, self.delta, self.accountant), replace_one(taken, self.delta)
        told = exchanged if math.isfinite(exchanged) else None
        rate, noise = mechanism.sampling_rate, mechanism.noise_multiplier
        return Forecast(self.epsilon, self.delta, rate, noise, steps, planned, spent, self.neighbouring, told)

    def check_summary(self, path: Path, ledger: Mapping[str, Any]) -> None:
        """A finished run has an epsilon.

        Raises:
            UserError: it has none.
        """
        if ledger.get("epsilon") is None or ledger.get("state") != "finished":
            raise UserError(str(path), "is not the ledger of a finished private run", "what volgen train wrote", TRAIN_AGAIN)

    def vouch(self, run: Path, ledger: Mapping[str, Any], trained: Mapping[str, int]) -> bool:
        """Whether a guarantee holds: the ledger says what the journal says, what the configuration asks for, and what was trained.

        Raises:
            UserError: it does not.
        """
        where, journal = run / LEDGER, Ledger(run)
        if not _agree(journal.summary(finished=True), ledger):
            raise UserError(
                str(where), "does not say what the privacy journal beside it says", "the ledger that volgen train wrote", TRAIN_AGAIN
            )
        budget = (journal.budget.epsilon, journal.budget.delta, journal.budget.accountant, journal.mechanism.clip_norm)
        asked = (self.epsilon, self.delta, self.accountant, self.clip_norm)
        if budget != asked or journal.mechanism.plan != self.kind:
            found = f"is of another training: epsilon, delta, accountant and clip norm are {budget}"
            raise UserError(str(where), found, f"{asked}, as {CONFIG} says", TRAIN_AGAIN)
        for scope, steps in trained.items():
            journal.check(scope, steps)
        return True

    def calibrated(self, rate: float, planned: int) -> float:
        """Noise multiplier of Poisson-subsampled Gaussian steps that keep the budget, rounded up: what people copy is what was used."""
        return _round_up(calibrate(self.epsilon, self.delta, rate, planned, self.accountant))

    def _planned(self, steps: int) -> int:
        return math.ceil(steps * (1.0 + self.spare))

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

    def _assumed(self, patients: int) -> dict[str, Any]:
        number = f"population {self.population}, given as public" if self.population else f"the number of patients, {patients}, is public"
        return {
            "sampling": f"{self.sampling}; {number}",
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
    """Rounds up to four significant digits."""
    scale = 10.0 ** (DIGITS - 1 - math.floor(math.log10(value)))
    return math.ceil(value * scale) / scale


def _agree(one: Any, other: Any) -> bool:
    """Whether what was computed anew and what was written are equal up to rounding; keys that only the new one has do not count."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return other.keys() <= one.keys() and all(_agree(one[key], other[key]) for key in other)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_agree(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, int | float) and not isinstance(other, bool):
        return abs(one - other) <= CLOSE * max(abs(one), abs(other))
    return bool(one == other)
