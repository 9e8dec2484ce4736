"""The typed configuration of a run, and every check that spans more than one component."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, NonNegativeInt, model_validator

from volgen import methods
from volgen.core import config
from volgen.core.config import MAY_CHANGE, Config
from volgen.core.errors import UserError
from volgen.core.protocols import Shape3
from volgen.core.registry import union
from volgen.core.yaml_text import Scalar, plain
from volgen.data.store import Store
from volgen.data.stream import StreamConfig
from volgen.experts.plan import ExpertsConfig, Phase, plan
from volgen.parallel.engine import EngineConfig
from volgen.training.ema import EMAConfig
from volgen.training.optimiser import OptimiserConfig
from volgen.training.stopping import StoppingConfig

# Run-time unions of the components found in each folder; to a type checker they are Any.
Method: Any = union("volgen.methods")
Schedule: Any = union("volgen.sampling.schedules")
Network: Any = union("volgen.models.networks")
Preconditioner: Any = union("volgen.models.preconditioners")
Assembly: Any = union("volgen.models.assemblies")
Adapter: Any = union("volgen.models.adapters")
Start: Any = union("volgen.origin.starts")
Sampler: Any = union("volgen.sampling.samplers")
Privacy: Any = union("volgen.privacy.plans")


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
    """Noise levels."""
    network: Network
    """The network inside each expert."""
    preconditioner: Preconditioner
    """How the network's output becomes a clean volume."""
    assembly: Assembly = Field(default_factory=lambda: {"kind": "whole"})
    """What of a volume is denoised at once, and how volumes are put together from it."""
    experts: ExpertsConfig = ExpertsConfig()
    """The bank."""
    start: Start = Field(default_factory=lambda: {"kind": "scratch"})
    """What the whole run begins from: nothing, or a run of a public cohort."""
    adapter: Adapter = Field(default_factory=lambda: {"kind": "all"})
    """Which weights are trained."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """Step sizes."""
    ema: EMAConfig = EMAConfig()
    """Averaging of weights."""
    stopping: StoppingConfig = StoppingConfig()
    """How long each expert trains."""
    engine: EngineConfig = EngineConfig()
    """DeepSpeed."""
    privacy: Privacy = Field(default_factory=lambda: {"kind": "none"})
    """Privacy of training."""
    sampler: Sampler = Field(default_factory=lambda: {"kind": "dpmpp_2m"})
    """Default solver of ``volgen sample``."""

    @property
    def directory(self) -> Path:
        """Where the run lives."""
        return Path(self.runs) / self.name

    @property
    def piece(self) -> Shape3:
        """Voxels along X, Y, Z of what is denoised at once."""
        return self.assembly.piece(self.data.shape)  # type: ignore[no-any-return]

    def build(self) -> methods.Method:
        """The method that this recipe describes: what is trained, and what samples. Everybody who needs a network or a loss asks it."""
        return self.method.build(self)  # type: ignore[no-any-return]

    def stated(self, section: str) -> bool:
        """Whether a section is other than where nobody mentions it."""
        default = type(self).model_fields[section].get_default(call_default_factory=True)
        return bool(getattr(self, section).model_dump() != default)

    def warm(self, phase: Phase) -> bool:
        """Whether a network starts from trained weights, which are validated before its first step."""
        return phase.start is not None or bool(self.start.warm)

    def shared_by_all(self, ranks: int) -> bool:
        """Whether all ranks of a launch train the network that experts start from together, though they form groups for the experts."""
        return self.data.batch_size % (ranks * self.engine.accumulation) == 0

    def rule(self, phase: Phase) -> StoppingConfig:
        """How long one network of the plan trains."""
        return self.stopping.bounds(len(phase.points)) if phase.max_steps is None else self.stopping.fixed(phase.max_steps)

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
        self._check_shapes()
        self.start.check(self)
        if self.data.batch_size % self.engine.accumulation:
            raise ValueError(f"data.batch_size {self.data.batch_size} is not a multiple of engine.accumulation {self.engine.accumulation}")
        refusals = list(self.privacy.refusals(self))
        if refusals:
            raise ValueError(f"privacy.kind '{self.privacy.kind}' cannot be had with this: {'; '.join(refusals)}")
        return self

    def _check_shapes(self) -> None:
        try:
            piece = self.piece
        except ValueError as error:
            raise ValueError(f"assembly: {error}") from None
        if self.assembly.piecewise and not self.preconditioner.anywhere:
            found = f"preconditioner.kind '{self.preconditioner.kind}' denoises whole volumes"
            raise ValueError(f"{found}, but assembly.kind '{self.assembly.kind}' makes pieces: use edm, v, x0, epsilon or flow")
        found = f"data.shape is {list(self.data.shape)}"
        if self.assembly.piecewise:
            found = f"a piece of assembly.kind '{self.assembly.kind}' is {list(piece)}"
        for section, multiples in (("network", self.network.multiples), ("preconditioner", (self.preconditioner.multiple,) * 3)):
            if any(size % multiple for size, multiple in zip(piece, multiples, strict=True)):
                raise ValueError(f"{found}, but this {section} needs multiples of {list(multiples)}")


def load(source: Path | Mapping[str, Any], overrides: config.Overrides = (), *, own: bool = False) -> Recipe:
    """Reads a recipe from YAML, with dotted overrides; the shape is the store's where it is left out.

    Args:
        source: the file, or what it would hold.
        overrides: dotted keys and values.
        own: the file is the ``config.yaml`` of a run (:func:`volgen.core.config.read_typed`).

    Raises:
        UserError: says which key is wrong and what would be right.
    """
    content = config.read_typed(source, own=own) if isinstance(source, Path) else source
    where = str(source) if isinstance(source, Path) else "configuration"
    return config.validate(Recipe, _with_shape(config.apply_overrides(content, overrides)), where)


def _with_shape(content: dict[str, Any]) -> dict[str, Any]:
    data = content.get("data")
    if not isinstance(data, dict) or plain(data.get("shape")) is not None or plain(data.get("store")) is None:
        return content
    address = data["store"].text if isinstance(data["store"], Scalar) else str(data["store"])
    try:
        store = Store.open(address)
    except UserError as error:
        found = f"is left out, and cannot be taken from the store ({error})"
        raise UserError("data.shape", found, "three edges, or a store", "ingest first, or state it") from None
    if store.shape is None:
        raise UserError("data.shape", f"is left out, and scans of {address} differ in shape", "one shape", "ingest them with --shape")
    return {**content, "data": {**data, "shape": list(store.shape)}}
