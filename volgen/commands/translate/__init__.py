"""One scan in, the same head as it would be in another group out.

The scan is followed to its noise by what a run knows of `--from`, and back by what it knows of `--to`: what both agree on stays, the rest
changes. `translation.html` shows what, and how much comes back unchanged. What a model changes is what differed in its cohort: where one
site scanned the patients and another the controls, it changes the site. Not for diagnosis.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Option, Positional, Section


class Config(BaseConfig):
    """What is translated, and into what."""

    scan: Annotated[Path, Positional("SCAN")]
    """NIfTI or MGH image of a head, brought to the run's frame and intensity units as a scan is that volgen ingest reads."""
    run: Annotated[Path, Positional("RUN")]
    """Directory that volgen train made, of a run with conditions; or pretrained:NAME."""
    out: Annotated[Path, Option("DIR")]
    """Folder for the images and the page; new."""
    origin: Annotated[tuple[str, ...], Option("NAME=VALUE", ("--from",), verbatim=True, repeated=True)] = ()
    """What is true of the scan, once for each condition."""
    aim: Annotated[tuple[str, ...], Option("NAME=VALUE", ("--to",), verbatim=True, repeated=True)] = ()
    """What shall be true of it, once for each condition that changes; the others stay as --from says."""
    other: Annotated[Path | None, Option("RUN", ("--to-run",))] = None
    """Run that knows of --to, if it is another one, of the same frame."""
    encoder: Annotated[Path | None, Option("FOLDER")] = None
    """Where the sentence encoder lies now that the run was told prompts by (default: where it lay in training, or beside the run)."""
    strength: Annotated[tuple[float, ...], Option("W")] = (1.0,)
    """How far: 0 is the scan as it comes back, 1 what --to says, more goes beyond it; several give an image each."""
    steps: Annotated[int | None, Option("N")] = None
    """Points of the run's noise grid to visit on each way (default: all)."""
    sampler: Annotated[str | dict[str, object] | None, Section("volgen.sampling.samplers")] = None
    """Solver, one that draws no noise (default: heun, which brings back a scan far better than ddim in as many steps)."""
    device: Annotated[str | None, Option("DEVICE")] = None
    """Torch device (default: a GPU if there is one)."""
    dtype: Literal["float32", "int16"] = "float32"
    """Voxels in the files; int16 has a slope."""


def run(config: Config) -> Answer[Path]:
    """Translates a scan."""
    from volgen.commands.translate.translate import translate

    return Answer(translate(**dict(config)))
