"""Measure generated volumes as a cohort, each number beside what real people give.

Every distance has the number of volumes on both sides, what it was taken in, the same distance of real people among themselves at equal
numbers, and a 95 % interval. Where there are too few volumes for a number, it is reduced or refused, and says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import NonNegativeInt

from volgen.core.address import Address
from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Option, Positional, Section

if TYPE_CHECKING:
    from volgen.commands.evaluate.evaluate import Evaluated


class Config(BaseConfig):
    """Which volumes, and what they are measured against."""

    samples: Annotated[Path, Positional("SAMPLES")]
    """An image, a folder of images, or a store."""
    reference: Annotated[Address, Option("STORE")]
    """Store of real scans: a folder or an address."""
    out: Annotated[Path, Option("DIR")]
    """Folder for evaluation.html, evaluation.json, numbers.csv and figures/."""
    split: Literal["all", "train", "validation", "test"] = "all"
    """People of the store to compare with."""
    extractor: Annotated[Path | None, Option("FILE")] = None
    """TorchScript network of slices, [B, 3, rows, columns] to features: distances are taken in what it gives too."""
    segmenter: Annotated[str | dict[str, object] | None, Section("volgen.evaluation.segmenters")] = None
    """What tells structures apart, and its settings: anatomy is measured with one."""
    seed: NonNegativeInt = 0
    """Seed of the draws of people."""


def run(config: Config) -> Answer[Evaluated]:
    """Measures a cohort."""
    from volgen.commands.evaluate.evaluate import evaluate

    return Answer(evaluate(**dict(config)))
