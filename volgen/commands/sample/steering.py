"""What volumes are asked to be, and to agree with: conditions, a guidance, and what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from volgen.commands.sample.asked import Asked
from volgen.core.errors import UserError
from volgen.core.files import sha256
from volgen.core.manifest import NAME as MANIFEST
from volgen.core.protocols import Measurement
from volgen.data import derivative
from volgen.images import nifti
from volgen.images.geometry import Geometry
from volgen.images.intensity import to_model
from volgen.runs.observed import measured
from volgen.sampling.guidances.none import Config as Unguided

MEASURED = f"""# Brain MRI around measurements

Every image in this folder was drawn from a generative model by volgen so that it agrees with measurements of a scan. Where it was
measured it shows whom that scan shows, and is as private as the scan; the rest is the model's invention and must not be used for
diagnosis. `{MANIFEST}` says how the images were made.
"""
SAME_MM = 1e-2
"""Largest difference between affines of one frame."""


@dataclass(frozen=True)
class Steering:
    """How volumes are more than samples of the prior.

    Attributes:
        guidance: configuration of a guidance.
        operator: configuration of an operator; None if nothing was measured.
        data: the image that it measures.
        asked: conditions, as they are asked for.
        weak: fingerprint of another run that the guidance moves away from; "" if there is none.
    """

    guidance: Any
    operator: Any
    data: Path | None
    asked: Asked
    weak: str = ""

    def __post_init__(self) -> None:
        if (self.operator is None) != (self.data is None):
            there, missing = ("--operator", "--data") if self.data is None else ("--data", "--operator")
            raise UserError(there, f"is there, and {missing} is not", "both, or neither")
        if self.operator is not None and self.guidance == Unguided():
            raise UserError("--data", "nothing makes volumes agree with it", "a guidance", "give --guidance projection")

    @cached_property
    def told(self) -> dict[str, Any]:
        """What a manifest says of it: nothing of samples of the prior, so that folders of versions without guidance are continued."""
        return {**self.asked.told, **self._guided}

    def said(self, index: int) -> dict[str, Any]:
        """What the sidecar of a volume says of it."""
        return {**self.asked.said(index), **self._guided}

    @cached_property
    def _guided(self) -> dict[str, Any]:
        if self.guidance == Unguided():
            return {}
        measured = {} if self.data is None else {"operator": self.operator.model_dump(mode="json"), "data": sha256(self.data)}
        files = {name: sha256(value) for name, value in self.operator or () if isinstance(value, Path)}
        more = {**({"operator_files": files} if files else {}), **({"weak_run": self.weak} if self.weak else {})}
        guidance = self.guidance.model_dump(mode="json")
        if self.weak:  # known by its fingerprint, wherever it lies
            guidance["weak"] = Path(guidance["weak"]).name
        return {"guidance": guidance, **measured, **more}

    @property
    def description(self) -> str:
        """What a sidecar says of a volume."""
        if self.data is None:
            return "Synthetic T1-weighted volume drawn from a generative model; it shows no person."
        drawn = "T1-weighted volume that a generative model drew around measurements of a scan"
        return f"{drawn}: where it was measured, it shows whom the scan shows."

    @property
    def header(self) -> str:
        """What the header of a file says of it."""
        return derivative.NOBODY if self.data is None else "synthetic around measured voxels"

    @property
    def readme(self) -> str:
        """What the folder says of its volumes."""
        return derivative.README if self.data is None else MEASURED

    def measurement(self, geometry: Geometry, device: torch.device) -> Measurement | None:
        """What was measured, on a device.

        Raises:
            UserError: the image is not in the run's frame, or cannot be read.
        """
        if self.data is None:
            return None
        operator = self.operator.build(geometry.shape, device)
        return measured(operator, _in_frame(self.data, geometry).to(device), geometry)


def _in_frame(path: Path, geometry: Geometry) -> Tensor:
    """An image of the run's frame and intensity units, [1, 1, X, Y, Z] in the model range.

    Raises:
        UserError: it is of another frame, or holds NaN.
    """
    volume = nifti.read(path).reoriented("RAS")
    do = "give a volume that volgen sample or volgen anonymise wrote with this run, or bring the scan to its grid"
    if volume.shape != geometry.shape:
        raise UserError(str(path), f"has {list(volume.shape)} voxels", f"the run's {list(geometry.shape)}", do)
    if not np.allclose(volume.affine, geometry.affine, atol=SAME_MM):
        raise UserError(str(path), f"is in another place or of other voxels: affine {volume.affine.tolist()}", "the run's frame", do)
    unit = torch.from_numpy(geometry.intensity.to_unit(volume.voxels))
    if not unit.isfinite().all():
        raise UserError(str(path), "holds NaN or infinite voxels", "finite voxels")
    return to_model(unit[None, None])
