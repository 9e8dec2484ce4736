"""Tell a store what is known of its people: age, sex, group, site.

The table becomes part of the store's manifest, as with `volgen ingest --participants`; scans stay as they are, and runs of the store go on.
A table that was there before is replaced.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from volgen.core.address import Address
from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Option, Positional

if TYPE_CHECKING:
    from volgen.data.covariates import Covariates


class Config(BaseConfig):
    """Which store, and what is known."""

    store: Annotated[Address, Positional("STORE")]
    """Store that volgen ingest finished: a folder, or s3://bucket/store."""
    table: Annotated[Path, Positional("TABLE.tsv")]
    """BIDS participants.tsv, or a table like it; a .json beside it says units and levels."""
    columns: Annotated[tuple[str, ...], Option("NAME", ("--column",), verbatim=True, repeated=True)] = ()
    """Column that the store holds, once for each (default: age, sex, group and site, where there are such)."""


def run(config: Config) -> Answer[Covariates]:
    """Replaces what a store knows of people."""
    from volgen.commands.participants.participants import participants

    return Answer(participants(**dict(config)))
