"""Whether anybody is in a private cohort and in one that the public run, or a run that it began from, has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volgen.core.errors import UserError
from volgen.core.manifest import NAME as MANIFEST
from volgen.data.store import Store
from volgen.privacy._ledger import Ledger
from volgen.recipe import Recipe
from volgen.stages._trained_run import AGAIN

COHORTS = "public_cohorts"
"""In a manifest: fingerprints and stores of all cohorts that a run has seen by way of the runs it began from."""
ASSUMED = "assumed to be in one cohort only; "
APART = "no patient id is in both"
NAMESAKES = "some patient ids are in both, and were said to be of different people"
NOT_COMPARED = "patient ids were not compared: the public store is not at hand, or has changed since"
NOT_ALL_COMPARED = (
    "patient ids were not compared with every cohort that the public run knows by way of its own start: not all of these stores are at hand"
)
STRANGERS = "cohorts that share nobody"


@dataclass(frozen=True)
class Cohort:
    """A cohort that the public run has seen.

    Attributes:
        fingerprint: of its store.
        store: where that was, if it was written down.
        way: for messages: "" for the public run's own, else by way of what.
    """

    fingerprint: str
    store: str | None
    way: str

    def recorded(self) -> dict[str, str | None]:
        """For a manifest."""
        return {"fingerprint": self.fingerprint, "store": self.store}


def cohorts(run: Path, inputs: Mapping[str, Any]) -> list[Cohort]:
    """All that a finished run knows of: its own, then those of the runs before it.

    Args:
        run: its directory, for messages.
        inputs: of its manifest.

    Raises:
        UserError: the manifest was changed.
    """
    before = inputs.get(COHORTS, [])
    if not isinstance(before, list):
        raise UserError(str(run / MANIFEST), f"inputs.{COHORTS} is {before!r}", "a list of cohorts", AGAIN)
    found = []
    for number, entry in enumerate([inputs, *before]):
        known = entry if isinstance(entry, Mapping) else {"fingerprint": entry}
        store = known.get("store")
        way = ", by way of its own start" if number else ""
        found.append(Cohort(str(known.get("fingerprint")), None if store is None else str(store), way))
    return found


def compare(recipe: Recipe, known: Sequence[Cohort], store: Store) -> str:
    """What is known of people who are in both, for the ledger, without naming anybody.

    Args:
        recipe: of the run that begins.
        known: cohorts that the public run has seen, its own first.
        store: the cohort that the run trains on.

    Raises:
        UserError: one of them is this cohort, or has scans or ids of it; or, for a private run, nobody can tell.
    """
    where = f"start.run {recipe.start.run}"
    for cohort in known:
        if cohort.fingerprint == store.fingerprint:
            found = f"was trained on this very cohort{cohort.way}"
            raise UserError(where, found, "a run of other people", "its budget would have to be added")
    said = [_compare(where, recipe, cohort, store) for cohort in known]
    if said[0] != NOT_COMPARED:
        said = [NOT_ALL_COMPARED if one == NOT_COMPARED else one for one in said]
    return ASSUMED + "; ".join(dict.fromkeys(said))


def _compare(where: str, recipe: Recipe, cohort: Cohort, store: Store) -> str:
    public, why = _open(cohort, recipe.start.stores)
    if public is None:
        # What was said when a run began stands in its ledger: it can be continued where the store is gone.
        if recipe.privacy.private and not recipe.start.not_compared and not Ledger.exists(recipe.directory):
            found = f"cannot be compared with this cohort{cohort.way}: {why}"
            do = "put it back, or name its place in start.stores; or, if you know that nobody is in both, set start.not_compared true"
            raise UserError(where, found, "the store that it was trained on", do)
        return NOT_COMPARED
    mine = store.split("train")
    if {record.checksum for record in public.records} & {record.checksum for record in mine}:
        found = f"has scans in its cohort{cohort.way} that this cohort's training split has too"
        raise UserError(where, found, STRANGERS, "leave them out of one cohort, whatever their ids are")
    if {record.patient for record in public.records} & {record.patient for record in mine}:
        if not recipe.start.shared_ids:
            found = f"has patient ids in its cohort{cohort.way} that this cohort's training split has too"
            do = "leave these people out of one; if ids such as sub-01 only happen to be equal, say so with start.shared_ids true"
            raise UserError(where, found, STRANGERS, do)
        return NAMESAKES
    return APART


def _open(cohort: Cohort, others: Sequence[str]) -> tuple[Store | None, str]:
    """The store with a cohort's fingerprint, or None and why there is none."""
    why = "where its store is was not written down" if cohort.store is None else ""
    for place in [*([] if cohort.store is None else [cohort.store]), *others]:
        try:
            store = Store.open(place)
        except UserError as error:
            why = why or f"its store, {place}, is not at hand ({error.found})"
            continue
        if store.fingerprint == cohort.fingerprint:
            return store, ""
        why = why or f"its store, {place}, has changed since"
    return None, why
