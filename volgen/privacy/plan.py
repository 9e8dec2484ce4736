"""What a plan of privacy decides of a run: what may be looked at, how gradients are taken, and what is promised at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from torch import nn

from volgen.core.protocols import Pulse
from volgen.data.store import Store
from volgen.data.stream import Stream, StreamConfig
from volgen.experts.plan import ExpertsConfig, Phase
from volgen.images.geometry import Geometry
from volgen.parallel.engine import Engine, EngineConfig
from volgen.parallel.group import Group
from volgen.parallel.private_engine import Pass
from volgen.privacy.ledger import Neighbouring
from volgen.training.gradient import GradientRule
from volgen.training.interrupt import Interrupt
from volgen.training.judge import Judge
from volgen.training.metrics import Metrics
from volgen.training.optimiser import OptimiserConfig
from volgen.training.stopping import StoppingConfig
from volgen.training.validation import Validator

AtOnce = Callable[[nn.Module, Group], Pass]
"""(network, ranks) -> how many patients may go through the network at once; a collective call (``volgen/planning/patients.py``)."""


class Run(Protocol):
    """What a plan asks of the configuration of a run (:mod:`volgen.recipe`, which is above this package). Components are of any kind."""

    @property
    def directory(self) -> Path:
        """Where the run lives."""
        ...

    @property
    def seed(self) -> int:
        """Every random number without privacy follows from it."""
        ...

    @property
    def data(self) -> StreamConfig:
        """The cohort and its batches."""
        ...

    @property
    def experts(self) -> ExpertsConfig:
        """How many experts there are, and how they are trained."""
        ...

    @property
    def optimiser(self) -> OptimiserConfig:
        """Step sizes of training."""
        ...

    @property
    def objective(self) -> Any:
        """A kind of objective."""
        ...

    @property
    def stopping(self) -> StoppingConfig:
        """How long each expert trains."""
        ...

    @property
    def engine(self) -> EngineConfig:
        """DeepSpeed and what it is told."""
        ...

    @property
    def network(self) -> Any:
        """A kind of network."""
        ...

    @property
    def conditions(self) -> Sequence[Any]:
        """What the network is told of a scan."""
        ...

    @property
    def level(self) -> int:
        """Level at which its network works."""
        ...

    @property
    def view(self) -> Any:
        """What of a volume goes through the network at once."""
        ...

    @property
    def preconditioner(self) -> Any:
        """A kind of preconditioner."""
        ...

    @property
    def assembly(self) -> Any:
        """A kind of assembly."""
        ...

    @property
    def method(self) -> Any:
        """A kind of method."""
        ...

    @property
    def adapter(self) -> Any:
        """A kind of adapter."""
        ...

    @property
    def start(self) -> Any:
        """What the run begins from."""
        ...

    @property
    def variants(self) -> Sequence[Self]:
        """The configuration of each model among its experts."""
        ...

    def build(self) -> Any:
        """The method that is trained (:class:`volgen.methods.Method`, which is above this package)."""
        ...

    def warm(self, phase: Phase) -> bool:
        """Whether a network starts from trained weights."""
        ...

    def rule(self, phase: Phase) -> StoppingConfig:
        """How long one network trains."""
        ...

    def trained(self) -> list[Phase]:
        """The networks that are trained."""
        ...


@dataclass(frozen=True)
class Forecast:
    """What the ledger of a run would say that has not begun.

    Attributes:
        budget: epsilon that may be spent.
        delta: probability of a leak beyond epsilon.
        sampling_rate: probability that a patient takes part in a step.
        noise_multiplier: standard deviation of the noise on the sum, in units of the clip norm.
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


class Plan(Protocol):
    """What every file in ``volgen/privacy/plans`` offers as ``Config``.

    Planning asks it without a cohort; :meth:`build` is what training asks.
    """

    kind: str

    @property
    def validates(self) -> bool:
        """Whether losses of single people may be looked at: to stop by, to choose weights by, and to show."""
        ...

    @property
    def looks(self) -> bool:
        """Whether the configuration may follow from scans, as a box around all heads does."""
        ...

    @property
    def measured(self) -> bool:
        """Whether wall time and memory may stand in what is made to be given away."""
        ...

    @property
    def strangers(self) -> bool:
        """Whether its promise holds only if nobody of the cohort is in the one that the run begins from."""
        ...

    @property
    def buckets(self) -> bool:
        """Whether gradients go to DeepSpeed as they come, into its buckets."""
        ...

    def refusals(self, run: Run) -> Iterator[str]:
        """Why it cannot be had with the rest of a configuration."""
        ...

    def build(self, run: Run) -> Regime:
        """How the run trains."""
        ...

    def reduced(self, engine: EngineConfig) -> EngineConfig:
        """The engine in whose precision gradients are reduced."""
        ...

    def micro_batch(self, volumes: int) -> int:
        """Volumes of one backward pass, as DeepSpeed counts, where a rank has ``volumes`` in each micro-batch."""
        ...

    def passes(self, share: int, *, several: bool) -> Sequence[Pass]:
        """What could go through the network at once, from little to much; empty where whole micro-batches do.

        Args:
            share: patients that a rank draws in a step, on average.
            several: whether gradients of several patients can be had from one pass.
        """
        ...

    def held(self, parameters: int) -> dict[str, int]:
        """Bytes on each device for a number of trained parameters, beside what every training holds, by what they are for."""
        ...

    def step_seconds(self, parameters: int) -> float:
        """Seconds that a step takes longer for a number of trained parameters, on one rank."""
        ...

    def assumptions(self) -> list[str]:
        """What planning assumes, for people."""
        ...

    def forecast(self, run: Run, patients: int) -> Forecast | None:
        """What the ledger will say of a run on a number of patients; None if it will promise nothing.

        Raises:
            UserError: it cannot be had, or the run has begun with a ledger that does not count.
        """
        ...

    def check_summary(self, path: Path, ledger: Mapping[str, Any]) -> None:
        """Makes sure that the ledger of a finished run, read from ``path``, is one of this plan.

        Raises:
            UserError: it is another one's.
        """
        ...

    def vouch(self, run: Path, ledger: Mapping[str, Any], trained: Mapping[str, int]) -> bool:
        """Whether a guarantee covers what a finished run gives away.

        Args:
            run: its directory.
            ledger: its ``privacy_ledger.json``, of this plan.
            trained: steps that each of its networks was trained for.

        Raises:
            UserError: the ledger does not say what the journal says, what was configured, or counts less than was trained.
        """
        ...


class Regime(Protocol):
    """How one run trains."""

    def refuse(self, network: nn.Module) -> None:
        """Refuses a network, with weights or on the meta device, that cannot be trained like this.

        Raises:
            UserError: names the layer.
        """
        ...

    def begin(self, store: Store, assumed: Mapping[str, Any]) -> None:
        """Writes the ledger, before anything is trained; ``assumed`` is what it rests on beside the plan itself."""
        ...

    def geometry(self, store: Store) -> Geometry:
        """The frame of generated volumes."""
        ...

    def check(self, finished: Mapping[str, int]) -> None:
        """Makes sure that finished phases, with the steps of each, are in the ledger."""
        ...

    def finish(self) -> None:
        """Writes the ledger of a finished run."""
        ...

    def metrics(self, metrics: Metrics) -> Metrics:
        """Where numbers go."""
        ...

    def gradient(self, stream: Stream, group: Group, interrupt: Interrupt, pulse: Pulse) -> GradientRule:
        """How gradients of this launch are taken. A collective call.

        Args:
            stream: examples of training scans.
            group: the processes.
            interrupt: tells when to stop.
            pulse: hears of what takes time.
        """
        ...

    def engine(self, network: nn.Module, group: Group, at_once: AtOnce) -> Engine:
        """The engine of one phase. A collective call."""
        ...

    def judges(self, group: Group, validator: Callable[[], Validator]) -> Callable[[Phase], Judge]:
        """Who watches each phase.

        Args:
            group: the processes.
            validator: makes what scores weights, if anybody's loss may be looked at.
        """
        ...
