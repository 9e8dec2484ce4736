"""Noise one scan to a privacy budget and denoise it with a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Option, Positional


class Config(BaseConfig):
    """Which scan, by which run, for which budget."""

    scan: Annotated[Path, Positional("IN.nii.gz")]
    """The scan, NIfTI or MGH."""
    run: Annotated[Path, Positional("RUN")]
    """Directory that volgen train made; or pretrained:NAME, a model of the package."""
    epsilon: Annotated[float, Option("E")]
    """What the release may cost at most."""
    delta: Annotated[float, Option("D")]
    """Probability of a leak beyond epsilon, such as 1e-5."""
    out: Annotated[Path, Option("DIR")]
    """New folder for the image and its certificate.json."""
    radius: Annotated[float | None, Option("R")] = None
    """Draw the scan to within this distance (Euclidean, voxels in [-1, 1]) of the centre, which lowers the noise (default: no limit)."""
    centre: Annotated[str | None, Option("IMAGE")] = None
    """A public mean in the run's frame, or 'run' for the mean that a gaussian preconditioner knows (default: mid-grey)."""
    steps: Annotated[int | None, Option("N")] = None
    """Noise levels of the run to visit on the way down (default: all)."""
    device: Annotated[str | None, Option("DEVICE")] = None
    """Torch device (default: a GPU if there is one)."""
    dtype: Literal["float32", "int16"] = "float32"
    """Voxels in the file; int16 has a slope."""
    accept_vacuous: bool = False
    """Whether to release a scan under a budget that promises nothing, too."""


def run(config: Config) -> Answer[Path]:
    """Anonymises a scan."""
    from volgen.commands.anonymise.anonymise import anonymise

    return Answer(anonymise(**dict(config)))
