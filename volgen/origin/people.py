"""Whether anybody is in a private cohort and in one that the public run, or a run that it began from, has seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from volgen.core.errors import UserError
from volgen.core.run_files import CONFIG, MANIFEST, TRAIN_AGAIN
from volgen.data.store import Store
from volgen.origin.start import Recipe
from volgen.privacy.ledger import Ledger

COHORTS = "public_cohorts"
"""Key of a manifest: fingerprints and stores of all cohorts that a run has seen through the runs it began from."""
ASSUMED = "assumed to be in one cohort only; "
APART = "no patient id is in both"
APART_WHERE_COMPARED = "no patient id is in both where they were compared"
NAMESAKES = "some patient ids are in both, and were said to be of different people"
NOT_COMPARED = "patient ids were not compared: the public store is not at hand, or has changed since"
UNKNOWN = "patient ids were not compared: the public run came without its manifest, so that nobody can tell whom it has seen"
SUSPECTED = NAMESAKES + "; the public run came without its manifest, so that there may be more"
NOT_ALL_COMPARED = "patient ids were not compared with every cohort that led to the public run: not all of these stores are at hand"
SAME = "the public run was trained on this very cohort: training goes on, and no budget is kept"
STRANGERS = "cohorts that share nobody"


@dataclass(frozen=True)
class Cohort:
    """A cohort that the public run has seen.

    Attributes:
        fingerprint: fingerprint of its store; None if the run came without its manifest: then nobody can tell which store it was.
        store: where that was, if it was written down.
        way: for messages: "" for the public run's own, else through which run.
    """

    fingerprint: str | None
    store: str | None
    way: str

    def recorded(self) -> dict[str, str | None]:
        """The cohort as a manifest has it."""
        return {"fingerprint": self.fingerprint, "store": self.store}


def cohorts(run: Path, inputs: Mapping[str, Any] | None, configured: str) -> list[Cohort]:
    """All that a finished run knows of: its own, then those of the runs before it.

    Args:
        run: its directory, for messages.
        inputs: inputs in its manifest; None where it has none, like a released run.
        configured: ``data.store`` of its config.yaml.

    Raises:
        UserError: the manifest was changed.
    """
    if inputs is None:
        return [Cohort(None, configured, "")]
    before = inputs.get(COHORTS, [])
    if not isinstance(before, list):
        raise UserError(str(run / MANIFEST), f"inputs.{COHORTS} is {before!r}", "a list of cohorts", TRAIN_AGAIN)
    found = []
    for number, entry in enumerate([inputs, *before]):
        known = entry if isinstance(entry, Mapping) else {"fingerprint": entry}
        fingerprint, store = known.get("fingerprint"), known.get("store")
        way = ", by way of its own start" if number else ""
        found.append(Cohort(None if fingerprint is None else str(fingerprint), None if store is None else str(store), way))
    return found


def compare(recipe: Recipe, known: Sequence[Cohort], store: Store, public: Mapping[str, Any]) -> tuple[str, list[Cohort]]:
    """What is known of people who are in both, for the ledger, without naming anybody; and the cohorts with the places they were found at.

    Args:
        recipe: configuration of the run that begins.
        known: cohorts that the public run has seen, its own first.
        store: the cohort that the run trains on.
        public: what the ledger of a run that began already has to say of the public run.

    Raises:
        UserError: one of them has scans or ids of this cohort, or, for a private run, is this cohort, or nobody can tell.
    """
    where = recipe.start.where
    same = not recipe.privacy.strangers and any(cohort.fingerprint == store.fingerprint for cohort in known)
    if not same:
        for cohort in known:
            _refuse_same(where, cohort.fingerprint, cohort.way, store)
    begun = Ledger.exists(recipe.directory)
    before = Ledger(recipe.directory).assumed.get("public", {}) if begun else public
    if any(before.get(fact) != public[fact] for fact in public):
        found = f"is not the run that {recipe.directory} began from"
        raise UserError(where, found, "the same one", "give the new run another `name`")
    if same:
        return SAME, list(known)
    said, places = set(), []
    for cohort in known:
        one, place = _compare(where, recipe, cohort, store, begun)
        said.add(one)
        places.append(replace(cohort, store=place))
    if len(said) == 1:
        return ASSUMED + said.pop(), places
    missing = said & {NOT_COMPARED, UNKNOWN}
    if said == missing:
        return ASSUMED + NOT_COMPARED, places
    namesakes = said & {NAMESAKES, SUSPECTED}
    parts = [NAMESAKES if namesakes else APART_WHERE_COMPARED, *([NOT_ALL_COMPARED] if missing or SUSPECTED in said else [])]
    return ASSUMED + "; ".join(parts), places


def _compare(where: str, recipe: Recipe, cohort: Cohort, store: Store, begun: bool) -> tuple[str, str | None]:
    unknown = UNKNOWN
    if cohort.fingerprint is None and recipe.privacy.strangers and not begun:
        # What is known can show that somebody is in both, and never that nobody is.
        way = f"{cohort.way}, if that is what its {CONFIG} or start.stores names (rename your store if only the name is the same)"
        for suspect in (store for _, store, _ in _opened(cohort, recipe.start.stores) if store):
            unknown = SUSPECTED if _refuse_shared(where, recipe, suspect, way, store) else unknown
    public, reasons = _open(cohort, recipe.start.stores)
    if public is None:
        # What was said when a run began stands in its ledger: it can be continued where the store is gone.
        if recipe.privacy.strangers and not recipe.start.not_compared and not begun:
            found = f"cannot be compared with this cohort{cohort.way}: {'; '.join(reasons)}"
            do = "if you know that nobody is in both, set start.not_compared true"
            if cohort.fingerprint is not None:
                do = f"put it back, or name its place in start.stores; or, {do}"
            raise UserError(where, found, "the store that it was trained on", do)
        return unknown if cohort.fingerprint is None else NOT_COMPARED, cohort.store
    return (NAMESAKES if _refuse_shared(where, recipe, public, cohort.way, store) else APART), str(public.path)


def _refuse_same(where: str, fingerprint: str | None, way: str, store: Store) -> None:
    if fingerprint == store.fingerprint:
        found = f"was trained on this very cohort{way}"
        raise UserError(where, found, "a run of other people", "its budget would have to be added")


def _refuse_shared(where: str, recipe: Recipe, public: Store, way: str, store: Store) -> bool:
    """Refuses a cohort that has this one's people; whether ids are in both that were said to be of different people."""
    _refuse_same(where, public.fingerprint, way, store)
    mine = store.split("train")
    if {record.checksum for record in public.records} & {record.checksum for record in mine}:
        found = f"has scans in its cohort{way} that this cohort's training split has too"
        raise UserError(where, found, STRANGERS, "leave them out of one cohort, whatever their ids are")
    shared = bool({record.patient for record in public.records} & {record.patient for record in mine})
    if shared and not recipe.start.shared_ids:
        found = f"has patient ids in its cohort{way} that this cohort's training split has too"
        do = "leave these people out of one; if ids such as sub-01 only happen to be equal, say so with start.shared_ids true"
        raise UserError(where, found, STRANGERS, do)
    return shared


def _opened(cohort: Cohort, others: Sequence[str]) -> Iterator[tuple[str, Store | None, str]]:
    """Places where the store of a cohort may be: each with the store that is there, or None and why there is none."""
    for place in [*([] if cohort.store is None else [cohort.store]), *others]:
        try:
            yield place, Store.open(place), ""
        except (UserError, OSError) as error:
            yield place, None, str(error.found if isinstance(error, UserError) else error.strerror)


def _open(cohort: Cohort, others: Sequence[str]) -> tuple[Store | None, list[str]]:
    """The store with a cohort's fingerprint, or None and why there is none."""
    if cohort.fingerprint is None:
        return None, [f"it has no {MANIFEST} of its training (a released run has none), which would say what it was trained on"]
    reasons = ["where its store is was not written down"] if cohort.store is None else []
    for place, store, why in _opened(cohort, others):
        if store is None:
            reasons.append(f"its store, {place}, is not at hand ({why})")
            continue
        if store.fingerprint == cohort.fingerprint:
            return store, []
        reasons.append(f"its store, {place}, has changed since" if place == cohort.store else f"{place} is another cohort")
    return None, reasons
