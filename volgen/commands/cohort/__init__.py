"""Copy the sample cohort (61 real brains, CC0) out of the package as a BIDS tree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Positional


class Config(BaseConfig):
    """Where the cohort goes."""

    directory: Annotated[Path, Positional("DIR")]
    """Folder to make."""


def run(config: Config) -> Answer[Path]:
    """Copies the cohort and prints where it is."""
    from volgen.cohort import copy_to

    print(copied := copy_to(config.directory))
    return Answer(copied)
