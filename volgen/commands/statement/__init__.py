"""One page on a run's privacy, for a reviewer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Option, Positional


class Config(BaseConfig):
    """Which run the statement is of, and what is known of it."""

    run: Annotated[Path, Positional("RUN")]
    """Directory that volgen train made; or pretrained:NAME, a model of the package."""
    out: Annotated[Path, Option("DIR")]
    """New folder for statement.html and statement.json, or a folder of the run's samples, whose statement is replaced."""
    audit: Annotated[Path | None, Option("DIR")] = None
    """Folder that volgen audit made of the run."""
    certificate: Annotated[tuple[Path, ...], Option("DIR")] = ()
    """Folders that volgen anonymise made with the run."""


def run(config: Config) -> Answer[Path]:
    """Writes the statement."""
    from volgen.commands.statement.statement import statement

    return Answer(statement(**dict(config)))
