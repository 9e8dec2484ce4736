"""Copy what may leave of a run, with statement and model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Option, Positional


class Config(BaseConfig):
    """Which run, and what is accepted of it."""

    run: Annotated[Path, Positional("RUN")]
    """Directory that volgen train finished."""
    out: Annotated[Path, Positional("OUT")]
    """New folder, which may leave the house."""
    audit: Annotated[Path | None, Option("DIR")] = None
    """Folder that volgen audit made of the run; a refuted run is not released."""
    people_agreed: bool = False
    """Whether all people it was trained on agreed to what a run without a guarantee may give away of them."""
    accept_half: bool = False
    """Whether everybody may know who is in the half that coins chose, where the run was trained on one."""
    compact: bool = False
    """Whether the model becomes small: weights and what was fitted in fewer bits, no places in its configuration, and a template of its
    mean. It draws nearly the same volumes, and has a fingerprint of its own."""


def run(config: Config) -> Answer[Path]:
    """Makes a release."""
    from volgen.commands.release.release import release

    return Answer(release(**dict(config)))
