"""Attack a run: who was in training, copies, and a lower bound on epsilon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from volgen.core.address import Address
from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Option, Positional

if TYPE_CHECKING:
    from volgen.commands.audit.audit import AuditOutcome


class Config(BaseConfig):
    """Which run, and whom it may have seen."""

    run: Annotated[Path, Positional("RUN")]
    """Directory that volgen train made; or pretrained:NAME, a model of the package."""
    members: Annotated[Address, Option("STORE")]
    """The store it was trained on."""
    non_members: Annotated[Address | None, Option("STORE")] = None
    """Store of people it never saw (default: those of the members' store that it did not look at)."""
    out: Annotated[Path, Option("DIR")]
    """New folder for audit.json and the privacy statement."""
    shadow: Annotated[tuple[Path, ...], Option("RUN")] = ()
    """Runs by the same recipe, each on a random half of its own (--data.half.seed N), to attack with likelihood ratios."""
    twin: Annotated[Path | None, Option("RUN")] = None
    """The run on the other half, to draw volumes from the same seeds."""
    canaries: Annotated[str | None, Option("PREFIX")] = None
    """Guess only about people whose ids begin with this, such as sub-canary (default: everybody)."""
    count: Annotated[int, Option("N")] = 32
    """Volumes to draw and to compare with people; 0 for none."""
    levels: Annotated[int, Option("N")] = 4
    """Noise levels to compare losses at."""
    draws: Annotated[int, Option("N")] = 8
    """Noises for each scan and level."""
    seed: Annotated[int, Option("S")] = 0
    """Seed of noises and volumes."""
    batch_size: Annotated[int, Option("N")] = 1
    """Volumes denoised together."""
    device: Annotated[str | None, Option("DEVICE")] = None
    """Torch device (default: a GPU if there is one)."""


def run(config: Config) -> Answer[AuditOutcome]:
    """Audits a run; passed if nothing was found."""
    from volgen.commands.audit.audit import audit

    outcome = audit(**dict(config))
    return Answer(outcome, passed=not outcome.findings)
