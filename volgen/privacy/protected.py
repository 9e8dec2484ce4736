"""Training by patient, on a ledger: what plans that spend a budget make of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from volgen.core.errors import UserError
from volgen.core.given import Examples
from volgen.core.progress import say
from volgen.core.protocols import Pulse
from volgen.core.rng import uniform
from volgen.core.rounding import upper
from volgen.data.record import SubjectRecord, by_patient
from volgen.data.store import Store
from volgen.data.stream import Batch, Stream, Wanted
from volgen.experts.plan import Phase
from volgen.images.contrasts import of_cohort, suffix_named
from volgen.images.geometry import Geometry, middle
from volgen.images.intensity import IntensityMap
from volgen.parallel.engine import Engine
from volgen.parallel.group import Group
from volgen.parallel.private_engine import Pass, PrivateEngine
from volgen.privacy import cohort_entries, refusals
from volgen.privacy.cohort_ledger import CohortLedger
from volgen.privacy.ledger import BudgetSpent, Ledger
from volgen.privacy.mechanism import GradientMechanism
from volgen.privacy.per_sample import PerSample
from volgen.privacy.plan import AtOnce, Run
from volgen.privacy.secret import Secret
from volgen.training.interrupt import Interrupt
from volgen.training.judge import Judge
from volgen.training.metrics import Metrics
from volgen.training.private import BudgetJudge, PatientGradient, Views, Withheld
from volgen.training.validation import Validator

Facts = dict[str, Any]


class Budgeted(Protocol):
    """The plan that is carried out (:class:`~volgen.privacy.by_patient.ByPatient`)."""

    @property
    def views(self) -> int:
        """Views of a patient that are averaged into their contribution to one step."""
        ...

    @property
    def population(self) -> int | None:
        """Public number of patients; the cohort's own if None."""
        ...

    @property
    def each_file_is_a_patient(self) -> bool:
        """Whether it was said that no two files are of one patient."""
        ...

    @property
    def intensity(self) -> tuple[float, float]:
        """Window of generated volumes."""
        ...

    @property
    def skull_stripped(self) -> bool:
        """Whether the cohort shows brains rather than heads."""
        ...

    def open_ledger(self, directory: Path, *, patients: int, batch_size: int, steps: int, assumed: Facts) -> Ledger:
        """The run's ledger, begun if there is none."""
        ...


class Protected:
    """A :class:`~volgen.privacy.plan.Regime` in which nothing that is kept follows from one patient by more than the ledger counts.

    Args:
        plan: the budget and its noisy steps.
        run: the configuration of the run.
    """

    def __init__(self, plan: Budgeted, run: Run) -> None:
        self._plan, self._run = plan, run
        self._at_once: Pass | None = None

    def refuse(self, network: nn.Module) -> None:
        """Refuses a network in which patients meet."""
        refusal = next(refusals.of_network(network), None)
        if refusal:
            raise UserError("network", refusal, "a network in which patients do not meet")

    def begin(self, store: Store, assumed: Mapping[str, Any]) -> None:
        """Begins the ledger of the run, and enters the run in that of the cohort.

        Raises:
            UserError: the budget cannot be kept, the ledger is another run's, nobody can tell patients apart, or they depend on each other.
        """
        recipe, plan = self._run, self._plan
        _refuse_fitted(store)
        assumed = {**assumed, **self._told_apart(store)}
        if recipe.data.box is not None:
            assumed |= {"box": f"data.box, {list(recipe.data.box.size)} voxels from {list(recipe.data.box.start)}, is public"}
        records = recipe.data.records(store, "train")
        finest = min(variant.level for variant in recipe.variants)
        if left := sum(not recipe.data.teaches(record, finest) for record in records):
            found = f"has {left} of {len(records)} scans that are too coarse for experts of level {finest}"
            do = "ingest them into a store of larger voxels, leave them out, or set data.interpolated"
            raise UserError(str(store.path), found, "scans that train every expert: the ledger has one sampling rate for all", do)
        patients = len({record.patient for record in records})
        steps, batch = sum(recipe.rule(phase).max_steps for phase in recipe.trained()), recipe.data.batch_size
        cohort = CohortLedger(str(store.path), store.fingerprint)
        assumed = {**assumed, **cohort_entries.noted(cohort)}
        ledger = plan.open_ledger(recipe.directory, patients=patients, batch_size=batch, steps=steps, assumed=assumed)
        cohort_entries.enter(cohort, ledger, more=steps)
        rate, noise = ledger.mechanism.sampling_rate, ledger.mechanism.noise_multiplier
        expected = upper(ledger.budget.delta * (plan.population or patients), 2)
        say(
            f"Private: epsilon {ledger.budget.epsilon:g} at delta {ledger.budget.delta:g} per patient ({ledger.neighbouring}; delta times"
            f" patients is {expected}), over {steps} steps of all networks: noise multiplier"
            f" {noise:g}, sampling rate {rate:.3g}; {ledger.count()} steps taken so far."
        )

    def geometry(self, store: Store) -> Geometry:
        """A frame in which nothing is anybody's.

        Raises:
            UserError: scans have kept their own grids.
        """
        # The file is released, so nothing in it is read from a scan: the grid is what ingest was told, the rest is the recipe's.
        size = _voxel_size(store)
        data, window = self._run.data, IntensityMap(*self._plan.intensity)
        # Where scans were brought into a frame, all have the template's affine, which is nobody's.
        record = store.records[0]
        centre = (0.0, 0.0, 0.0) if record.source_affine is None else middle(record.affine, record.shape)
        # What ingest was asked for is nobody's; that a scan of another contrast was among those that it found would be somebody's.
        contrasts = of_cohort(suffix_named(word) for word in str(store.settings.get("suffix") or "").split(","))
        return Geometry(data.shape, (size, size, size), window, self._plan.skull_stripped, data.box, centre, contrasts)

    def _told_apart(self, store: Store) -> Facts:
        """What the ledger says of a store in which each file counts as a patient.

        Raises:
            UserError: nobody has said that it is so.
        """
        if store.people != "files":
            return {}
        if not self._plan.each_file_is_a_patient:
            found = (
                "tells patients apart by names of files or visits alone, so that one with two of them counts as two, and is protected less"
            )
            do = (
                "ingest with a table of patients (--patients), name files sub-<label>_..., or, if no patient has two files, set"
                " privacy.each_file_is_a_patient true"
            )
            raise UserError(str(store.path), found, "a store that knows whose each scan is", do)
        return {
            "one_patient": "patients were told apart by names of files or visits alone, and it was said that no patient has two of them:"
            " whoever has is protected less"
        }

    def check(self, finished: Mapping[str, int]) -> None:
        """Makes sure that finished phases, with the steps of each, are in the ledger."""
        ledger = Ledger(self._run.directory)
        for scope, steps in finished.items():
            ledger.check(scope, steps)

    def finish(self) -> None:
        """Writes what was really spent, here and in the ledger of the cohort."""
        Ledger(self._run.directory).write_summary(finished=True)
        cohort_entries.enter_finished(self._run.directory, self._run.data.store)

    def metrics(self, metrics: Metrics) -> Metrics:
        """Only what is noised already."""
        return Withheld(metrics)

    def gradient(self, stream: Stream, group: Group, interrupt: Interrupt, pulse: Pulse) -> PatientGradient:
        """A gradient whose unit is the patient. A collective call."""
        secret = Secret(bytes.fromhex(group.gather(Secret().hex())[0]))
        mechanism = Ledger(self._run.directory).mechanism
        sanitiser = GradientMechanism(mechanism, self._run.data.batch_size, secret, group.rank, group.world_size)
        scans = by_patient(sorted(stream.records, key=lambda record: (record.patient, record.id)))
        views = _views(stream, scans, self._plan.views, sanitiser.seed)
        return PatientGradient(sanitiser, views, tuple(scans), group, interrupt, pulse)

    def engine(self, network: nn.Module, group: Group, at_once: AtOnce) -> Engine:
        """An engine whose gradients pass through our hands. A collective call."""
        self.refuse(network)
        recipe = self._run
        if self._at_once is None:  # networks of a run are alike
            self._at_once = at_once(network, group)
        return PrivateEngine(
            network, recipe.engine, betas=recipe.optimiser.betas, weight_decay=recipe.optimiser.weight_decay,
            at_once=self._at_once, per_sample=PerSample(network) if self._at_once.patients > 1 else None, release=recipe.build().release,
        )  # fmt: skip

    def judges(self, group: Group, validator: Callable[[], Validator]) -> Callable[[Phase], Judge]:
        """Judges that grant the steps that are configured, each paid for before it is taken; nobody is validated on."""

        def judge(phase: Phase) -> Judge:
            directory = self._run.directory
            allowance = None if group.rank else _Allowance(directory, cold=not self._run.warm(phase))
            return BudgetJudge(self._run.rule(phase).max_steps, phase.name, allowance, group, directory)

        return judge


class _Allowance:
    """The ledger as training asks it."""

    def __init__(self, directory: Path, cold: bool) -> None:
        self._ledger, self._where, self._cold = Ledger(directory), directory, cold

    def check(self, scope: str, steps: int) -> None:
        self._ledger.check(scope, steps)

    def take(self, scope: str, step: int) -> bool:
        budget = self._ledger.budget
        try:
            self._ledger.take(scope, step, self._ledger.mechanism)
        except BudgetSpent:
            if step == 1 and self._cold:
                found = f"epsilon {budget.epsilon:g} is spent after {self._ledger.count()} steps, and '{scope}' was not trained at all"
                raise UserError(str(self._where), found, "budget for every network", "begin a run with a larger privacy.spare") from None
            say(f"The budget (epsilon {budget.epsilon:g}) is spent: '{scope}' ends after {step - 1} steps.")
            return False
        return True


def _refuse_fitted(store: Store) -> None:
    """Refuses a store in which what is held of a patient was computed from others too.

    Raises:
        UserError: its scans were registered to a template that was made of them.
    """
    if store.fitted:
        found = "its scans were registered to a template made of its own people, so that each voxel depends on all of them"
        do = "ingest with a --registration.template that is public, such as an atlas or the template.nii.gz of a public cohort's store"
        raise UserError(str(store.path), found, "a store in which nobody depends on anybody else", do)


def _voxel_size(store: Store) -> float:
    """Edge of a voxel in mm as ingest was told: of everybody's scan, and nobody's in particular.

    Raises:
        UserError: scans have kept their own grids, so that the size of a voxel, or of the grid, is one person's.
    """
    settings = store.settings
    own = [name for name in ("shape", "voxel_size") if settings.get(name) is None]
    size = settings.get("voxel_size")
    if own or isinstance(size, bool) or not isinstance(size, int | float) or not 0.0 < size < math.inf:
        options = " and ".join(f"--{name.replace('_', '-')}" for name in own or ["voxel_size"])
        found = f"was ingested with each scan's own grid ({options}), which a released run would give away"
        raise UserError(str(store.path), found, "one grid, given at ingest", "ingest again with --shape and --voxel-size")
    return float(size)


def _views(stream: Stream, scans: Mapping[str, Sequence[SubjectRecord]], count: int, seed: Callable[[str], int]) -> Views:
    """Views of patients, each chosen and augmented by the patient's own seed."""

    def views(patients: Sequence[str], phase: str, step: int) -> Iterator[Batch]:
        def view(patient: str, number: int) -> Wanted:
            mine, own, key = scans[patient], seed(patient), (phase, step, number)
            return mine[int(uniform(own, "scan", *key) * len(mine))], own, key

        chosen = [view(patient, number) for patient in patients for number in range(count)]
        examples = stream.examples(chosen)
        for place in range(len(patients)):
            mine = Examples.joined([next(examples) for _ in range(count)])
            ids = [scan.id for scan, _, _ in chosen[place * count : (place + 1) * count]]
            yield Batch(mine.x_BCXYZ, list(range(count)), ids, mine.given)

    return views
