"""Train the denoisers of one configuration.

Every key of the configuration can be given, for example: --experts.count 8 --network.kind=unet3d --seed 1. What each means: volgen explain
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.config import dump_yaml
from volgen.core.options import Dotted, Option, Pairs

USAGE = "volgen train --config CONFIG.yaml [--section.key VALUE ...] [--only FIRST:LAST] [--print_config] [--dry-run]"


class Config(BaseConfig):
    """Which run, and what of it."""

    config: Annotated[Path, Option("CONFIG.yaml")]
    """The experiment; see configs/."""
    only: Annotated[str | None, Option("FIRST:LAST")] = None
    """Train these experts only, LAST not included, or 'shared'; other jobs train the others at the same time."""
    print_config: Annotated[bool, Option(names=("--print_config", "--print-config"))] = False
    """Print it with every default, and stop."""
    dry_run: Annotated[bool, Option(names=("--dry-run", "--dry_run"))] = False
    """Print the sizes of all networks without data, and stop."""
    overrides: Annotated[Pairs, Dotted()] = ()
    """Keys of the configuration and what they shall be instead."""


def run(config: Config) -> Answer[Path]:
    """Trains a run, or continues it."""
    from volgen import recipe

    resolved = recipe.load(config.config, config.overrides)
    if config.print_config:
        print(dump_yaml(resolved), end="")
        return Answer(resolved.directory)
    from volgen.commands.train.train import train

    return Answer(train(resolved, dry_run=config.dry_run, only=config.only))
