"""The typed configuration of a run, and every check that spans more than one component."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter, ValidationError, field_validator, model_validator

from volgen import methods
from volgen.core import config, pretrained
from volgen.core.config import MAY_CHANGE, Config, three
from volgen.core.errors import UserError
from volgen.core.limits import MAX_LEVELS
from volgen.core.protocols import Cut, Scan, Shape3
from volgen.core.registry import union
from volgen.core.run_files import CONFIG
from volgen.core.yaml_text import Scalar, plain
from volgen.data import field_of_view
from volgen.data.cache import Cache
from volgen.data.scan import StoredScan, VolumeScan
from volgen.data.store import Store
from volgen.data.stream import FOREGROUND, StreamConfig
from volgen.experts.borders import Border, choose
from volgen.experts.plan import SHARED, ExpertsConfig, Phase, plan
from volgen.images.box import BoxConfig
from volgen.models.bands import variances
from volgen.models.condition import ConditionConfig, embedded, telling
from volgen.models.model import ExpertModel
from volgen.parallel.engine import EngineConfig
from volgen.parallel.watch import WatchConfig
from volgen.training.checkpoint import CheckpointConfig
from volgen.training.ema import EMAConfig
from volgen.training.optimiser import OptimiserConfig
from volgen.training.stopping import StoppingConfig

# Run-time unions of the components found in each folder; to a type checker they are Any.
Method: Any = union("volgen.methods")
Schedule: Any = union("volgen.sampling.schedules")
Network: Any = union("volgen.models.networks")
View: Any = union("volgen.models.views")
Preconditioner: Any = union("volgen.models.preconditioners")
Condition: Any = union("volgen.models.conditions")
Assembly: Any = union("volgen.models.assemblies")
Adapter: Any = union("volgen.models.adapters")
Objective: Any = union("volgen.training.objectives")
Start: Any = union("volgen.origin.starts")
Sampler: Any = union("volgen.sampling.samplers")
Guidance: Any = union("volgen.sampling.guidances")
Privacy: Any = union("volgen.privacy.plans")


AUTO = "auto"
"""Points that follow from the cohort: they become numbers where a recipe is loaded."""
RECORDED = {"level", "view", "network"}
"""Sections that a finished run records of each expert: what a sample depends on."""
MOST = 32
"""People from whom borders are chosen."""
FAINT = 2.0 * field_of_view.FAINT - 1.0
"""Intensity in the model range up to which a voxel is air."""


class ModelConfig(Config):
    """Experts that are neighbours on the noise axis and are made alike, in what differs from the rest of the recipe."""

    points: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | Literal["auto"] = "auto"
    """The schedule's points that each of these experts owns, lowest noise first; one number for one expert. ``auto``, or nothing: one
    expert, whose borders are chosen from the store where a recipe is loaded, as ``experts.border_ratio`` says."""
    level: int | None = Field(default=None, ge=0, le=MAX_LEVELS)
    """Level at which they work; that of the recipe if None."""
    view: View | None = None
    """What of a volume of their level goes through the network at once; as in the recipe if None."""
    mirrored: bool | None = None
    """Whether volumes are denoised from both sides; as in the recipe if None."""
    network: Network | None = None
    """Their network; that of the recipe if None."""
    optimiser: OptimiserConfig | None = None
    """Their step sizes; those of the recipe if None."""
    stopping: StoppingConfig | None = None
    """How long each of them trains; as in the recipe if None."""
    batch_size: PositiveInt | None = None
    """Volumes in one of their optimiser steps; ``data.batch_size`` if None."""

    @field_validator("points", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    @property
    def sizes(self) -> tuple[int, ...]:
        """The points, in a recipe that was read."""
        assert not isinstance(self.points, str), "chosen where a recipe is loaded"
        return self.points


class BankConfig(ExpertsConfig):
    """A bank whose experts may be made differently."""

    models: tuple[ModelConfig, ...] = ()
    """What experts are made of, lowest noise first: ``count`` and ``points`` follow from it. All are alike if it is empty."""
    border_ratio: PositiveFloat = 0.33
    """Where borders are chosen: the largest ratio, to the noise there, of what people differ by in detail that the coarser expert does not
    see (standard deviation of a Haar coefficient, 99th percentile in the heads). Less is safer; more leaves more noise levels to
    coarse experts."""
    borders: tuple[Border, ...] = ()
    """Borders that were chosen, and what was measured there; written where a recipe is loaded, and nothing to state."""

    @model_validator(mode="before")
    @classmethod
    def _counted(cls, content: Any) -> Any:
        if not isinstance(content, Mapping) or not content.get("models"):
            return content
        try:
            models = TypeAdapter(tuple[ModelConfig, ...]).validate_python(content["models"])
        except ValidationError:  # pydantic will say it again, and where
            return content
        if any(model.points == AUTO for model in models):
            expected = "numbers for all models, or for none, of a recipe that is read with its store"
            raise ValueError(f"models: points of some are '{AUTO}'; expected {expected}")
        sizes = _sizes(models)
        return {"count": len(sizes), "points": sizes, **content}

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if self.models and self.points != _sizes(self.models):
            found = f"points are {list(self.points)}, but those of models are {list(_sizes(self.models))}"
            raise ValueError(f"{found}: leave count and points out")
        return self

    @property
    def alike(self) -> tuple[int, ...]:
        """How many experts each model has, lowest noise first."""
        return tuple(len(model.sizes) for model in self.models) or (self.count,)

    @property
    def own_batches(self) -> bool:
        """Whether a model has a batch of its own."""
        return any(model.batch_size is not None for model in self.models)


class MachineryConfig(WatchConfig, CheckpointConfig, EngineConfig):
    """How a network is sharded and in which precision it runs; how often that is saved, and when a rank counts as gone."""


class Recipe(Config):
    """One run, complete: what is read, learnt, and how samples are drawn by default."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run; its directory is ``<runs>/<name>``."""
    runs: Annotated[str, MAY_CHANGE] = "runs"
    """Folder of run directories; relative paths start at the working directory."""
    seed: NonNegativeInt = 0
    """Every random number of the run follows from it."""
    data: StreamConfig
    """Store, shape and batches."""
    method: Method = Field(default_factory=lambda: {"kind": "diffusion"})
    """What is trained and what samples: how the sections below make a generator."""
    schedule: Schedule
    """The noise levels of training and sampling."""
    network: Network
    """The network inside each expert."""
    level: int = Field(default=0, ge=0, le=MAX_LEVELS)
    """Level at which experts work, on voxels of 2^level times the edge: finer detail is what the preconditioner expects. 0: all of it."""
    view: View = Field(default_factory=lambda: {"kind": "whole"})
    """What of a volume goes through the network at once."""
    mirrored: Annotated[bool, MAY_CHANGE] = False
    """Whether a volume is denoised from both sides: the mean of what the network says of it and of its mirror image. That takes twice the
    time wherever volumes are drawn, is wrong by less, and changes nothing in training, which has to have seen mirror images
    (``data.augment.flip_left_right``)."""
    preconditioner: Preconditioner
    """How the network's output becomes a clean volume."""
    conditions: tuple[Condition, ...] = ()
    """What networks are told of each scan, and samples can be asked for; nothing if empty."""
    assembly: Assembly = Field(default_factory=lambda: {"kind": "whole"})
    """What of a volume is denoised at once, and how volumes are put together from it."""
    experts: BankConfig = BankConfig()
    """How many networks there are, which noise levels each owns, and in which order they are trained."""
    start: Start = Field(default_factory=lambda: {"kind": "scratch"})
    """What the whole run begins from: nothing, or a run of a public cohort."""
    adapter: Adapter = Field(default_factory=lambda: {"kind": "all"})
    """Which weights are trained."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """How the weights change from step to step."""
    objective: Objective = Field(default_factory=lambda: {"kind": "denoising"})
    """What training makes small."""
    ema: EMAConfig = EMAConfig()
    """Averaging of weights."""
    stopping: StoppingConfig = StoppingConfig()
    """How long each expert trains."""
    engine: MachineryConfig = MachineryConfig()
    """What DeepSpeed is told: sharding, precision, memory."""
    privacy: Privacy = Field(default_factory=lambda: {"kind": "none"})
    """Privacy of training."""
    sampler: Annotated[Sampler, MAY_CHANGE] = Field(default_factory=lambda: {"kind": "dpmpp_2m"})
    """Default solver of ``volgen sample``."""
    guidance: Annotated[Guidance, MAY_CHANGE] = Field(default_factory=lambda: {"kind": "none"})
    """Default guidance of ``volgen sample``, where nothing is measured."""

    @property
    def directory(self) -> Path:
        """Where the run lives."""
        return Path(self.runs) / self.name

    @property
    def places(self) -> list[str]:
        """Places on this machine that the configuration names, beside the store and the folder of runs."""
        weak = self.guidance.build().weak
        of_others = [*self.start.places, *(place for condition in self.conditions for place in condition.places)]
        return [*of_others, *([weak] if weak not in ("", SHARED) else [])]

    @property
    def model(self) -> ExpertModel:
        """What experts are made of, where nothing else is said of them: ask the recipe :meth:`of` a network."""
        return ExpertModel(self.network, self.view, self.level, self.mirrored)

    def of(self, phase: Phase) -> Recipe:
        """The recipe of one network of the plan: as if all were made, and trained, as this one is."""
        variant = self.variants[phase.model]
        first = None if phase.points else getattr(self.method, "optimiser", None)
        return variant if first is None else variant.model_copy(update={"optimiser": first})

    @property
    def variants(self) -> list[Recipe]:
        """The recipe of each model, lowest noise first."""
        return [self._with(model) for model in self.experts.models] or [self]

    def _with(self, model: ModelConfig) -> Recipe:
        sections = ("level", "view", "mirrored", "network", "optimiser", "stopping")
        update = {name: value for name in sections if (value := getattr(model, name)) is not None}
        if model.batch_size is not None:
            update["data"] = self.data.model_copy(update={"batch_size": model.batch_size})
        return self.model_copy(update=update)

    @property
    def grid(self) -> Shape3:
        """Voxels along X, Y, Z of what is denoised as a whole: of volumes, or of what the method makes of them."""
        return self.build().grid

    @property
    def example(self) -> Shape3:
        """Voxels along X, Y, Z of what of a scan a training example is."""
        return self.build().example

    @property
    def piece(self) -> Shape3:
        """Voxels along X, Y, Z of what goes through the network at once."""
        return self.model.piece(self.assembly.piece(self.grid), self.preconditioner)

    @property
    def known(self) -> int:
        """Channels of what is known beside a piece."""
        return int(self.assembly.known + self.view.known)

    @property
    def cut(self) -> Cut:
        """What of a scan one training example is: :attr:`piece`, with :attr:`known` channels beside it and what it is told."""
        seen = partial(self.model.cut, self.assembly.cut, self.preconditioner)
        return telling(self.objective.cut(seen) if hasattr(self.objective, "cut") else seen(), self.conditions)

    @property
    def examples_of_each(self) -> int:
        """Different examples of a volume that take about its memory: as many of each are validated on."""
        return int(self.assembly.cuts(self.grid) * self.view.examples(self.model.shape(self.grid)))

    def build(self) -> methods.Method:
        """The method that this recipe describes: what is trained, and what samples. Everybody who needs a network or a loss asks it."""
        return self.method.build(self)  # type: ignore[no-any-return]

    def stated(self, section: str) -> bool:
        """Whether a section is other than where nobody mentions it."""
        default, own = type(self).model_fields[section].get_default(call_default_factory=True), getattr(self, section)
        if isinstance(own, Config):  # an option that has come since is at its default, and says nothing
            own = {"kind": own.model_dump()["kind"], **own.model_dump(exclude_defaults=True)}
        return bool(own != default)

    def warm(self, phase: Phase) -> bool:
        """Whether a network starts from trained weights, which are validated before its first step."""
        return phase.start is not None or bool(self.start.warm)

    def shared_by_all(self, ranks: int) -> bool:
        """Whether all ranks of a launch train the network that experts start from together, though they form groups for the experts."""
        return all(recipe.data.batch_size % (ranks * self.engine.accumulation) == 0 for recipe in self.variants)

    def rule(self, phase: Phase) -> StoppingConfig:
        """How long one network of the plan trains."""
        stopping = self.of(phase).stopping
        return stopping.bounds(len(phase.points) or 1) if phase.max_steps is None else stopping.fixed(phase.max_steps)

    def made_of(self, phase: Phase) -> dict[str, Any]:
        """What differs between the model of a phase and that of the recipe, as ``ensemble.json`` records it."""
        own = self.of(phase).model_dump(mode="json", include=RECORDED)
        return {name: section for name, section in own.items() if section != self.model_dump(mode="json", include={name})[name]}

    def agrees(self, phase: Phase, made_of: Mapping[str, Any], where: str) -> bool:
        """Whether a record of a phase's model, made by this or an older version, means the one that it has.

        Raises:
            UserError: it means none; ``where`` is the file that it is in.
        """
        recorded = self._with(config.validate(ModelConfig, {"points": 1, **made_of}, where))
        return all(getattr(recorded, name) == getattr(self.of(phase), name) for name in RECORDED)

    def phases(self) -> list[Phase]:
        """Every network of the run, in an order in which one process can train them."""
        return self.build().phases()

    def trained(self) -> list[Phase]:
        """Those that are trained, rather than taken over from a public run as they are."""
        return [phase for phase in self.phases() if not self.start.keeps(phase.points)]

    @model_validator(mode="after")
    def _across(self) -> Self:
        grid: list[float] = self.schedule.grid()
        points = len(grid)
        if self.experts.count > points:
            raise ValueError(f"experts.count is {self.experts.count}, but the schedule has {points} points: each expert needs at least one")
        if self.experts.points and sum(self.experts.points) != points:
            raise ValueError(f"experts.points sum to {sum(self.experts.points)}, but schedule.points is {points}")
        if not all(phase.points for phase in plan(self.experts, grid)):
            raise ValueError("schedule: its noise levels are too close to each other to have owners")
        self._of_each(Recipe._check_model)
        self.build().check()
        self.start.check(self)
        self._of_each(Recipe._check_batch)
        self._of_each(Recipe._check_optimiser)
        refusals = list(dict.fromkeys(reason for variant in self.variants for reason in self.privacy.refusals(variant)))
        if refusals:
            raise ValueError(f"privacy.kind '{self.privacy.kind}' cannot be had with this: {'; '.join(refusals)}")
        return self

    def _of_each(self, check: Callable[[Recipe], None]) -> None:
        """Asks the recipe of each model, and says which one is wrong."""
        for number, variant in enumerate(self.variants):
            try:
                check(variant)
            except ValueError as error:
                raise ValueError(f"experts.models.{number}: {error}" if self.experts.models else str(error)) from None

    def _check_model(self) -> None:
        grid = self.grid
        try:
            piece = self.assembly.piece(grid)
        except ValueError as error:
            raise ValueError(f"assembly: {error}") from None
        kind, whole = self.assembly.kind, not self.assembly.piecewise
        if not (whole or self.preconditioner.anywhere):
            found = f"preconditioner.kind '{self.preconditioner.kind}' denoises whole volumes"
            raise ValueError(f"{found}, but assembly.kind '{kind}' makes pieces: use edm, v, x0, epsilon or flow")
        if not whole and (self.level or not self.view.anywhere):
            found = f"level {self.level} and view.kind '{self.view.kind}' are of whole volumes"
            raise ValueError(f"{found}, but assembly.kind '{kind}' makes pieces: use level 0 and view.kind whole")
        self.model.inputs(self.preconditioner)
        if self.mirrored:
            self._check_sides()
        names = [condition.name for condition in self.conditions]
        if len(set(names)) < len(names):
            raise ValueError(f"conditions: two of {names} have one name")
        if embedded(self.conditions) and not getattr(self.network, "embedding", 0):
            raise ValueError(f"conditions: network.kind '{self.network.kind}' cannot be told anything; use another, such as wavelet_unet3d")
        for condition in self.conditions:
            if not (condition.embedded or (self.preconditioner.told and condition.classes is not None)):
                raise ValueError(
                    f"conditions: '{condition.name}' is told to nobody: set embedded, or preconditioner.told for numbers and words"
                )
        if self.preconditioner.told and all(condition.classes is None for condition in self.conditions):
            raise ValueError("preconditioner.told: there is nothing to tell it; give conditions of kind continuous or categorical")
        step = 2**self.level
        if any(first % step for first in self.data.place.start):
            raise ValueError(f"data.box.start is {list(self.data.place.start)}, but level {self.level} needs multiples of {step}")
        maker = ("data.box.size" if self.data.box else "data.shape") if whole else f"a piece of assembly.kind '{kind}'"
        if grid != self.data.grid:
            maker = f"what method.kind '{self.method.kind}' makes of {maker}"
        _check_edges(maker, piece, "preconditioner", (self.preconditioner.multiple,) * 3)
        seen = self.model.piece(piece, self.preconditioner)
        if seen != piece:
            maker = f"what view.kind '{self.view.kind}' sees at level {self.level}"
        _check_edges(maker, seen, "network", self.network.multiples)

    def _check_optimiser(self) -> None:
        for optimiser in (self.optimiser, getattr(self.method, "optimiser", None) or self.optimiser):
            if optimiser.other and self.engine.zero_stage:
                found = f"optimiser.algorithm {optimiser.algorithm} remembers what cannot be cut among ranks"
                raise ValueError(f"{found}: set engine.zero_stage 0, or use adamw")
            if optimiser.other and optimiser.other.averages and self.ema.decay:
                found = f"ema.decay is {self.ema.decay:g}, but optimiser.algorithm {optimiser.algorithm} averages weights itself"
                raise ValueError(f"{found}: set it to 0")

    def _check_sides(self) -> None:
        if not self.data.augment.flip_left_right:
            found = "networks are asked about mirror images, but data.augment.flip_left_right is false"
            raise ValueError(f"mirrored: {found}: they see none in training")
        if self.assembly.piecewise or self.grid != self.data.grid:
            found = f"assembly.kind '{self.assembly.kind}' with method.kind '{self.method.kind}'"
            raise ValueError(
                f"mirrored: {found} denoises other things than whole volumes, which have no mirror image that was seen in training"
            )
        box = self.data.place
        if box != box.mirrored(self.data.shape):
            raise ValueError(
                f"mirrored: data.box starts at {box.start[0]} and has {box.size[0]} voxels from left to right: its middle is not the grid's"
            )

    def _check_batch(self) -> None:
        if self.data.batch_size % self.engine.accumulation:
            raise ValueError(f"data.batch_size {self.data.batch_size} is not a multiple of engine.accumulation {self.engine.accumulation}")


def load(source: Path | Mapping[str, Any], overrides: config.Overrides = (), *, own: bool = False) -> Recipe:
    """Reads a recipe from YAML, with dotted overrides; the shape is the store's where it is left out.

    Args:
        source: the file; ``pretrained:NAME``, for a run that begins from a model of the package; or what the file would hold.
        overrides: dotted keys and values.
        own: the file is the ``config.yaml`` of a run (:func:`volgen.core.config.read_typed`).

    Raises:
        UserError: says which key is wrong and what would be right.
    """
    if isinstance(source, Path):
        content: Mapping[str, Any] = _begun(source) if pretrained.packaged(source) else config.read_typed(source, own=own)
    else:
        content = source
    where = str(source) if isinstance(source, Path) else "configuration"
    content = config.apply_overrides(content, overrides)
    recipe = _settled(_read(_bordered(content, where), where))
    if not own:
        _check_order(recipe)
    return recipe


def _read(content: Mapping[str, Any], where: str) -> Recipe:
    data = content.get("data")
    if not isinstance(data, dict) or plain(data.get("store")) is None:
        return config.validate(Recipe, content, where)
    boxed, shape = plain(data.get("box")) == FOREGROUND, plain(data.get("shape"))
    if shape is not None and not boxed:
        return config.validate(Recipe, content, where)
    if shape is None:
        store = _store(data["store"], "data.shape", "is left out, and", "three edges, or a store")
        content = _with_data(content, shape=list(store.shape or ()))
    else:
        store = _store(data["store"], "data.box", f"is {FOREGROUND}, which", "a start and a size, or a store")
        if list(three(shape)) != list(store.shape or ()):
            found = f"is {shape}, but scans of {store.path} are {list(store.shape or ())}"
            raise UserError("data.shape", found, "the store's shape", "leave it out: it is taken from the store")
    return _boxed(content, store, where) if boxed else config.validate(Recipe, content, where)


def _settled(recipe: Recipe) -> Recipe:
    """The recipe with all of its conditions stated: what they leave out follows from what the store says of those who are trained on.

    Raises:
        UserError: it does not.
    """
    if all(condition.settled for condition in recipe.conditions):
        return recipe
    store = _store(recipe.data.store, "conditions", "leave out what", "all of it, or a store")
    people = [record.about for record in recipe.data.records(store, "train")]

    def settle(number: int, condition: ConditionConfig) -> ConditionConfig:
        try:
            return condition.settle(people)
        except ValueError as error:
            do = "state it in the configuration, or tell the store: volgen participants STORE TABLE.tsv"
            raise UserError(f"conditions.{number}", str(error), "a column that the store knows people by", do) from None

    return recipe.model_copy(update={"conditions": tuple(settle(number, each) for number, each in enumerate(recipe.conditions))})


def _begun(address: Path) -> dict[str, Any]:
    """The configuration of a model of the package, of which each expert begins from the model's.

    How long each expert of the model was trained from nothing says nothing of how long one is trained on: ``stopping`` is for all of them.
    """
    content = config.read_typed(pretrained.file(address, CONFIG), own=True)
    models = [{**model, "stopping": None} for model in content["experts"].get("models", ())]
    experts = {**content["experts"], "warm_start": "none", "shared_steps": 0, "chains": 1, "models": models}
    start = {"kind": "pretrained", "name": str(address).removeprefix(pretrained.PREFIX)}
    return {**content, "start": start, "experts": experts}


def _check_order(recipe: Recipe) -> None:
    """Refuses banks in which an expert sees finer voxels than one of lower noise; a run of an older version may be of one.

    Raises:
        UserError: this is one.
    """
    levels = [variant.level for variant in recipe.variants]
    if any(above < below for below, above in itertools.pairwise(levels)):
        expected = "the level of none below that of the one before: the higher the noise, the coarser what shows"
        raise UserError("experts.models", f"are of levels {levels}, lowest noise first", expected, "list them from fine to coarse")


def _bordered(content: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The recipe with numbers for points that are to be chosen: those of the run if it has begun, else from the scans of its cohort.

    Raises:
        UserError: they cannot be chosen.
    """
    experts = plain(content.get("experts"))
    models = experts.get("models") if isinstance(experts, Mapping) else None
    if not isinstance(models, Sequence) or not all(isinstance(model, Mapping) for model in models):
        return content
    left = [model.get("points", AUTO) == AUTO for model in models]
    if not any(left):
        return content
    if not all(left):
        raise UserError("experts.models", f"points of some are stated, and of some '{AUTO}'", "numbers for all of them, or for none")

    def stated(points: Sequence[int], borders: Sequence[Border] = (), **data: Any) -> dict[str, Any]:
        told = [{**model, "points": size} for model, size in zip(content["experts"]["models"], points, strict=True)]
        experts = {**content["experts"], "models": told, "borders": [border.model_dump() for border in borders]}
        return {**_with_data(content, **data), "experts": experts} if data else {**content, "experts": experts}

    # Any points will do to have all the rest checked.
    points, count = len(config.validate(_Scheduled, {"schedule": content.get("schedule")}, where).schedule.grid()), len(models)
    trial = _read(stated([1] * (count - 1) + [max(1, points - count + 1)]), where)
    levels = [variant.level for variant in trial.variants]
    if any(above <= below for below, above in itertools.pairwise(levels)):
        expected = "a level of its own for each, lowest noise first, rising with the noise"
        raise UserError("experts.models", f"are of levels {levels}, and their points are to be chosen", expected, "or state their points")
    begun = trial.directory / CONFIG
    if begun.exists() and (before := load(begun, own=True).experts).borders and before.count == count:
        return stated(before.points, before.borders)
    if not trial.privacy.looks:
        found = f"points are '{AUTO}', which would be a function of people whom privacy.kind '{trial.privacy.kind}' protects"
        do = f"state them, or copy them from the {CONFIG} of the public run that this one begins from"
        raise UserError("experts.models", found, "numbers that do not follow from this cohort", do)
    store = _store(content["data"]["store"], "experts.models", f"points are '{AUTO}', and", "numbers, or a store")
    people = _people(trial, store)
    try:
        chosen = choose(levels, trial.schedule.grid(), variances(people, max(levels), FAINT), trial.experts.border_ratio)
    except ValueError as error:
        do = "leave the level out, change the schedule, or state the points"
        raise UserError("experts.models", str(error), "points for every level", do) from None
    place = trial.data.box and trial.data.box.model_dump()
    return stated(*chosen, shape=list(trial.data.shape), box=place)


class _Scheduled(Config):
    """The part of a recipe that says which noise levels there are."""

    schedule: Schedule


def _people(recipe: Recipe, store: Store) -> Iterator[Scan]:
    """A scan of each of :data:`MOST` people of the training split at most, of what is computed on; of one half of it no other than of all.

    Raises:
        UserError: there are fewer than two people.
    """
    finest = min(variant.level for variant in recipe.variants)
    records = [record for record in store.split("train") if recipe.data.teaches(record, finest)]
    recipe.data.check_shapes(store, records)
    first = [*{record.patient: record for record in reversed(records)}.values()]
    if len(first) < 2:
        found = f"has {len(first)} people in its train split whose scans show detail of level {finest}"
        raise UserError(str(store.path), found, "people to choose borders from: at least two")
    cache, place = Cache(0), recipe.data.place
    chosen = first[:: -(-len(first) // MOST)]
    return (VolumeScan(place.size, StoredScan(store, record, cache, False, place, place).whole) for record in chosen)


def _store(stated: Any, key: str, found: str, expected: str) -> Store:
    """The store of a recipe that does not say all by itself."""
    address = stated.text if isinstance(stated, Scalar) else str(stated)
    try:
        store = Store.open(address)
    except UserError as error:
        raise UserError(key, f"{found} cannot be taken from the store ({error})", expected, "ingest first, or state it") from None
    if store.shape is None:
        raise UserError(key, f"{found} scans of {address} differ in shape", "one shape", "ingest them with --shape")
    return store


def _with_data(content: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {**content, "data": {**content["data"], **more}}


def _boxed(content: Mapping[str, Any], store: Store, where: str) -> Recipe:
    """The recipe with the smallest box around the training heads on which its models can work; with all voxels where none fits.

    The box is that of the whole split, also where a half of it is trained on: who is in the half, for an audit, decides nothing else.

    Raises:
        UserError: the recipe is wrong, or promises its people that nothing but what is accounted for follows from them.
    """
    shape, records = store.shape, store.split("train")
    assert shape is not None
    trial, multiple = _multiple(content, shape, where)
    if trial is None:  # whatever is wrong with it is said of the real shape
        return config.validate(Recipe, _with_data(content, box=BoxConfig.whole(shape).model_dump()), where)
    if not trial.privacy.looks:
        found = f"is {FOREGROUND}, which would be a function of people whom privacy.kind '{trial.privacy.kind}' protects"
        do = f"state data.box.start and data.box.size, or copy them from the {CONFIG} of the public run that this one begins from"
        raise UserError("data.box", found, "numbers that do not follow from this cohort", do)
    if not records:
        expected, do = "heads to put a box around", "state data.box.start and data.box.size"
        raise UserError(str(store.path), "has nobody in its train split", expected, do)
    heads = BoxConfig.around(field_of_view.boxes(store, records))
    if trial.data.augment.flip_left_right:
        heads = BoxConfig.around([heads, heads.mirrored(shape)])
    step = 2 ** max(variant.level for variant in trial.variants)
    for room in (heads.grown(field_of_view.margins(records[0].voxel_size), shape), heads):
        box = field_of_view.smallest(room, shape, multiple, step)
        if not any(edge % multiple for edge in box.size):
            break
    return config.validate(Recipe, _with_data(content, box=box.model_dump()), where)


def _multiple(content: Mapping[str, Any], shape: Shape3, where: str) -> tuple[Recipe | None, int]:
    """Number of voxels, a power of two, of which edges have to be multiples for the models of a recipe; and the recipe, for another shape.

    That is a matter of networks, views, levels, assembly and preconditioner: whoever checks them is asked about volumes of odd
    multiples.
    """
    multiple = 1
    while multiple <= max(shape):
        edges = [(-(-edge // multiple) | 1) * multiple for edge in shape]
        with suppress(UserError):
            return config.validate(Recipe, _with_data(content, shape=edges, box=None), where), multiple
        multiple *= 2
    return None, 1


def _check_edges(of: str, shape: Shape3, section: str, multiples: Shape3) -> None:
    if any(edge % multiple for edge, multiple in zip(shape, multiples, strict=True)):
        raise ValueError(f"{of} is {list(shape)}, but this {section} needs multiples of {list(multiples)}")


def _sizes(models: Sequence[ModelConfig]) -> tuple[int, ...]:
    """Points of each expert."""
    return tuple(size for model in models for size in model.sizes)
