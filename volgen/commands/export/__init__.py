"""Zarr store -> NIfTI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from volgen.core.address import Address
from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Option, Positional


class Config(BaseConfig):
    """Which scans, and what their files are like."""

    store: Annotated[Address, Positional("STORE")]
    """Zarr store that volgen ingest made: a folder or an address."""
    out: Annotated[Path, Option("DIR")]
    """New folder for the NIfTI files."""
    ids: Annotated[tuple[str, ...] | None, Option("ID", verbatim=True)] = None
    """Scans to export (default: all)."""
    orientation: Literal["source", "RAS"] = "source"
    """Axis order: as in the ingested file, or RAS+."""
    dtype: Literal["float32", "int16"] = "float32"
    """Voxels in the files; int16 has a slope."""


def run(config: Config) -> Answer[list[Path]]:
    """Writes scans of a store as NIfTI."""
    from volgen.commands.export.export import export

    return Answer(export(**dict(config)))
