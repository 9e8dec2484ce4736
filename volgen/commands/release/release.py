"""``volgen release``: a finished run in, a folder that may leave the house out, with a statement and a model card."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from volgen.commands.release import card
from volgen.commands.release.compact import compacted
from volgen.core.errors import UserError
from volgen.core.files import atomic_folder, open_plain, read_json, write_text
from volgen.core.folder import COMPLETE
from volgen.core.manifest import FILES, Provenance, checksums
from volgen.core.pretrained import PREPARED, UNPREPARED
from volgen.core.progress import say
from volgen.core.run_files import CARD, CONFIG, EXPERTS, LEDGER, METRICS, of_expert
from volgen.data.store import Store
from volgen.privacy import cohort_entries
from volgen.privacy.files import covered, kept_inside
from volgen.runs.record import PhaseRecord
from volgen.runs.statement import AUDIT, PAGE, STATEMENT, write_statement
from volgen.runs.trained import RELEASE, TrainedRun, open_run


def release(
    run: Path, out: Path, *, audit: Path | None = None, people_agreed: bool = False, accept_half: bool = False, compact: bool = False
) -> Path:
    """Copies the files of a run that its guarantee covers, and nothing else, and says beside them what they are and what they promise.

    The folder works like the run: ``volgen sample``, ``volgen statement``, and as ``start.run`` of another one. It appears whole or not
    at all. Nothing in it tells the time, the machine, or the cohort's fingerprint. ``config.yaml`` is the run's, byte for byte,
    unless the release is compact.

    Args:
        run: directory that ``volgen train`` finished.
        out: a new directory.
        audit: directory that ``volgen audit`` made of the run: one whose audit refuted the ledger is not released. Nothing of it is copied.
        people_agreed: release a run without a guarantee, because all people it was trained on agreed that what the model gives away of them
            is published.
        accept_half: release a run that was trained on the half that coins chose, although the coins' seed tells who is in it.
        compact: make the model small (:mod:`volgen.commands.release.compact`): another one, whose volumes are nearly those of the run.

    Returns:
        ``out``.

    Raises:
        UserError: the run must not be released, is not finished, or is damaged; or ``out`` exists.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(str(out), "exists already", "a new directory", "a release is made whole; choose another one")
    trained = open_run(run)
    ledger = trained.ledger
    trained.recipe.privacy.check_summary(run / LEDGER, ledger)
    if trained.recipe.data.half is not None and not accept_half:
        found = f"was trained on the half that coins chose, and the coins' seed in its {CONFIG} tells who is in it"
        raise UserError(str(run), found, "a run on the whole training split", "train one; or, if that may be known, give --accept-half")
    _check_audit(trained, audit)
    cohort_entries.refuse_refuted(run, trained.recipe.data.store, trained.fingerprint)
    private = trained.recipe.privacy.vouch(run, ledger, _steps(trained))
    if not (private or people_agreed):
        found = f"has no privacy guarantee ({str(ledger.get('why') or 'trained without one').rstrip('.')})"
        do = "train with privacy.kind dp_sgd; or, if all people it was trained on agreed to what it may give away, give --people-agreed"
        raise UserError(str(run), found, "a run whose guarantee covers what is released", do)
    names, foreign = list(_found(run)), _foreign_weights(trained)
    chosen = [name for name in names if covered(name) and not foreign(name) and not (compact and name == METRICS)]
    with atomic_folder(out) as folder:
        for name in chosen:
            _copy(run, folder, name)
        copy = _whole(folder, trained, chosen)
        if compact:
            copy = compacted(copy)
        content = write_statement(folder, copy, cohort_of=run)
        write_text(folder / CARD, card.text(copy, ledger, content))
        settings = {"people_agreed": people_agreed, "accept_half": accept_half, **(_how_compact(trained) if compact else {})}
        provenance = Provenance(RELEASE, settings, {"run": trained.fingerprint}, measured=False)
        provenance.write(folder, **{COMPLETE: True, "run_name": trained.recipe.name, FILES: checksums(folder)})
    cohort_entries.enter_release(run, trained.recipe.data.store, trained.fingerprint, private=private)
    _tell(out, trained, names, chosen, compact)
    return out


def _how_compact(trained: TrainedRun) -> dict[str, Any]:
    """What a compact release says of how its cohort was ingested, where the store can be read: whoever begins from it does the same."""
    try:
        store = Store.open(trained.recipe.data.store)
    except (UserError, OSError):
        return {"compact": True}
    if store.fingerprint != trained.cohort:
        return {"compact": True}
    settings = {key: store.settings.get(key) for key in UNPREPARED}
    return {"compact": True, PREPARED: {key: value["kind"] for key, value in settings.items() if isinstance(value, dict)}}


def _check_audit(trained: TrainedRun, audit: Path | None) -> None:
    if audit is None:
        return
    found = read_json(audit / AUDIT, "the findings of volgen audit")
    if found.get("run_fingerprint") != trained.fingerprint:
        raise UserError(str(audit), "is the audit of another run", f"an audit of {trained.recipe.name}")
    if found.get("refuted"):
        do = "find out what its ledger does not know of, and train again"
        raise UserError(str(audit), "refutes the guarantee that the run's ledger claims", "a run that may be released", do)


def _steps(trained: TrainedRun) -> dict[str, int]:
    """How long each network of a run was trained."""
    steps = {}
    for phase in trained.recipe.phases():
        record = PhaseRecord.read(trained.paths.phase(phase.name))
        steps[phase.name] = record.steps if record else next((e.steps for e in trained.ensemble.experts if e.index == phase.index), 0)
    return steps


def _found(run: Path) -> Iterator[str]:
    """Paths of all files, relative, with ``/``; links are named and not followed."""
    for root, folders, names in os.walk(run):
        here = Path(root).relative_to(run)
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        yield from ((here / name).as_posix() for name in sorted([*names, *links]))


def _foreign_weights(trained: TrainedRun) -> Callable[[str], bool]:
    """Whether a file holds weights of a network that is none of the run's: no ledger has counted it."""
    folders = {of_expert(phase.name) for phase in trained.recipe.phases()}
    return lambda name: name.startswith(f"{EXPERTS}/") and name.rpartition("/")[0] not in folders


def _copy(run: Path, folder: Path, name: str) -> None:
    source, target = run / name, folder / name
    link = next((part for part in (source, *source.parents) if part != run and part.is_relative_to(run) and part.is_symlink()), None)
    if link:
        raise UserError(str(link), "is a link, and a release follows none", "a file of the run", "put what it points to in its place")
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_plain(source) as stream, target.open("wb") as copy:
        shutil.copyfileobj(stream, copy, 2**20)


def _whole(folder: Path, trained: TrainedRun, chosen: Collection[str]) -> TrainedRun:
    """The copy, opened: it is what the run was when it was judged, and every file in it is the one that training wrote."""
    copy = open_run(folder)
    if copy.fingerprint != trained.fingerprint:
        raise UserError(str(trained.directory), "was changed while it was copied", "a run that nobody writes to", "try again")
    try:
        replace(copy, provenance=trained.provenance).verify(chosen)
    except UserError as error:  # the copy is gone when this is read
        where = error.where.replace(str(folder), str(trained.directory))
        raise UserError(where, error.found, error.expected, error.do) from None
    return copy


def _tell(out: Path, trained: TrainedRun, names: list[str], chosen: list[str], compact: bool) -> None:
    # A release that is released again gets a statement of its own, as it gets a card and a manifest.
    strange = [name for name in names if name not in (*chosen, *STATEMENT, METRICS) and not kept_inside(name)]
    if strange:
        say(f"Left out, because volgen does not know what it is: {', '.join(strange)}.")
    typed = [*([] if compact else [trained.recipe.data.store, trained.recipe.runs]), *trained.recipe.places]
    if typed:
        how = "names" if compact else "is released as it is, and names"
        say(f"{CONFIG} {how} these places: {', '.join(typed)}. Look whether that may be known.")
    say(f"{out}: {len(chosen)} of {len(names)} files of {trained.directory}, {PAGE}, and a model card whose licence is for you to fill in.")
