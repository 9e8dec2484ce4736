"""The measures of a whole cohort alone, without the slice report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from volgen.core.errors import UserError
from volgen.core.progress import progress
from volgen.data.coarser import in_voxels_of
from volgen.data.sources import same_voxels
from volgen.data.store import Store
from volgen.evaluation.cohort_sample import CohortSample
from volgen.images.volume import Volume


def cohort_sample(store: Store) -> CohortSample:
    """What will hold the people of a store, of whom it wants some: those a model is trained on, and the others."""
    train, other = ([record.id for record in store.records if (record.split == "train") == side] for side in (True, False))
    return CohortSample(train, other, store.shape, store.records[0].voxel_size)


def measure_cohort(samples: Sequence[Callable[[], Volume]], reference: Path | str, where: str) -> dict[str, Any]:
    """Measures generated volumes as a whole.

    Args:
        samples: reads each of them.
        reference: the store of real people.
        where: what the volumes are, for messages.

    Returns:
        What ``cohort`` of ``report.json`` holds.

    Raises:
        UserError: a volume or the store cannot be read, voxels or shapes differ, or there are too few volumes.
    """
    store = in_voxels_of(Store.open(reference), samples)
    sample = cohort_sample(store)
    with progress("evaluate", len(store.records) + len(samples)) as ticker:
        for record in store.records:
            if sample.wants(record.id):
                sample.add_real(record.id, store.read(record).voxels)
            ticker.advance(note=record.id)
        for read in samples:
            volume = read()
            same_voxels(where, volume.voxel_size, store.records[0].voxel_size)
            sample.add_generated(volume.voxels)
            ticker.advance()
    measured = sample.measure()
    if "skipped" in measured:
        raise UserError(where, str(measured["skipped"]).rstrip("."), f"volumes on the grid of {reference}, and enough people in its splits")
    return measured
