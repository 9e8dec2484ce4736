"""A directory of samples: whose it is, what it holds, and how a volume gets into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from volgen.commands.sample.steering import Steering
from volgen.core import folder as folders
from volgen.core import manifest
from volgen.core.config import Config
from volgen.core.files import check_digest, write_json
from volgen.data import derivative
from volgen.images import nifti
from volgen.images.geometry import Geometry
from volgen.runs.contrast import contrast_of
from volgen.runs.instrument import as_told
from volgen.runs.statement import PAGE, STATEMENT, write_statement
from volgen.runs.trained import TrainedRun

WHITE = "white"
CLIMBS = "climbs"
"""Setting of samples that climb; not there for others, so that folders of versions in which none did are continued."""
FILES = (derivative.OVERVIEW, *derivative.DESCRIPTION, *STATEMENT)


@dataclass(frozen=True)
class Job:
    """A directory of samples and what was asked for.

    ``climbs`` says whether only the corners that experts see are on their way (:mod:`volgen.sampling.climb`), ``finest`` up to which
    level, and ``level`` that voxels are 2^level times as large as the run's. ``names`` says where in the directory volumes lie: as BIDS
    has it, or without folders in one that volgen 0.1.0 began.
    """

    out: Path
    run: TrainedRun
    solver: Config
    noise: Config
    steering: Steering
    grid: Sequence[float]
    seed: int
    dtype: Literal["float32", "int16"]
    requested: Mapping[str, int]  # what may differ between two commands that fill one directory
    climbs: bool = False
    level: int = 0
    finest: int = 0
    provenance: manifest.Provenance = field(init=False)
    names: derivative.Names = field(init=False)

    def __post_init__(self) -> None:
        settings = {
            "sampler": self.solver.model_dump(mode="json"),
            "sigma_grid": list(self.grid),
            "dtype": self.dtype,
            # White noise is left out: directories from before there was another can be continued.
            **({} if self.noise.model_dump() == {"kind": WHITE} else {"noise": self.noise.model_dump(mode="json")}),
            **self.steering.told,
            **({CLIMBS: True} if self.climbs else {}),
            **({"voxel_size": list(self.geometry.voxel_size)} if self.level else {}),
        }
        provenance = manifest.Provenance(
            "sample", settings, {"run": self.run.fingerprint}, self.seed, measured=self.run.recipe.privacy.measured
        )
        object.__setattr__(self, "provenance", provenance)
        object.__setattr__(self, "names", derivative.names_in(self.out, self.contrast))

    def contrast(self, index: int) -> str:
        """What a volume shows, as a suffix of BIDS; "" where nobody knows."""
        return contrast_of(self.run, self.steering.asked.of(index))

    @property
    def geometry(self) -> Geometry:
        """The frame of the volumes."""
        return self.run.geometry.coarser(self.level)

    @contextmanager
    def claim(self) -> Iterator[Claimed]:
        """Has the directory to itself, which is new, or of the same run, settings and seed.

        Raises:
            UserError: it is something else, or another process is drawing into it.
        """
        mine = {"stage": "sample", "config": self.provenance.config, "inputs": self.provenance.inputs, "seed": self.seed}

        def differs(before: Mapping[str, Any]) -> str:
            known = {**before, "config": self._filled(before.get("config"))}
            different = [key for key, value in mine.items() if known.get(key) != value]
            return (
                f"holds the output of another stage, run, seed or setting (its manifest has another '{different[0]}')" if different else ""
            )

        with folders.claim(
            self.out, self.provenance, "samples", writes=_writes, differs=differs, strangers=True,
            expected="an empty or new directory, or the same run, --seed, --steps, --sampler, --noise and so on to continue",
            keeps=lambda: bool(self.names.complete(self.out)),
        ) as folder:  # fmt: skip
            # The manifest comes first: a directory that was left half-way says whose it is.
            found = self.names.complete(self.out)
            for name in found:
                self._check(folder, name)
                self._check(folder, f"{name.removesuffix('.nii.gz')}.json")
            folder.begin(**self._about(found))
            derivative.write_description(
                self.out, f"Synthetic {' and '.join(self.geometry.contrasts)} volumes of {self.run.recipe.name}", self.steering.readme
            )
            kept = {*found, *(f"{name.removesuffix('.nii.gz')}.json" for name in found)}
            if (self.out / PAGE).exists():  # one with an audit in it stays
                kept.update(STATEMENT)
            else:
                write_statement(self.out, self.run)
            yield Claimed(self, folder, frozenset(kept))

    def _check(self, folder: folders.Folder, name: str) -> None:
        """Makes sure that a volume or sidecar that stays is what the manifest knows; one of a command that was stopped is not known yet."""
        if name in folder.files:
            what, do = "a volume that was drawn before", "delete it to have it drawn again"
            check_digest(self.out / name, folder.files[name], manifest.NAME, what=what, do=do)

    def _filled(self, config: Any) -> Any:
        """Settings of samples that were drawn before, with the default of every option that was not there yet."""
        filled = as_told(config, self.provenance.config)
        sections = {"sampler": self.solver, "noise": self.noise, "guidance": self.steering.guidance, "operator": self.steering.operator}
        for name, mine in sections.items():
            section = filled.get(name)
            if mine is not None and isinstance(section, Mapping) and section.get("kind") == mine.model_dump().get("kind"):
                filled[name] = {**type(mine).model_construct().model_dump(mode="json"), **section}
        return filled

    def holds(self, index: int) -> bool:
        """Whether a volume is there and whole: files are atomic and the sidecar is written last."""
        return (self.out / self.names.image(index)).is_file() and (self.out / self.names.sidecar(index)).is_file()

    def export(self, index: int, volume_CXYZ: Tensor) -> None:
        """Model range -> [0, 1] -> intensity units of the cohort; then the image and its sidecar."""
        geometry = self.geometry
        image = geometry.volume(volume_CXYZ[0])
        nifti.write(self.out / self.names.image(index), image, dtype=self.dtype, description=derivative.description(self.steering.header))
        sidecar = {
            "Description": self.steering.description(self.contrast(index)),
            "SkullStripped": geometry.skull_stripped,
            "Seed": self.seed,
            "SampleIndex": index,
            "Sampler": self.solver.model_dump(mode="json"),
            "Noise": self.noise.model_dump(mode="json"),
            **({"AskedFor": said} if (said := self.steering.said(index)) else {}),
            "SigmaGrid": list(self.grid),
            **({"Levels": self.run.levels(self.grid, self.finest)} if self.climbs else {}),
            "RunName": self.run.recipe.name,
            "RunFingerprint": self.run.fingerprint,
            "PrivacyStatement": self.run.privacy,
            "PrivacyStatementPage": PAGE,
            "IntensityWindow": geometry.intensity.to_dict(),
        }
        write_json(self.out / self.names.sidecar(index), sidecar)

    def _about(self, volumes: Sequence[str]) -> dict[str, Any]:
        return {"requested": dict(self.requested), "volumes": list(volumes), "run_name": self.run.recipe.name}


@dataclass(frozen=True)
class Claimed:
    """A directory of samples that is being filled.

    Attributes:
        job: what is drawn.
        folder: the claim.
        found: files that were there before and stay as they are.
    """

    job: Job
    folder: folders.Folder
    found: frozenset[str]

    def finish(self) -> None:
        """Writes the final manifest."""
        self.folder.finish(self.found, **self.job._about(self.job.names.complete(self.job.out)))


def began_full(out: Path) -> bool:
    """Whether a directory holds samples that did not climb.

    Raises:
        UserError: its manifest is damaged.
    """
    if not (out / manifest.NAME).is_file():
        return False
    before = manifest.read(out, "the manifest of samples", f"restore it from a copy, or {folders.ELSEWHERE}")
    return before.get("stage") == "sample" and CLIMBS not in (before.get("config") or {})


def _writes(name: str) -> bool:
    """Whether a directory of samples has a file or a folder of this name."""
    return name.startswith("sub-") or name in FILES
