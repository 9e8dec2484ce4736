"""What a report compares with: bands of real volumes, and how far they can be relied on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from volgen.commands.report.beside import RealScans, of_bands, of_store
from volgen.commands.report.cohort import cohort_sample
from volgen.core.errors import UserError
from volgen.core.files import LARGEST_JSON, sha256
from volgen.core.progress import progress, say
from volgen.core.seal import read_sealed
from volgen.data.coarser import in_voxels_of
from volgen.data.record import SPLITS
from volgen.data.sources import same_voxels
from volgen.data.store import Store
from volgen.evaluation.cohort_sample import CohortSample
from volgen.evaluation.measure import default_checks, measure
from volgen.evaluation.reference import FALSE_ALARM, KEYS, Reference
from volgen.evaluation.stripping import SKULL
from volgen.evaluation.verdict import number
from volgen.images.volume import Volume

MIXED = 0.1
SMALL = 12
"""Real volumes behind bands that can be relied on: with 8 of them 37 of 48 drifts by 8 voxels at 4 mm are found, with 12 all."""
SIZES = (0.67, 1.5)


@dataclass(frozen=True)
class Against:
    """A reference that was found, but not read yet.

    Attributes:
        path: store or ``bands.json``.
        identity: its fingerprint.
        store: the store, or None for bands.
        split: people of the store to take.
    """

    path: Path | str
    identity: str
    store: Store | None
    split: str

    @classmethod
    def find(cls, path: Path | str, split: str, samples: Iterable[Callable[[], Volume]] = ()) -> Self:
        """Opens a store or fingerprints a file.

        Args:
            path: path of the store or the file.
            split: split whose people are taken.
            samples: reads the samples that will be compared with it: in the first one's voxels scans are seen, if 2, 4 or 8 times as large.

        Raises:
            UserError: there is no such store or file.
        """
        if isinstance(path, str) or path.is_dir():
            store = in_voxels_of(Store.open(path), samples)
            return cls(path, store.fingerprint, store, split)
        if not path.is_file():
            raise UserError(str(path), "there is no such store or file", "a store of real scans, or bands.json of an earlier report")
        return cls(path, sha256(path, follow=True), None, split)

    def load(self, pictures: bool = True) -> tuple[Reference, CohortSample | None, RealScans]:
        """Bands, the real volumes that a cohort is compared with, and those to show; a store's scans are read and measured.

        Args:
            pictures: whether real people may be shown.
        """
        if self.store is None:
            again = "restore it from a copy, or make it again: volgen report with a store as --reference"
            content = read_sealed(
                Path(self.path),
                "a bands.json of a report",
                again,
                limit=LARGEST_JSON,
                follow=True,
                needed=lambda read: bool(read.keys() - KEYS),
            )
            return Reference.from_json(content, str(self.path)), None, of_bands()
        sample = cohort_sample(self.store)
        bands, litres, read = _from_store(self.store, self.split, sample)
        return bands, sample, of_store(Path(self.path).name, litres, read, pictures)

    def about(self, bands: Reference) -> dict[str, Any]:
        """``reference`` of ``report.json``; its warnings are those that hold for whatever is compared with it."""
        warnings = []
        if bands.subjects < SMALL:
            warnings.append(
                f"The reference is small ({bands.subjects} volumes): its bands are wide, and faults may hide in them. "
                f"{SMALL} or more are better."
            )
        if bands.unknown:
            warnings.append(
                f"These bands are of an earlier volgen and do not hold: {', '.join(bands.unknown)}. These are not judged; make the bands "
                "again from the store."
            )
        if bands.left_out:
            everyone = bands.subjects + bands.left_out
            warnings.append(
                f"{bands.left_out} of {everyone} reference volumes could not be measured (no head was found, or too little of one)."
            )
        skulls = bands.head.get("skulls")
        if skulls and min(skulls, bands.subjects - skulls) > MIXED * bands.subjects:
            warnings.append(
                f"The reference mixes whole heads ({skulls} of {bands.subjects}) and stripped brains: its bands fit neither. "
                "Ingest them as two stores."
            )
        return {
            "kind": "store" if self.store else "bands", "name": Path(self.path).name, "fingerprint": self.identity,
            "subjects": bands.subjects, "left_out": bands.left_out, "split": self.split if self.store else None, "shape": list(bands.shape),
            "voxel_size": [number(size) for size in bands.voxel_size], "head": bands.head,
            "false_alarm": FALSE_ALARM, "warnings": warnings,
        }  # fmt: skip


def mismatches(volumes: Sequence[Mapping[str, Any]], bands: Reference) -> list[str]:
    """Warnings of what sets the volumes apart from the reference before any slice is looked at: grid, stripping, size of the head."""
    warnings = []
    shapes = sorted({tuple(volume["shape"]) for volume in volumes} - {tuple(bands.shape)})
    if shapes:
        theirs = " and ".join(" x ".join(map(str, shape)) for shape in shapes[:2]) + (" and others" if len(shapes) > 2 else "")
        warnings.append(
            f"Another grid: volumes have {theirs} voxels, the reference {' x '.join(map(str, bands.shape))}. Curves are compared from end "
            "to end of the head; what is cut off by a smaller field of view counts against a volume."
        )
    skulls = sum(volume["head"]["skull"] >= SKULL for volume in volumes)
    real = bands.head.get("skulls")
    if real is None:
        warnings.append("These bands do not say whether they are of whole heads or of stripped brains: make them again from the store.")
    elif (skulls * 2 > len(volumes)) != (real * 2 > bands.subjects):
        whole, bare = "show a skull and a scalp (whole heads)", "show none (stripped brains)"
        ours, others = (whole, bare) if skulls * 2 > len(volumes) else (bare, whole)
        count = skulls if ours == whole else len(volumes) - skulls
        warnings.append(
            f"Stripped differently: {count} of {len(volumes)} volumes {ours}, and {max(real, bands.subjects - real)} of {bands.subjects} "
            f"of the reference {others}. Every verdict is then about the skull. Strip both, or neither."
        )
    else:
        usual = bands.head["litres"][1]
        litres = sorted(volume["head"]["litres"] for volume in volumes)[len(volumes) // 2]
        if usual and not SIZES[0] <= litres / usual <= SIZES[1]:
            warnings.append(
                f"Heads of another size: {litres:.2f} l in the median volume, {usual:.2f} l in the reference. Was something cut off, or "
                "stripped in another way?"
            )
    return warnings


def hint(against: Against, real: RealScans, bands: Path) -> None:
    """Says how the next report is quicker, and whom this one shows."""
    if against.store is not None:
        say(
            f"the next report need not measure {against.path} again: --reference {bands} (without real pictures and measures of the cohort)"
        )
    if real.scans:
        say(real.note)


def tell(warnings: Sequence[str]) -> None:
    """Says warnings on the terminal."""
    for warning in warnings:
        say(f"warning: {warning}")


def _from_store(store: Store, split: str, sample: CohortSample) -> tuple[Reference, list[float], list[Callable[[], Volume]]]:
    """Bands, and of each scan behind them the size of the head and how to read it."""
    if split != "all" and split not in SPLITS:
        raise UserError("--split", f"'{split}' is none", "all, " + ", ".join(SPLITS))
    chosen = {record.id for record in store.records if split in ("all", record.split)}
    records = [record for record in store.records if record.id in chosen or sample.wants(record.id)]
    if not chosen:
        raise UserError(str(store.path), f"holds nobody in split '{split}'", "people to compare with", "use --split all")
    first = next(record for record in records if record.id in chosen)
    checks, measured = default_checks(), []
    with progress("reference", len(records)) as ticker:
        for record in records:
            if record.id in chosen:
                same_voxels(record.id, record.voxel_size, first.voxel_size)
            voxels = store.read(record).voxels
            if record.id in chosen:
                measured.append(measure(voxels, record.voxel_size, checks))
            if sample.wants(record.id):
                sample.add_real(record.id, voxels)
            ticker.advance(note=record.id)
    read: list[Callable[[], Volume]] = [partial(store.read, record) for record in records if record.id in chosen]
    return Reference.fit(measured, checks, first.voxel_size, first.shape), [one.litres for one in measured], read
