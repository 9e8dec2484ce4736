"""A directory of reconstructions: whose it is, what it holds, and how a volume gets into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from volgen.core import folder as folders
from volgen.core import manifest
from volgen.core.errors import UserError
from volgen.core.files import check_digest, read_json, write_json
from volgen.data import derivative
from volgen.images import nifti
from volgen.images.contrasts import UNSAID
from volgen.images.intensity import IntensityMap, from_model
from volgen.images.volume import Volume
from volgen.reporting import reconstruction_page
from volgen.runs.contrast import contrast_of
from volgen.runs.instrument import as_told
from volgen.runs.observed import Observation
from volgen.runs.statement import PAGE, STATEMENT, write_statement
from volgen.runs.trained import TrainedRun

RESULT = reconstruction_page.RESULT
CALIBRATION = "calibration.json"
FOLDERS = (reconstruction_page.FIGURES, reconstruction_page.PREVIEWS)
FILES = (*derivative.DESCRIPTION, *STATEMENT, RESULT, CALIBRATION, reconstruction_page.NAME, *FOLDERS)
README = f"""# Brain MRI reconstructed from measurements

A generative model drew the samples in this folder so that they agree with measurements of a head, and mean, standard deviation and
percentiles are of those samples. Where little was measured the model has filled in what is usual, so nothing here may be used for
diagnosis; where it was measured, the images show whom the measurements show, and are as private. `{reconstruction_page.NAME}` is the
page to look at first, `{manifest.NAME}` says how the images were made.
"""
HEADER = "reconstructed from measurements"
SAMPLE = "One of the volumes that a generative model holds for possible, given what was measured of a head."


@dataclass(frozen=True)
class Reconstructions:
    """A directory of reconstructions and what was asked for.

    Attributes:
        out: the directory.
        run: the run that volumes are drawn from.
        settings: what decides the volumes, as the manifest has it.
        inputs: fingerprints of what was measured, beside that of the run.
        seed: seed of all noise.
        dtype: voxels in the files.
        requested: what may differ between two commands that fill one directory.
    """

    out: Path
    run: TrainedRun
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    seed: int
    dtype: Literal["float32", "int16"]
    requested: Mapping[str, Any]
    provenance: manifest.Provenance = field(init=False)

    def __post_init__(self) -> None:
        provenance = manifest.Provenance(
            "reconstruct", dict(self.settings), {"run": self.run.fingerprint, **self.inputs}, self.seed,
            measured=self.run.recipe.privacy.measured,
        )  # fmt: skip
        object.__setattr__(self, "provenance", provenance)

    @contextmanager
    def claim(self) -> Iterator[folders.Folder]:
        """Has the directory to itself, which is new, or of the same run, data, settings and seed.

        Raises:
            UserError: it is something else, or another process is writing to it.
        """
        mine = {"stage": "reconstruct", "config": self.provenance.config, "inputs": self.provenance.inputs, "seed": self.seed}

        def differs(before: Mapping[str, Any]) -> str:
            known = {**before, "config": as_told(before.get("config"), self.settings)}
            different = [key for key, value in mine.items() if known.get(key) != value]
            return f"holds other reconstructions (its manifest has another '{different[0]}')" if different else ""

        with folders.claim(
            self.out, self.provenance, "reconstructions", writes=_writes, differs=differs,
            expected="an empty or new directory, or the same run, data, --seed, --operator, --guidance and so on to continue",
            keeps=lambda: any(self.out.glob("sub-*/anat/*_desc-sample*.json")),
        ) as folder:  # fmt: skip
            for name in folder.files:
                if "_desc-sample" in name and (self.out / name).is_file():
                    what, do = "a volume that was drawn before", "delete it to have it drawn again"
                    check_digest(self.out / name, folder.files[name], manifest.NAME, what=what, do=do)
            folder.begin(requested=dict(self.requested))
            own = (RESULT, CALIBRATION, reconstruction_page.NAME, *FOLDERS)
            derivative.write_description(
                self.out,
                f"{' and '.join(self.run.geometry.contrasts)} volumes that {self.run.recipe.name} drew from measurements",
                README,
                own,
            )
            write_statement(self.out, self.run)
            yield folder

    def head(self, label: str) -> Head:
        """One head of the directory."""
        return Head(self, label)


@dataclass(frozen=True)
class Head:
    """The files of one head.

    Attributes:
        target: the directory.
        label: what the head is called, of letters and digits.
    """

    target: Reconstructions
    label: str

    @property
    def samples(self) -> derivative.Names:
        """Where its samples are."""
        return derivative.Names(self._stem("sample{0}"))

    def _stem(self, what: str) -> str:
        return f"sub-{self.label}/anat/sub-{self.label}_desc-{what}_{contrast_of(self.target.run, {}) or UNSAID}"

    def missing(self, count: int) -> list[int]:
        """Which of the first samples are not there: files are atomic, and the sidecar is written last."""
        names, out = self.samples, self.target.out
        there = {index for index in range(count) if (out / names.image(index)).is_file() and (out / names.sidecar(index)).is_file()}
        return [index for index in range(count) if index not in there]

    def export(self, seen: Observation, index: int, x_CXYZ: Tensor) -> None:
        """Writes a sample [1, X, Y, Z] and its sidecar, with how well it agrees with the data, before it is cut off beyond the range."""
        measured = seen.measurement.data.device
        x_BCXYZ = x_CXYZ[None].to(measured)
        about = {
            "Description": SAMPLE, "Seed": self.target.seed, "SampleIndex": index,
            "Distance": seen.distance(x_BCXYZ), "ChiSquare": seen.chi_square(x_BCXYZ),
        }  # fmt: skip
        unit = from_model(self.target.run.geometry.whole(x_CXYZ[0])).numpy()
        self._write(self.samples.image(index), unit, seen, about)

    def unit(self, seen: Observation, index: int) -> NDArray[np.float32]:
        """A sample that was written, [X, Y, Z] in [0, 1]."""
        return seen.window.to_unit(nifti.read(self.target.out / self.samples.image(index)).voxels)

    def agreement(self, count: int) -> tuple[list[float], list[float]]:
        """Chi-squares of the first samples, of which there may be none, and their distances from the data."""
        found = [read_json(self.target.out / self.samples.sidecar(index), "the sidecar of a sample") for index in range(count)]
        try:
            chi_squares = [float(one["ChiSquare"]) for one in found if one["ChiSquare"] is not None]
            return chi_squares, [float(one["Distance"]) for one in found]
        except (KeyError, TypeError, ValueError):
            raise UserError(str(self.target.out), "the sidecar of a sample has another form", "one that was not changed") from None

    def write_map(self, what: str, unit_XYZ: NDArray[np.float32], seen: Observation, *, text: str, level: bool) -> None:
        """Writes a map of the head and its sidecar.

        Args:
            what: what it is called, such as ``mean``.
            unit_XYZ: in units of the intensity window.
            seen: what was measured.
            text: what it is, in words.
            level: whether 0 is the lower end of the window; else 0 is 0, as in a difference.
        """
        width = seen.window.high - seen.window.low
        window = seen.window if level else IntensityMap(0.0, width)
        self._write(f"{self._stem(what)}.nii.gz", unit_XYZ, seen, {"Description": text}, window)

    def _write(
        self, name: str, unit_XYZ: NDArray[np.float32], seen: Observation, about: Mapping[str, Any], window: IntensityMap | None = None
    ) -> None:
        target = self.target
        run, window = target.run, window or seen.window
        volume = Volume(window.from_unit(unit_XYZ), seen.field.affine)
        nifti.write(target.out / name, volume, dtype=target.dtype, description=derivative.description(HEADER))
        sidecar = {
            **about,
            "SkullStripped": run.geometry.skull_stripped,
            "AskedFor": dict(target.settings),
            "Placed": seen.field.placed,
            "Noise": seen.measurement.noise,
            "Numbers": seen.numbers,
            "RunName": run.recipe.name,
            "RunFingerprint": run.fingerprint,
            "PrivacyStatement": run.privacy,
            "PrivacyStatementPage": PAGE,
            "IntensityWindow": window.to_dict(),
        }
        write_json(target.out / f"{name.removesuffix('.nii.gz')}.json", sidecar)


def labels(count: int) -> Sequence[str]:
    """What heads are called that have no name."""
    return [f"{number + 1:04d}" for number in range(count)]


def _writes(name: str) -> bool:
    """Whether a directory of reconstructions has a file or a folder of this name."""
    return name.startswith("sub-") or name in FILES
