"""What volumes are asked to be, and to agree with: conditions, a guidance, and what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from volgen.commands.sample.asked import Asked
from volgen.commands.sample.edits import SeedRow, Sketch, in_frame
from volgen.core.errors import UserError
from volgen.core.files import sha256
from volgen.core.manifest import NAME as MANIFEST
from volgen.core.protocols import Measurement
from volgen.data import derivative
from volgen.images.geometry import Geometry
from volgen.runs import instrument
from volgen.runs.contrast import contrast_in_words
from volgen.runs.observed import measured
from volgen.sampling.guidances.none import Config as Unguided

MEASURED = f"""# Brain MRI around measurements

Every image in this folder was drawn from a generative model by volgen so that it agrees with measurements of a scan. Where it was
measured it shows whom that scan shows, and is as private as the scan; the rest is the model's invention and must not be used for
diagnosis. `{MANIFEST}` says how the images were made.
"""
SKETCHED = f"""# Brain MRI drawn from an image

Every image in this folder was drawn from a generative model by volgen, from an image to which noise was added. What the noise did not drown
is that image's: if it is a scan, they show whom it shows, and are as private. The rest is the model's invention and must not be used for
diagnosis. `{MANIFEST}` says how the images were made.
"""


@dataclass(frozen=True)
class Steering:
    """How volumes are more than samples of the prior.

    Attributes:
        guidance: configuration of a guidance.
        operator: configuration of an operator; None if nothing was measured.
        data: the image that it measures.
        asked: conditions, as they are asked for.
        weak: fingerprint of another run that the guidance moves away from; "" if there is none.
        row: the row that they are, from one seed to another; None if each is of itself.
        sketch: what they are drawn from; None if that is noise.
    """

    guidance: Any
    operator: Any
    data: Path | None
    asked: Asked
    weak: str = ""
    row: SeedRow | None = None
    sketch: Sketch | None = None

    def __post_init__(self) -> None:
        if (self.operator is None) != (self.data is None):
            there, missing = ("--operator", "--data") if self.data is None else ("--data", "--operator")
            raise UserError(there, f"is there, and {missing} is not", "both, or neither")
        if self.operator is not None and self.guidance == Unguided():
            raise UserError("--data", "nothing makes volumes agree with it", "a guidance", "give --guidance projection")
        if self.sketch is not None and self.data is not None:
            raise UserError("--sketch", "is there, and so is --data", "one of them: guidances begin from what was measured")

    @cached_property
    def told(self) -> dict[str, Any]:
        """What a manifest says of it: nothing of samples of the prior, so that folders of versions without guidance are continued."""
        return {**self.asked.told, **self._guided, **(self.row.told if self.row else {}), **self._sketched}

    def said(self, index: int) -> dict[str, Any]:
        """What the sidecar of a volume says of it."""
        return {**self.asked.said(index), **self._guided, **(self.row.said(index) if self.row else {}), **self._sketched}

    @property
    def _sketched(self) -> dict[str, Any]:
        return {} if self.sketch is None else self.sketch.told

    @cached_property
    def _guided(self) -> dict[str, Any]:
        if self.guidance == Unguided():
            return {}
        measured = {} if self.data is None else {**instrument.told_of_operator(self.operator), "data": sha256(self.data, follow=True)}
        more = {"weak_run": self.weak} if self.weak else {}
        guidance = self.guidance.model_dump(mode="json")
        if self.weak:  # known by its fingerprint, wherever it lies
            guidance["weak"] = Path(guidance["weak"]).name
        return {"guidance": guidance, **measured, **more}

    def description(self, contrast: str) -> str:
        """What a sidecar says of a volume with a contrast, a suffix of BIDS; "" where nobody knows it."""
        if self.sketch is not None:
            noised = f"an image to which noise of {self.sketch.sigma:.4g} was added"
            drawn = f"Synthetic {contrast_in_words(contrast)} that a generative model drew from {noised}"
            return f"{drawn}: where that did not drown it, it shows what the image shows."
        if self.data is None:
            return f"Synthetic {contrast_in_words(contrast)} drawn from a generative model; it shows no person."
        words = contrast_in_words(contrast)
        drawn = f"{words[0].upper()}{words[1:]} that a generative model drew around measurements of a scan"
        return f"{drawn}: where it was measured, it shows whom the scan shows."

    @property
    def header(self) -> str:
        """What the header of a file says of it."""
        if self.sketch is not None:
            return "synthetic, drawn from an image"
        return derivative.NOBODY if self.data is None else "synthetic around measured voxels"

    @property
    def readme(self) -> str:
        """What the folder says of its volumes."""
        if self.sketch is not None:
            return SKETCHED
        return derivative.README if self.data is None else MEASURED

    def measurement(self, geometry: Geometry, device: torch.device) -> Measurement | None:
        """What was measured, on a device.

        Raises:
            UserError: the image is not in the run's frame, or cannot be read.
        """
        if self.data is None:
            return None
        operator = self.operator.build(geometry.shape, device)
        return measured(operator, in_frame(self.data, geometry).to(device), geometry)
