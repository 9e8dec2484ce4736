"""The people whom an audit looks at: those a run was trained on, and others whom it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from volgen.core.errors import UserError
from volgen.data.record import Split, SubjectRecord, by_patient
from volgen.data.store import Store
from volgen.runs.trained import TrainedRun

FEWEST = 4
HALF = "train the run on a random half of its training split: volgen train ... --data.half.seed 1 --data.half.side a"


@dataclass(frozen=True)
class Examined:
    """One patient who is looked at.

    Attributes:
        store: where the scans are.
        scans: all of theirs that are looked at.
        inside: whether the run was trained on them.
        coin: whether that was left to a fair coin.
    """

    store: Store
    scans: tuple[SubjectRecord, ...]
    inside: bool
    coin: bool

    @property
    def patient(self) -> str:
        """Whose scans; never to be written anywhere."""
        return self.scans[0].patient


def everybody(trained: TrainedRun, members: Store, others: Store) -> list[Examined]:
    """Everybody, in the order of the stores, which knows nothing of coins.

    Of the members' store: those trained on, and as others the rest of the training split, if the run was trained on a half of it. If the
    others' store is the same: its test split too, and its validation split if nobody looked at that; if it is another one: all of it.

    Raises:
        UserError: the members' store is not the run's, the others' holds people trained on, or there are too few of either.
    """
    check_cohort(trained, members)
    data, same = trained.recipe.data, others.fingerprint == members.fingerprint
    coarsest = max(variant.level for variant in trained.recipe.variants)
    inside = {record.patient for record in data.records(members, "train", coarsest)}
    looked_at: tuple[Split, ...] = ("train", "test", *(() if trained.recipe.privacy.validates else ("validation",)))
    taught = [record for record in members.records if data.teaches(record, coarsest)]  # whoever taught no expert is in no audit
    records = [record for record in taught if record.split in looked_at and (same or record.split == "train")]
    people = _people(members, records, inside, coin=data.half is not None)
    if not same:
        _check_strangers(members, others)
        people += _people(others, others.records, set(), coin=False)
    _check_shapes(trained, people)
    counts = {kind: sum(person.inside is kind for person in people) for kind in (True, False)}
    if min(counts.values()) < FEWEST:
        found = f"{counts[True]} people trained on and {counts[False]} others can be looked at"
        raise UserError(str(others.path), found, f"at least {FEWEST} of each", f"give --non-members another store, or {HALF}")
    return people


def check_cohort(trained: TrainedRun, store: Store) -> bool:
    """Makes sure that a run was trained on a store; returns whether that could be told (a released run does not know).

    Raises:
        UserError: it was another.
    """
    if trained.cohort is None:
        return False
    if trained.cohort != store.fingerprint:
        raise UserError(str(store.path), f"is not the cohort that {trained.recipe.name} was trained on", "the store of the run")
    return True


def trained_on(trained: TrainedRun, person: Examined, members: Store) -> bool:
    """Whether another run on the same store was trained on a person."""
    half = trained.recipe.data.half
    return person.store is members and person.scans[0].split == "train" and (half is None or half.holds(person.patient))


def _people(store: Store, records: Sequence[SubjectRecord], inside: set[str], *, coin: bool) -> list[Examined]:
    found = by_patient(records).items()
    return [Examined(store, tuple(scans), patient in inside, coin and scans[0].split == "train") for patient, scans in found]


def _check_strangers(members: Store, others: Store) -> None:
    known = {record.checksum for record in members.records}
    shared = sum(record.checksum in known for record in others.records)
    if shared:
        found = f"holds {shared} scans that are in {members.path} too"
        raise UserError(str(others.path), found, "people whom the run has not seen")


def _check_shapes(trained: TrainedRun, people: Sequence[Examined]) -> None:
    shape = trained.geometry.shape
    odd = next((person for person in people if any(scan.shape != shape for scan in person.scans)), None)
    if odd:
        raise UserError(str(odd.store.path), "holds scans of another shape", f"the run's {list(shape)}", "ingest them with its --shape")


def open_store(path: Path | str, option: str) -> Store:
    """Opens a store.

    Raises:
        UserError: it is none.
    """
    if isinstance(path, Path) and not path.is_dir():
        raise UserError(option, f"there is no folder {path}", "a store that volgen ingest made")
    return Store.open(path)
