"""NIfTI, MGH or BIDS -> Zarr store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from volgen.core.address import Address
from volgen.core.answer import Answer
from volgen.core.cores import cores
from volgen.core.options import Option, Positional
from volgen.data.ingest.preprocess import IngestConfig

if TYPE_CHECKING:
    from volgen.commands.ingest.ingest import IngestSummary


class Config(IngestConfig):
    """What is read, where it goes, and how scans become a cohort."""

    source: Annotated[Path, Positional("SOURCE")]
    """A NIfTI or MGH image, a folder of them, or a BIDS tree."""
    store: Annotated[Address, Positional("STORE")]
    """Zarr store to make or to continue: a folder, or s3://bucket/store."""
    workers: Annotated[int, Option("N")] = Field(default_factory=cores)
    """Processes, one for each core if it is not given."""
    patients: Annotated[Path | None, Option("TABLE.tsv")] = None
    """Table of whose each scan is: a column for the scan (file, scan_id, participant_id, ...) and one for the patient (patient, ...)."""
    participants: Annotated[Path | None, Option("TABLE.tsv")] = None
    """Table of what is known of people, such as age and sex (default: participants.tsv of SOURCE, if it has one)."""
    columns: Annotated[tuple[str, ...], Option("NAME", ("--column",), verbatim=True, repeated=True)] = ()
    """Column of that table that the store holds, once for each (default: age, sex, group and site, where there are such)."""
    strict: bool = False
    """Whether to stop at the first scan that cannot be used instead of leaving it out."""


def run(config: Config) -> Answer[IngestSummary]:
    """Makes or continues a store."""
    from volgen.commands.ingest.ingest import ingest

    settings = IngestConfig.model_validate({name: getattr(config, name) for name in IngestConfig.model_fields})
    found = ingest(
        config.source, config.store, settings, workers=config.workers, strict=config.strict, patients=config.patients,
        participants=config.participants, columns=config.columns,
    )  # fmt: skip
    return Answer(found)
