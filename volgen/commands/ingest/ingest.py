"""Ingest: image files, a folder or a BIDS tree -> a Zarr store that training streams from."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import zarr

from volgen.core import pretrained
from volgen.core.errors import UserError
from volgen.core.files import LARGEST_JSON, atomic_path, fingerprint, read_bytes, sha256
from volgen.core.manifest import NAME, Provenance
from volgen.core.progress import Ticker, progress, say, say_next
from volgen.data.covariates import TABLE, UNKNOWN, Covariates
from volgen.data.ingest.choose import ScanChoice
from volgen.data.ingest.discover import Found, select
from volgen.data.ingest.frame import TEMPLATE, read_template
from volgen.data.ingest.grid import check_grid
from volgen.data.ingest.patients import PatientTable
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.ingest.subject import ROOT, SubjectOutcome, prepare_worker, torn_file
from volgen.data.ingest.target import Destination, target
from volgen.data.ingest.template import COHORT, Each, chosen, made, member
from volgen.data.layout import ATTRIBUTE, consolidate
from volgen.data.people import WAYS, Way
from volgen.data.record import ALMOST, SPLITS, SubjectRecord, cohort_fingerprint
from volgen.data.store import VERSION
from volgen.images import nifti
from volgen.images.volume import Volume

OLDER: Mapping[str, Any] = {
    "layout": "slices", "every": False, "resampling": "linear", "bias": {"kind": "none"}, "registration": {"kind": "none"},
    "window": {"kind": "robust"},
}  # fmt: skip
"""Settings of stores that are older than the choice."""
FOREGROUND_KEPT = 0.99
"""Below this share of a head inside the new grid, the user is told."""
LISTED = 5
"""Notes of one kind, and reasons, that are told on the screen."""


@dataclass(frozen=True)
class LeftOut:
    """A source that is not in the store, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class IngestSummary:
    """What an ingest did.

    Attributes:
        records: scans in the store.
        left_out: sources that are not, with the reason.
        resumed: scans that an earlier run had already written.
        splits: number of scans per split.
        warnings: what the user should know before training.
    """

    records: tuple[SubjectRecord, ...]
    left_out: tuple[LeftOut, ...]
    resumed: int
    splits: dict[str, int]
    warnings: tuple[str, ...] = field(default=())


def ingest(
    source: Path, store: Path | str, config: IngestConfig, *, workers: int = 1, strict: bool = False, patients: Path | None = None,
    participants: Path | None = None, columns: Sequence[str] = (),
) -> IngestSummary:  # fmt: skip
    """Turns every usable scan of ``source`` into a group of ``store`` and writes the manifest last.

    Sources that cannot be used are left out and listed with the reason. A run that was killed is resumed by calling again; finished
    groups are kept when their source file and the settings are the same.

    Args:
        source: an image file, a folder of them, or a BIDS tree.
        store: folder of the Zarr store, or its address (``s3://bucket/store``); new or from an earlier run of the same ingest.
        config: grid, levels and splits.
        workers: processes; 1 stays in this one.
        strict: stop at the first source that cannot be used.
        patients: a table that says whose each scan is; None: their names say it.
        participants: a table of what is known of people beside their scans; None: what the store has already, else the ``participants.tsv``
            of the source, if there is one.
        columns: which of its columns the store holds; age, sex, group and site, where it has them, if empty.

    Raises:
        UserError: nothing usable, a store made with other settings or from other files, or (``strict``) an unusable source.
    """
    if workers < 1:
        raise UserError("workers", f"is {workers}", "at least 1")
    if config.shape is not None:
        check_grid(config.shape, "shape")
    with target(store) as into:
        folder = into.folder
        named, config = config.registration.template, _resolved(folder, config)
        provenance = Provenance("ingest", config.model_dump(mode="json"), {})
        table = None if patients is None else PatientTable.read(patients)
        selection = select(source, ScanChoice(config.suffix, config.glob, config.space, config.every), table)
        scans = selection.scans
        with into.own(lambda: _check(folder, config)), _root(folder, config):
            # Before anything is written: strangers written here would make the right source's next ingest be refused.
            _refuse_strangers(folder, {found.id for found in scans}, source)
            frame = {} if named is None else {"frame": _framed(folder, named, config, scans, workers)}
            into.begin()
            outcomes = _without_copies(into, _run(scans, into, config, workers, strict), strict)
            _refuse_changed(folder, outcomes)
            good = [outcome for outcome in outcomes if outcome.record is not None]
            left_out = tuple(LeftOut(outcome.found.relative, outcome.reason) for outcome in outcomes if outcome.record is None)
            if not good:
                found = f"none of {len(scans)} scans can be used; the first, {left_out[0].source}, {left_out[0].reason}"
                raise UserError(str(source), found, "MRI volumes")
            records = tuple(outcome.record for outcome in good if outcome.record is not None)
            _refuse_strangers(folder, {record.id for record in records}, source)
            splits: dict[str, int] = {name: sum(record.split == name for record in records) for name in SPLITS}
            warnings = (*selection.warnings, *_warnings(good, splits))
            covariates, odd = _covariates(source, folder, participants, columns, records)
            warnings = (*warnings, *odd)
            consolidate(folder, [record.id for record in records])
            provenance.inputs = {
                **({} if table is None else {"patients": table.fingerprint}),
                "files": len(scans),
                "fingerprint": fingerprint([[o.found.relative, o.file] for o in outcomes]),
            }
            provenance.write(
                folder,
                store_version=VERSION,
                fingerprint=cohort_fingerprint(records),
                splits=splits,
                people=_told_by(good),
                **frame,
                warnings=list(warnings),
                notes=[{"source": outcome.found.relative, "notes": list(outcome.notes)} for outcome in good if outcome.notes],
                left_out=[{"source": item.source, "reason": item.reason} for item in left_out],
                not_taken=_grouped(selection.others),
                subjects=[record.to_dict() for record in records],
                **covariates.to_dict(),
            )
            into.finish()
    for group in _grouped(selection.others):
        say(f"not taken: {group['count']} images, such as {group['examples'][0]}: {group['reason']}")
    if covariates.columns:
        say("of people it holds: " + ", ".join(f"{name} {column}" for name, column in covariates.columns.items()))
    records = tuple(covariates.of(record) for record in records)
    summary = IngestSummary(records, left_out, sum(outcome.resumed for outcome in good), splits, warnings)
    _tell(summary, store)
    return summary


def _covariates(
    source: Path, folder: Path, table: Path | None, columns: Sequence[str], records: Sequence[SubjectRecord]
) -> tuple[Covariates, list[str]]:  # fmt: skip
    """What is known of people, and warnings.

    Raises:
        UserError: the table that was named cannot be used; one of the source's own is passed over with a warning.
    """
    if table is None and not columns and (before := Covariates.before(folder).kept(records)).columns:
        return before, []
    own = source / TABLE
    if table is not None or columns:
        return Covariates.read(own if table is None else table, records, columns), []
    if not own.is_file():
        return UNKNOWN, []
    try:
        return Covariates.read(own, records), []
    except UserError as error:
        return UNKNOWN, [f"nothing of {TABLE} was taken: {error.found.removeprefix(str(source))}"]


def _resolved(store: Path, config: IngestConfig) -> IngestConfig:
    """Settings as they are written: the resampling is that with which the store was begun, and a template is called by its checksum.

    Raises:
        UserError: there is no such template.
    """
    update: dict[str, Any] = {}
    if config.resampling is None:
        try:
            update["resampling"] = _begun(store)["resampling"]
        except (OSError, ValueError, KeyError, TypeError):  # none, or one that is refused below
            update["resampling"] = "sharp"
    template = config.registration.template
    if template not in (None, COHORT):
        try:
            digest = sha256(pretrained.file(template, pretrained.TEMPLATE), follow=True)
        except OSError as error:
            found, expected = f"cannot be opened ({error.strerror or error})", f"an image to register to, or '{COHORT}'"
            raise UserError(template, found, expected, "see --registration.template") from None
        update["registration"] = config.registration.model_copy(update={"template": f"sha256:{digest}"})
    return config.model_copy(update=update)


def _framed(store: Path, named: str, config: IngestConfig, scans: Sequence[Found], workers: int) -> dict[str, Any]:
    """Puts the template into the store, if it is not there, and says what its scans are registered to.

    A store that goes on keeps its template, also where people came to it: all of its scans are in one frame.

    Raises:
        UserError: nobody is there to make it of, it cannot be read, or it was changed.
    """
    path = store / TEMPLATE
    if torn_file(path):
        path.unlink(missing_ok=True)
        if named == COHORT:
            nifti.write(path, _of_cohort(scans, config, workers))
        else:
            nifti.write(path, read_template(pretrained.file(named, pretrained.TEMPLATE)))
    digest = sha256(path)
    try:
        before = json.loads((store / NAME).read_text(encoding="utf-8"))["frame"]["checksum"]
    except (OSError, ValueError, KeyError, TypeError):  # no manifest yet, or a damaged one, which is written anew
        before = digest
    if before != digest:
        raise UserError(str(path), f"is not that of {NAME}: one of them was changed", "the same", "ingest into a new store")
    return {"template": TEMPLATE, "checksum": digest, "of_cohort": named == COHORT}


def _of_cohort(scans: Sequence[Found], config: IngestConfig, workers: int) -> Volume:
    people = chosen(scans, config)
    with progress("template", len(people) * (1 + config.registration.rounds)) as ticker, _hands(workers, ticker) as each:
        members = [volume for volume in each(member, people) if volume is not None]
        if not members:
            found = f"no training person's scan can be used ({len(people)} were tried), so no template can be made of them"
            raise UserError("registration.template", found, "people to train on, or an image to register to")
        return made(members, config, each)


@contextmanager
def _hands(workers: int, ticker: Ticker) -> Iterator[Each]:
    """Who works on several things: this process, or others."""
    pool = None if workers == 1 else _pool(workers)

    def each(work: Callable[[Any], Any], things: Sequence[Any]) -> list[Any]:
        with _without_script():
            begun = [partial(work, thing) if pool is None else pool.submit(work, thing).result for thing in things]
        results = []
        for result in begun:
            results.append(result())
            ticker.advance()
        return results

    try:
        yield each
    except BrokenProcessPool:
        raise _killed() from None
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def _run(scans: Sequence[Found], into: Destination, config: IngestConfig, workers: int, strict: bool) -> list[SubjectOutcome]:
    """Outcomes in the order of ``scans``, whatever order they finish in."""
    outcomes: dict[str, SubjectOutcome] = {}
    # Scans that have a group first: if one was made from another file, the source is the wrong one, and nothing new may be written.
    batches = [[found for found in scans if (into.folder / found.id).exists() is there] for there in (True, False)]
    with progress("ingest", len(scans)) as ticker:
        for outcome in _in_process(batches, into, config) if workers == 1 else _in_pool(batches, into, config, workers):
            _note(outcome, ticker, strict)
            outcomes[outcome.found.id] = outcome
    return [outcomes[found.id] for found in scans]


def _in_process(batches: Sequence[Sequence[Found]], into: Destination, config: IngestConfig) -> Iterator[SubjectOutcome]:
    for found in chain.from_iterable(batches):
        yield into.ingest(found, config)


def _in_pool(batches: Sequence[Sequence[Found]], into: Destination, config: IngestConfig, workers: int) -> Iterator[SubjectOutcome]:
    pool = _pool(min(workers, max(map(len, batches))))
    try:
        for scans in batches:
            with _without_script():
                futures = [pool.submit(into.ingest, found, config) for found in scans]
            for future in as_completed(futures):
                yield future.result()
    except BrokenProcessPool:
        raise _killed() from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    # forkserver: a plain fork would copy the threads' locks of torch and zarr, but not the threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["volgen.data.ingest.subject"])
    return ProcessPoolExecutor(workers, mp_context=context, initializer=prepare_worker, initargs=(dict(os.environ),))


def _killed() -> UserError:
    do = "use fewer --workers if memory ran out, and run again: it will resume"
    return UserError("ingest", "a worker process was killed", "workers that finish", do)


@contextmanager
def _without_script() -> Iterator[None]:
    """Workers that start in this block do not import the caller's script: it would ingest again, and from a pipe it cannot be read."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _note(outcome: SubjectOutcome, ticker: Ticker, strict: bool) -> None:
    if outcome.record is None:
        if strict:
            raise UserError(outcome.found.relative, outcome.reason, "a usable scan (--strict)", "mend or remove it, or leave out --strict")
        say(f"left out: {outcome.found.relative} {outcome.reason}")
    ticker.advance(note=outcome.found.id)


def _without_copies(into: Destination, outcomes: Sequence[SubjectOutcome], strict: bool) -> list[SubjectOutcome]:
    """Keeps the first of equal scans: a copy under another name would put one person on both sides of the split."""
    first: dict[str, Found] = {}
    result: list[SubjectOutcome] = []
    for outcome in outcomes:
        original = first.setdefault(outcome.voxels, outcome.found) if outcome.record else outcome.found
        if original is not outcome.found:
            reason = f"is a duplicate: it has the same voxels as {original.relative}"
            if strict:
                raise UserError(outcome.found.relative, reason, "different scans (--strict)", "remove one of them, or leave out --strict")
            say(f"left out: {outcome.found.relative} {reason}")
            into.remove(outcome.found.id)
            outcome = SubjectOutcome(outcome.found, reason=reason, file=outcome.file)
        result.append(outcome)
    return result


def _check(store: Path, config: IngestConfig) -> None:
    """Refuses a folder that is not a store of these settings, before anything is written into it."""
    entries = sorted(path.name for path in store.iterdir() if not path.name.startswith("."))
    if not entries:
        return
    if not (store / ROOT).exists():
        raise UserError(str(store), f"is not empty and not a store (it holds {entries[0]})", "a new folder or a store")
    if torn_file(store / ROOT) and entries == [ROOT]:  # the power went before anything else was written
        return
    try:
        before = _begun(store)
    except (OSError, ValueError, KeyError, TypeError):
        found = "is a Zarr group, but not a store"
        raise UserError(str(store), found, "a store made by `volgen ingest`", "choose another folder") from None
    settings = _settings(config)
    keys = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
    changed = [f"{key} was {before.get(key)}, now {settings.get(key)}" for key in keys]
    if changed:
        raise UserError(str(store), "was made with other settings: " + "; ".join(changed), "the same settings", "ingest into a new store")


def _begun(store: Path) -> dict[str, Any]:
    """Settings of a store that was begun; where it is older than a choice, what was done then.

    Raises:
        OSError, ValueError, KeyError, TypeError: it is none.
    """
    attributes = json.loads(read_bytes(store / ROOT, limit=LARGEST_JSON))["attributes"]
    return {**OLDER, **attributes[ATTRIBUTE]["settings"]}


@contextmanager
def _root(store: Path, config: IngestConfig) -> Iterator[None]:
    """Makes the root of a store, which says its settings, if there is none; on the disk before any scan is, and gone if none comes."""
    path = store / ROOT
    fresh = torn_file(path)
    if fresh:
        path.unlink(missing_ok=True)
        # By way of memory: what zarr leaves of a file when it is killed would make the folder look like somebody else's.
        files: dict[str, Any] = {}
        zarr.create_group(store=files, zarr_format=3, attributes={ATTRIBUTE: {"settings": _settings(config)}})
        with atomic_path(path) as temporary:
            temporary.write_bytes(files[ROOT].to_bytes())
    try:
        yield
    except BaseException:
        if fresh and not any(path.is_dir() for path in store.iterdir()):
            path.unlink(missing_ok=True)
        raise


def _settings(config: IngestConfig) -> dict[str, Any]:
    return {**config.model_dump(mode="json"), "suffix": config.suffix or "T1w", "store_version": VERSION}


def _refuse_strangers(store: Path, known: set[str], source: Path) -> None:
    """A store is a function of its source and settings; groups from elsewhere would silently drop out of the manifest."""
    strangers = sorted(p.name for p in store.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name not in known)
    if strangers:
        found = f"holds {', '.join(strangers[:5])}{' and more' if len(strangers) > 5 else ''}, which {source} does not"
        raise UserError(str(store), found, "a store of this source", "ingest into a new store")


def _refuse_changed(store: Path, outcomes: Sequence[SubjectOutcome]) -> None:
    """A scan that an earlier ingest finished has to be what its manifest says."""
    try:
        before = {item["id"]: item for item in json.loads((store / NAME).read_text(encoding="utf-8"))["subjects"]}
    except (OSError, ValueError, KeyError, TypeError):  # none, or a damaged one, which is written anew
        return
    for outcome in outcomes:
        record = outcome.record
        if outcome.resumed and record is not None and before.get(record.id, record.to_dict()) != record.to_dict():
            do = f"delete this folder and {NAME}, and run the same ingest again: it replaces what is missing"
            raise UserError(str(store / record.id), f"its metadata is not that of {NAME}: one of them was changed", "the same", do)


def _grouped(others: Mapping[str, str]) -> list[dict[str, Any]]:
    """Images that were not taken, by reason, the most frequent first."""
    reasons = Counter(others.values())
    return [
        {"reason": reason, "count": count, "examples": sorted(name for name, why in others.items() if why == reason)[:LISTED]}
        for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    ]


def _told_by(good: Sequence[SubjectOutcome]) -> Way:
    """How people were told: the way that says least, where there are several."""
    ways = {outcome.found.told_by for outcome in good}
    return next(way for way in WAYS if way in ways)


def _warnings(good: Sequence[SubjectOutcome], splits: dict[str, int]) -> Iterator[str]:
    for name in ("train", "validation"):
        if splits[name] == 0:
            yield (
                f"the {name} split is empty: people are assigned by a hash of their id, and none of {len(good)} scans fell there; "
                "add people, or change --validation and --test and ingest into a new store"
            )
    scans = Counter(outcome.found.patient for outcome in good)
    if len(good) > 1 and all(outcome.found.told_by in ("files", "folders") for outcome in good):
        patient, most = scans.most_common(1)[0]
        yield (
            f"no file is named sub-<label>: every file, or a folder where file names repeat, counts as a person of its own ({len(scans)} "
            f"people, {len(good)} scans, {most} of them of {patient}); if that is not so, say whose they are (--patients TABLE), or "
            "name the files sub-<label>_..., and ingest into a new store, or training and validation may share people"
        )
    places: dict[str, set[str]] = {}
    for outcome in good:
        if outcome.found.told_by == "bids":
            places.setdefault(outcome.found.patient, set()).add(outcome.found.relative.partition("sub-")[0])
    several = sorted(patient for patient, found in places.items() if len({place for place in found if place}) > 1)
    if several:
        folders = " and ".join(sorted(places[several[0]])[:2])
        yield (
            f"{len(several)} people are in more than one folder ({several[0]} in {folders}): one sub-<label> is one person wherever it is; "
            "if these are different people, give them different labels and ingest into a new store"
        )
    coarse = [outcome for outcome in good if outcome.record is not None and outcome.record.finest]
    if coarse:
        yield (
            f"{len(coarse)} of {len(good)} scans, such as {coarse[0].found.relative}, have voxels over {ALMOST:g} times as large as the"
            " store's: they train experts of coarser levels only; choose a larger --voxel-size, or set data.interpolated in training"
        )
    notes = Counter(note for outcome in good for note in set(outcome.notes))
    for note, count in notes.most_common(LISTED):
        example = next(outcome.found.relative for outcome in good if note in outcome.notes)
        yield f"{count} of {len(good)} scans, such as {example}: {note}"
    if len(notes) > LISTED:
        yield f"{len(notes) - LISTED} more kinds of notes are under 'notes' in {NAME}"
    cut = [outcome for outcome in good if outcome.kept < FOREGROUND_KEPT]
    if cut:
        worst = min(cut, key=lambda outcome: outcome.kept)
        yield (
            f"{len(cut)} of {len(good)} scans have less than {FOREGROUND_KEPT:.0%} of the foreground inside the grid; the worst, "
            f"{worst.found.id}, has {worst.kept:.1%}: choose a larger --shape or --voxel-size"
        )


def _tell(summary: IngestSummary, store: Path | str) -> None:
    for warning in summary.warnings:
        say(f"warning: {warning}")
    counts = ", ".join(f"{count} {name}" for name, count in summary.splits.items())
    again = f", {summary.resumed} of them from before" if summary.resumed else ""
    people = len({record.patient for record in summary.records})
    say(f"{store}: {len(summary.records)} scans of {people} people ({counts}){again}; {len(summary.left_out)} left out, see {NAME}")
    say_next("volgen", "train", "--config", "CONFIG.yaml", "--name", "NAME", "--data.store", store)
