"""Everything that is kept of volumes, and every comparison of two cohorts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from volgen.core.config import Config, validate
from volgen.core.registry import config_class, kinds
from volgen.evaluation.specimen import Specimen
from volgen.evaluation.two_cohorts import CohortComparison, CohortFindings, Extractor, Kept, TwoCohorts

EXTRACTORS, COMPARISONS = "volgen.evaluation.extractors", "volgen.evaluation.comparisons"


def extractors(*more: Mapping[str, Any]) -> list[Extractor]:
    """Every extractor that needs nothing of a user, and those that are given as configurations.

    Raises:
        UserError: a configuration is wrong.
    """
    given = [{"kind": kind} for kind in kinds(EXTRACTORS) if not _asks(config_class(EXTRACTORS, kind))]
    found: list[Any] = [validate(config_class(EXTRACTORS, str(one["kind"])), one, "volgen evaluate") for one in [*given, *more]]
    return found


def comparisons() -> list[CohortComparison]:
    """Every comparison, in the order of a page."""
    found: list[Any] = [validate(config_class(COMPARISONS, kind), {"kind": kind}, COMPARISONS) for kind in kinds(COMPARISONS)]
    return sorted(found, key=lambda one: (one.place, one.kind))


def keep(specimen: Specimen, used: Sequence[Extractor]) -> dict[str, Kept]:
    """What each extractor keeps of a volume, by kind."""
    return {one.kind: one.extract(specimen) for one in used}


def compare_all(both: TwoCohorts) -> list[CohortFindings]:
    """What every comparison found, and where each was published."""
    return [replace(one.compare(both), paper=one.paper) for one in comparisons()]


def _asks(config: type[Config]) -> bool:
    """Whether a user has to say something."""
    return any(field.is_required() for field in config.model_fields.values())
