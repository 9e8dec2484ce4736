"""When commands write into the ledger of a cohort, and what a statement says from it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from volgen.core.errors import UserError
from volgen.core.files import read_json
from volgen.core.progress import say
from volgen.core.run_files import MANIFEST
from volgen.privacy.accounting import Accountant
from volgen.privacy.cohort_ledger import ASSUMED, ENTRY, KEPT, MISSING, CohortLedger
from volgen.privacy.ledger import Ledger


def noted(cohort: CohortLedger) -> dict[str, Any]:
    """What the ledger of a run that begins says of the cohort's: what it is called there, or why it is not there."""
    why = cohort.obstacle()
    if why:
        say(f"The private runs of this cohort are not added up: {cohort.path} cannot be written ({why}).")
        return {ASSUMED: MISSING.format(why=why)}
    return {ASSUMED: KEPT, ENTRY: {"entry": secrets.token_hex(8)}}


def enter(cohort: CohortLedger, ledger: Ledger, more: int) -> None:
    """Enters a private run before its next step, with all steps that it has taken and ``more``, the most that this launch can take.

    Raises:
        OSError: it cannot be written; no step may be taken.
    """
    name = _name(ledger)
    if name:
        cohort.enter_run(name, [*ledger.steps(), ledger.mechanism.cost(more)], finished=False)


def enter_untouched(run: Path) -> None:
    """Enters that a run which is to be cleared away has taken no step at all; nothing for one without a privacy journal."""
    if Ledger.exists(run) and (run / MANIFEST).exists():
        store = read_json(run / MANIFEST, "the manifest of a run").get("inputs", {}).get("store")
        enter_finished(run, str(store))


def enter_finished(run: Path, store: str) -> None:
    """Enters what a finished private run has really taken. If that cannot be, it counts with the most that it could have taken."""
    ledger, cohort = Ledger(run), find(run, store)
    name = _name(ledger)
    if not name or cohort is None:
        return
    try:
        cohort.enter_run(name, ledger.steps(), finished=True)
    except OSError as error:
        say(f"{cohort.path} cannot be written ({error.strerror or error}): this run counts there with the most steps that were planned.")


def find(run: Path, store: str) -> CohortLedger | None:
    """The ledger of the cohort that a run was trained on; None if the run does not know it, as a released one.

    Args:
        run: its directory.
        store: ``data.store`` of its configuration.
    """
    if not (run / MANIFEST).exists():
        return None
    inputs = read_json(run / MANIFEST, "the manifest of a run").get("inputs", {})
    fingerprint = inputs.get("fingerprint") if isinstance(inputs, Mapping) else None
    return CohortLedger(store, fingerprint) if isinstance(fingerprint, str) else None


def told(run: Path, store: str, ledger: Mapping[str, Any]) -> dict[str, Any]:
    """What a statement says of all private runs of a run's cohort: numbers, and nothing that names a run, a person or a place.

    Args:
        run: its directory.
        store: ``data.store`` of its configuration.
        ledger: its ``privacy_ledger.json``, which has an epsilon.

    Returns:
        ``unknown`` (why there is no sum), or ``epsilon``, ``runs``, ``unfinished``, ``audits``, ``unprotected``, ``unreadable`` and
        ``others``.
    """
    assumed = ledger.get("assumed", {})
    entry = assumed.get(ENTRY, {}).get("entry") if isinstance(assumed.get(ENTRY), Mapping) else None
    if entry is None:
        return {"unknown": str(assumed.get(ASSUMED, "this run is of a time before cohorts had ledgers"))}
    cohort = find(run, store)
    if cohort is None:
        return {"unknown": "this is a released run, which does not know its cohort: ask whoever has the whole run"}
    spent = cohort.spent()
    if spent is None:
        return {"unknown": "the ledger beside the store is not at hand, or was removed"}
    if entry not in spent.runs:
        return {"unknown": "the ledger beside the store does not know this run: it was lost and begun anew, or is another store's"}
    accountant: Accountant = "rdp" if ledger.get("accountant") == "rdp" else "prv"
    alone = len(spent.runs) == 1
    return {
        "epsilon": float(ledger["epsilon"]) if alone else spent.epsilon(float(ledger["delta"]), accountant),
        "runs": len(spent.runs),
        "unfinished": len(spent.unfinished - {entry}),
        "audits": spent.audits,
        "unprotected": spent.unprotected,
        "unreadable": spent.unreadable,
        "others": spent.others,
    }


def enter_audit(cohort: CohortLedger, run: str, *, refuted: bool) -> None:
    """Enters an audit of a run (its fingerprint); says so where that cannot be."""
    try:
        cohort.enter_audit(run, refuted=refuted)
    except OSError as error:
        say(f"This audit is not in the ledger of the cohort: {cohort.path} cannot be written ({error.strerror or error}).")


def enter_release(run: Path, store: str, fingerprint: str, *, private: bool) -> None:
    """Enters the release of a run; says so where that cannot be."""
    cohort = find(run, store)
    try:
        if cohort is not None:
            cohort.enter_release(fingerprint, private=private)
    except OSError as error:
        say(f"This release is not in the ledger of the cohort, which cannot be written ({error.strerror or error}).")


def refuse_refuted(run: Path, store: str, fingerprint: str) -> None:
    """Refuses a run whose guarantee an audit refuted, if the ledger of its cohort knows of it.

    Raises:
        UserError: it does.
    """
    cohort = find(run, store)
    spent = cohort.spent() if cohort else None
    if spent and fingerprint in spent.refuted:
        found = "has a ledger that an audit refuted, as the ledger of its cohort says"
        raise UserError(str(run), found, "a run that may be released", "find out what its ledger does not know of, and train again")


def _name(ledger: Ledger) -> str:
    entry = ledger.assumed.get(ENTRY, {})
    return str(entry.get("entry", "")) if isinstance(entry, Mapping) else ""
