"""No privacy: the null object. Training is as usual, and the ledger says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.files import write_json
from volgen.core.protocols import Pulse
from volgen.core.run_files import CONFIG, LEDGER, TRAIN_AGAIN
from volgen.data.store import Store
from volgen.data.stream import Batch, Stream
from volgen.experts.plan import Phase
from volgen.images.contrasts import of_cohort
from volgen.images.geometry import Geometry
from volgen.parallel.engine import Engine, EngineConfig
from volgen.parallel.group import Group
from volgen.parallel.private_engine import Pass
from volgen.privacy.plan import AtOnce, Run
from volgen.training.gradient import BatchGradient
from volgen.training.interrupt import Interrupt
from volgen.training.judge import LossJudge
from volgen.training.metrics import Metrics
from volgen.training.stopping import Stopping
from volgen.training.validation import Validator

NOTHING: dict[str, Any] = {
    "unit": "patient", "neighbouring": "add-or-remove-one", "delta": None, "epsilon": None, "accountant": None,
    "why": "the model was trained without differential privacy", "entries": [],
}  # fmt: skip
"""Content of ``privacy_ledger.json``: no epsilon, and why."""
SEEN = 8
"""Volumes that a look at the cohort takes."""


class Config(BaseConfig):
    """Training without a privacy guarantee."""

    kind: Literal["none"] = "none"

    @property
    def validates(self) -> bool:
        """Whether losses of single people may be looked at: they may, training stops by those of validation people."""
        return True

    @property
    def looks(self) -> bool:
        """Whether the configuration may follow from scans: it may."""
        return True

    @property
    def measured(self) -> bool:
        """Whether wall time and memory may be told: they may, nothing is promised that they could break."""
        return True

    @property
    def strangers(self) -> bool:
        """Whether the promise needs people whom a public run has not seen: it does not, nothing is promised."""
        return False

    @property
    def buckets(self) -> bool:
        """Whether gradients go to DeepSpeed as they come: they do."""
        return True

    def refusals(self, run: Run) -> Iterator[str]:
        """Nothing is in the way of no guarantee."""
        return iter(())

    def build(self, run: Run) -> Plain:
        """Training as usual."""
        return Plain(run)

    def reduced(self, engine: EngineConfig) -> EngineConfig:
        """The engine as it is."""
        return engine

    def micro_batch(self, volumes: int) -> int:
        """All volumes go through the network at once."""
        return volumes

    def passes(self, share: int, *, several: bool) -> list[Pass]:
        """Micro-batches go through whole."""
        return []

    def held(self, parameters: int) -> dict[str, int]:
        """Nothing is held beside what every training holds."""
        return {}

    def step_seconds(self, parameters: int) -> float:
        """A step takes no longer."""
        return 0.0

    def assumptions(self) -> list[str]:
        """Nothing is assumed."""
        return []

    def forecast(self, run: Run, patients: int) -> None:
        """There is nothing to tell."""
        return

    def check_summary(self, path: Path, ledger: Mapping[str, Any]) -> None:
        """There is no epsilon in it.

        Raises:
            UserError: there is one.
        """
        if ledger.get("epsilon") is not None:
            raise UserError(str(path), f"claims a guarantee, and {CONFIG} asks for none", "files that belong together", TRAIN_AGAIN)

    def vouch(self, run: Path, ledger: Mapping[str, Any], trained: Mapping[str, int]) -> bool:
        """Whether anybody vouches for a guarantee: nobody does."""
        return False


class Plain:
    """A :class:`~volgen.privacy.plan.Regime` without protection.

    Args:
        run: the configuration of the run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def refuse(self, network: nn.Module) -> None:
        """Any network will do."""

    def begin(self, store: Store, assumed: Mapping[str, Any]) -> None:
        """Writes that nothing is promised, and of what it was made where that is another run's volumes."""
        made_of = {name: assumed[name] for name in ("made_of",) if name in assumed}
        write_json(self._run.directory / LEDGER, {**NOTHING, **made_of})

    def geometry(self, store: Store) -> Geometry:
        """The cohort's own: its median intensity window, and what a look at some volumes shows."""
        records = self._run.data.records(store, "train")
        examples = (store.read_unit(record) for record in records[:SEEN])
        data = self._run.data
        one_frame = all(record.source_affine is not None for record in records)
        return Geometry.of_cohort(
            data.shape, [r.affine for r in records], [r.intensity for r in records], examples, data.box, one_frame=one_frame,
            contrasts=of_cohort(record.contrast for record in records),
        )  # fmt: skip

    def check(self, finished: Mapping[str, int]) -> None:
        """Nothing is counted."""

    def finish(self) -> None:
        """What was written at the beginning stands."""

    def metrics(self, metrics: Metrics) -> Metrics:
        """Every number is written."""
        return metrics

    def gradient(self, stream: Stream, group: Group, interrupt: Interrupt, pulse: Pulse) -> BatchGradient:
        """That of the mean loss of a batch."""

        def batch(number: int) -> Batch:
            found = stream.batch(number)
            x_BCXYZ = found.x_BCXYZ.to(group.device, non_blocking=True)
            return replace(found, x_BCXYZ=x_BCXYZ, given=found.given.to(group.device, non_blocking=True))

        return BatchGradient(batch, self._run.data.batch_size, self._run.seed, group, interrupt)

    def engine(self, network: nn.Module, group: Group, at_once: AtOnce) -> Engine:
        """The usual one, to which micro-batches are given whole."""
        run = self._run
        return Engine(
            network, run.engine, run.data.batch_size // (group.world_size * run.engine.accumulation),
            betas=run.optimiser.betas, weight_decay=run.optimiser.weight_decay, gradient_clip=run.optimiser.gradient_clip,
            matrix_rate=run.optimiser.matrix_learning_rate / run.optimiser.learning_rate, make=run.optimiser.make(),
            release=run.build().release,
        )  # fmt: skip

    def judges(self, group: Group, validator: Callable[[], Validator]) -> Callable[[Phase], LossJudge]:
        """The validation loss decides."""
        scores = validator()

        def judge(phase: Phase) -> LossJudge:
            rule = self._run.rule(phase)
            return LossJudge(Stopping(rule, rule.max_steps), scores)

        return judge
