"""Compare volumes with real scans, slice by slice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from volgen.core.address import Address
from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.options import Option, Positional

if TYPE_CHECKING:
    from volgen.commands.report.compare import Comparison
    from volgen.commands.report.report import Judged

USAGE = (
    "volgen report SAMPLES --reference STORE_OR_BANDS --out DIR [--strict] [--split SPLIT] [--no-real-pictures]\n"
    "       volgen report --compare A B [NAME=C ...] --reference STORE_OR_BANDS --out DIR [--strict] [--split SPLIT]"
)


class Config(BaseConfig):
    """Which volumes, and what they are compared with."""

    samples: Annotated[Path | None, Positional("SAMPLES")] = None
    """An image, a folder of images, or a store."""
    compare: Annotated[tuple[str, ...], Option("FOLDER", verbatim=True)] = ()
    """Two or more generators side by side, each called as its folder is or NAME=FOLDER (instead of SAMPLES)."""
    reference: Annotated[Address, Option("STORE_OR_BANDS")]
    """Store of real scans, a folder or an address, or the bands.json of an earlier report."""
    out: Annotated[Path, Option("DIR")]
    """Folder for report.html, report.json and the tables."""
    strict: bool = False
    """Whether to exit with 1 if a volume does not pass (fail or other) or cannot be read."""
    split: Literal["all", "train", "validation", "test"] = "all"
    """People of the store to compare with."""
    real_pictures: bool = True
    """Whether to show slices of three real people of the store beside the volumes; not where the report leaves the place of the scans."""


def run(config: Config) -> Answer[Judged] | Answer[Comparison]:
    """Judges volumes; passed if all of them do, or nobody is strict."""
    shared = config.model_dump(exclude={"samples", "compare"})
    if config.compare and config.samples is None:
        from volgen.commands.report.compare import compare

        comparison = compare(config.compare, **shared)
        return Answer(comparison, passed=comparison.all_passed or not config.strict)
    if config.samples is None or config.compare:
        found = "SAMPLES and --compare are both given" if config.compare else "neither SAMPLES nor --compare is given"
        raise UserError("volgen report", found, "one of them", "see volgen report --help")
    from volgen.commands.report.report import report

    outcome = report(config.samples, **shared)
    return Answer(outcome, passed=outcome.all_passed or not config.strict)
