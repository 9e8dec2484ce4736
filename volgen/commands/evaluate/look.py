"""Reading every volume once, and keeping of each what is compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from volgen.core.errors import UserError
from volgen.core.files import read_json
from volgen.core.progress import progress
from volgen.data.record import SubjectRecord
from volgen.data.sources import Source, same_voxels
from volgen.data.store import Store
from volgen.evaluation.evaluate import keep
from volgen.evaluation.specimen import Specimen
from volgen.evaluation.two_cohorts import Extractor, Kept, TwoCohorts, pooled
from volgen.images import nifti
from volgen.images.volume import Volume
from volgen.reporting.overview import Middle

AGE = "age"
"""What a table of people, and a condition of a run, call the age in years."""
SHOWN = 6
"""Volumes of which the page has pictures."""


def look(
    samples: Path, sources: Sequence[Source], store: Store, people: Sequence[SubjectRecord], used: Sequence[Extractor], seed: int
) -> tuple[TwoCohorts, list[Middle]]:
    """Both cohorts as rows of features, and the middle slices of the first generated volumes.

    Args:
        samples: where the generated volumes are.
        sources: these volumes.
        store: the real ones.
        people: scans of the store that are compared with, one for each person.
        used: what is kept of a volume.
        seed: seed of later draws.

    Raises:
        UserError: a volume cannot be read, or has other voxels than the store.
    """
    size = store.records[0].voxel_size

    middles: list[Middle] = []

    def kept(name: str, volume: Volume, *, generated: bool) -> dict[str, Kept]:
        same_voxels(name, volume.voxel_size, size)
        if not np.isfinite(volume.voxels).all():
            raise UserError(name, "holds NaN or infinity", "finite voxels", "`volgen report` says in which slices")
        specimen = Specimen(name, volume.voxels, size, generated=generated)
        if generated and len(middles) < SHOWN:
            middles.append(Middle.of(name.partition("_")[0], specimen.scan.unit))
        return keep(specimen, used)

    with progress("evaluate", len(sources) + len(people)) as ticker:
        ours, real = [], []
        for source in sources:
            ours.append(kept(source.name, source.read(), generated=True))
            ticker.advance(note=source.name)
        for record in people:
            real.append(kept(record.id, store.read(record), generated=False))
            ticker.advance(note=record.id)
    trained = [record.split == "train" for record in people]
    ages = [*(asked_age(samples, source) for source in sources), *(_number(record.covariates.get(AGE)) for record in people)]
    return pooled(ours, real, trained=trained, ages=ages, extractors=used, seed=seed), middles


def asked_age(samples: Path, source: Source) -> float:
    """The age that a volume was asked for, as its sidecar has it; NaN if it was asked for none."""
    image = samples / source.file if samples.is_dir() else samples
    sidecar = image.with_name(f"{nifti.stem(image)}.json")
    if not sidecar.is_file():
        return math.nan
    asked = read_json(sidecar, "the sidecar of a volume").get("AskedFor")
    given = asked.get("given") if isinstance(asked, dict) else None
    return _number(given.get(AGE)) if isinstance(given, dict) else math.nan


def _number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return math.nan
