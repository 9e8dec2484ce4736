"""What this machine can do for a run, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Option


class Config(BaseConfig):
    """What is looked at."""

    hostfile: Annotated[Path | None, Option("FILE")] = None
    """Also try every machine of it over ssh (lines: HOST slots=RANKS)."""
    shared: Annotated[Path | None, Option("DIR")] = None
    """A folder that all machines shall see, for the store and the runs."""
    quick: bool = False
    """Whether to leave out torch and DeepSpeed at work, which take seconds to load."""
    as_json: Annotated[bool, Option(names=("--json",))] = False
    """Whether to print JSON."""


def run(config: Config) -> Answer[bool]:
    """Looks at this machine; passed if nothing is missing."""
    from volgen.commands.doctor.doctor import doctor

    healthy = doctor(**dict(config))
    return Answer(healthy, passed=healthy)
