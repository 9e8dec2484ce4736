"""``volgen sample``: a trained run in, NIfTI volumes with their provenance out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from volgen.core import manifest
from volgen.core.config import Config, validate
from volgen.core.errors import UserError, nearest
from volgen.core.files import read_json, write_json
from volgen.core.noise import choose
from volgen.core.progress import progress, say
from volgen.core.protocols import Shape3
from volgen.core.registry import config_class, kinds
from volgen.core.volume import Volume
from volgen.data import derivative, nifti
from volgen.experts.ensemble import Ensemble
from volgen.models.assembly import Place
from volgen.samplers import _driver
from volgen.stages._device import usable_device
from volgen.stages._trained_run import TrainedRun

SAMPLERS, NOISES = "volgen.samplers", "volgen.noises"
WHITE = "white"
BYTES_PER_WEIGHT = 4
BYTES_PER_VOXEL = 8  # a float32 state, and as much again for a solver that remembers


def sample(
    run: Path,
    out: Path,
    *,
    count: int,
    seed: int,
    steps: int | None = None,
    sampler: str | Mapping[str, Any] | None = None,
    noise: str | Mapping[str, Any] | None = None,
    batch_size: int = 1,
    device: str | None = None,
    dtype: Literal["float32", "int16"] = "float32",
    start_index: int = 0,
    memory_gib: float = 4.0,
) -> Path:
    """Draws volumes ``start_index`` ... ``start_index + count - 1`` of a seed and writes them as a BIDS derivative.

    Volume i depends on the run, the settings, the seed and i alone. Volumes that ``out`` already holds from the same run, settings
    and seed are kept, so a stopped command continues and a larger ``count`` adds volumes.

    Args:
        run: directory that ``volgen train`` made.
        out: directory of samples.
        count: number of volumes.
        seed: seed of all noise.
        steps: how many points of the ensemble's grid to visit; all of them if None.
        sampler: kind of solver, or its configuration with ``kind``; the recipe's if None.
        noise: kind of noise, or its configuration with ``kind``; white if None.
        batch_size: volumes denoised together.
        device: torch device; a GPU if there is one, if None.
        dtype: voxels in the file; int16 has a slope.
        start_index: index of the first volume.
        memory_gib: host memory for volumes that are under way; more volumes than fit go through the experts in several waves. Runs that
            draw a volume piece by piece also keep as many experts as fit into so much, because each piece needs all of them.

    Returns:
        ``out``.

    Raises:
        UserError: the run is damaged, an option is out of range, or ``out`` holds something else.
    """
    for option, value, least in (("count", count, 1), ("seed", seed, 0), ("start-index", start_index, 0), ("batch-size", batch_size, 1)):
        if value < least:
            raise UserError(f"--{option}", str(value), f"at least {least}")
    if not (math.isfinite(memory_gib) and memory_gib >= 0):
        raise UserError("--memory-gib", str(memory_gib), "a finite number of GiB, at least 0")
    where = usable_device(device)
    trained = TrainedRun.read(run)
    solver = _component("--sampler", SAMPLERS, sampler, trained.recipe.sampler)
    noises = _component("--noise", NOISES, noise, config_class(NOISES, WHITE)())
    grid = _grid(trained.ensemble, steps)
    job = _Job(out, trained, solver, noises, grid, seed, dtype, {"count": count, "start_index": start_index, "batch_size": batch_size})
    preconditioner, assembly = trained.preconditioner(where), trained.assembly()
    job.claim()
    indices = range(start_index, start_index + count)
    missing = [index for index in indices if not job.holds(index)]
    if len(missing) < count:
        say(f"{out} already holds {count - len(missing)} of these {count} volumes")
    whole = trained.geometry.shape
    fitting = memory_gib * 2**30 / (BYTES_PER_VOXEL * math.prod(whole))
    wave = max(batch_size, int(min(fitting, count)))
    pieces = assembly.pieces(whole)
    resident = 2 if pieces == 1 else _resident(trained.ensemble, memory_gib)
    if missing:
        with (
            trained.bank(preconditioner, where, grid, resident) as bank,
            progress("sampling", len(missing) * pieces * len(grid)) as ticker,
        ):

            def draw(indices: Sequence[int], place: Place, known: Sequence[Tensor]) -> list[Tensor]:
                def there(shape: Shape3, seed: int, *key: int | str) -> Tensor:
                    drawn: Tensor = noises.draw(whole, seed, *key)
                    # A copy: a view would keep the noise of the whole volume for the sake of a slab.
                    return drawn if pieces == 1 else drawn[(slice(None), *place)].clone()

                return _driver.sample(
                    bank, solver.build(), grid, seed=seed, indices=indices, shape=trained.recipe.piece,
                    device=where, start=preconditioner.start, noise=there, known=known, done=ticker.advance,
                )  # fmt: skip

            for first in range(0, len(missing), wave):
                chosen = missing[first : first + wave]
                for index, volume in zip(chosen, assembly.generate(draw, whole, seed, chosen), strict=True):
                    job.export(index, volume)
    job.finish()
    say(f"{count} volumes in {out}")
    return out


@dataclass(frozen=True)
class _Job:
    """A directory of samples and what was asked for."""

    out: Path
    run: TrainedRun
    solver: Config
    noise: Config
    grid: Sequence[float]
    seed: int
    dtype: Literal["float32", "int16"]
    requested: Mapping[str, int]  # what may differ between two commands that fill one directory
    provenance: manifest.Provenance = field(init=False)

    def __post_init__(self) -> None:
        settings = {
            "sampler": self.solver.model_dump(mode="json"),
            "sigma_grid": list(self.grid),
            "dtype": self.dtype,
            # White noise goes without saying: directories from before there was another can be continued.
            **({} if self.noise.model_dump() == {"kind": WHITE} else {"noise": self.noise.model_dump(mode="json")}),
        }
        provenance = manifest.Provenance("sample", settings, {"run": self.run.fingerprint}, self.seed)
        object.__setattr__(self, "provenance", provenance)

    def claim(self) -> None:
        """Makes the directory, or checks that it is of the same run, settings and seed."""
        if self.out.exists() and not self.out.is_dir():
            raise UserError(str(self.out), "is a file", "a new directory")
        if self.out.is_dir() and any(self.out.iterdir()):
            if not (self.out / manifest.NAME).is_file():
                raise UserError(str(self.out), "holds other files", "an empty or new directory, or one of samples", "choose another --out")
            before = read_json(self.out / manifest.NAME, "the manifest of a directory of samples")
            mine: dict[str, Any] = {
                "stage": "sample",
                "config": self.provenance.config,
                "inputs": self.provenance.inputs,
                "seed": self.seed,
            }
            different = [key for key, value in mine.items() if before.get(key) != value]
            if different:
                found = f"holds the output of another stage, run, seed or setting (its manifest has another '{different[0]}')"
                expected = "the same run, --seed, --steps, --sampler, --noise and --dtype to continue"
                raise UserError(str(self.out), found, expected, "choose another --out")
        # The manifest comes first: a directory that was left half-way says whose it is.
        self._write_manifest(complete=False)
        derivative.write_description(self.out, f"Synthetic T1w volumes of {self.run.recipe.name}")

    def holds(self, index: int) -> bool:
        """Whether a volume is there and whole: files are atomic and the sidecar is written last."""
        return (self.out / derivative.image_name(index)).is_file() and (self.out / derivative.sidecar_name(index)).is_file()

    def export(self, index: int, volume_CXYZ: Tensor) -> None:
        """Model range -> [0, 1] -> intensity units of the cohort; then the image and its sidecar."""
        unit = (volume_CXYZ[0].clamp(-1.0, 1.0) + 1.0) / 2.0
        geometry = self.run.geometry
        image = Volume(geometry.intensity.from_unit(unit.numpy()), geometry.affine)
        nifti.write(self.out / derivative.image_name(index), image, dtype=self.dtype)
        sidecar = {
            "Description": "Synthetic T1-weighted volume drawn from a generative model; it shows no person.",
            "SkullStripped": geometry.skull_stripped,
            "Seed": self.seed,
            "SampleIndex": index,
            "Sampler": self.solver.model_dump(mode="json"),
            "Noise": self.noise.model_dump(mode="json"),
            "SigmaGrid": list(self.grid),
            "RunName": self.run.recipe.name,
            "RunFingerprint": self.run.fingerprint,
            "PrivacyStatement": self.run.privacy,
            "IntensityWindow": geometry.intensity.to_dict(),
        }
        write_json(self.out / derivative.sidecar_name(index), sidecar)

    def finish(self) -> None:
        """Writes the final manifest."""
        self._write_manifest(complete=True)

    def _write_manifest(self, complete: bool) -> None:
        volumes = sorted(path.name for path in self.out.glob("sub-*_T1w.nii.gz") if path.with_name(path.name[:-7] + ".json").is_file())
        self.provenance.write(self.out, complete=complete, requested=dict(self.requested), volumes=volumes, run_name=self.run.recipe.name)


def _component(option: str, package: str, asked: str | Mapping[str, Any] | None, default: Any) -> Any:
    """A configuration of a file in ``package``."""
    if asked is None:
        return default
    content = {"kind": asked} if isinstance(asked, str) else dict(asked)
    kind = content.setdefault("kind", default.kind)
    if kind not in kinds(package):
        raise UserError(option, f"there is no {option[2:]} '{kind}'", "a known kind", nearest(str(kind), kinds(package)))
    return validate(config_class(package, kind), content, option)


def _resident(ensemble: Ensemble, memory_gib: float) -> int:
    """How many experts fit into memory; at least two, at most all."""
    largest = max(expert.parameters for expert in ensemble.experts)
    return max(2, min(len(ensemble.experts), int(memory_gib * 2**30 / (BYTES_PER_WEIGHT * largest))))


def _grid(ensemble: Ensemble, steps: int | None) -> list[float]:
    try:
        return choose(list(ensemble.grid), steps)
    except ValueError as error:
        expected = f"from 2 to {len(ensemble.grid)}: the experts were trained at these noise levels only"
        raise UserError("--steps", str(error), expected) from None
