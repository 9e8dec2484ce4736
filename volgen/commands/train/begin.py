"""What comes before the first network of a run: whatever can be refused is refused before anything is written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch

from volgen.core import manifest as manifests
from volgen.core.config import dump_yaml
from volgen.core.errors import UserError
from volgen.core.files import atomic_path, sweep, write_text
from volgen.core.folder import LOCK, refuse_links
from volgen.core.limits import MANIFEST_BYTES
from volgen.core.lock import Lock, holder
from volgen.core.manifest import Provenance
from volgen.core.progress import say
from volgen.core.run_files import BEGUN, CONFIG, EXPERTS, MANIFEST
from volgen.data import field_of_view
from volgen.data.record import ALMOST, SPLITS, Split
from volgen.data.store import Store
from volgen.origin.start import Start
from volgen.parallel.engine import check_matrices
from volgen.planning.step import networks
from volgen.privacy import cohort_entries
from volgen.privacy.ledger import Ledger
from volgen.privacy.plan import Regime
from volgen.recipe import Recipe
from volgen.runs.paths import Paths
from volgen.runs.record import PhaseRecord, check_same, trained

TOLD = "participants"
"""Key of a run's inputs: fingerprint of what the store says of people."""
LOOKED_AT: tuple[Split, Split] = ("train", "validation")
"""Splits that training reads."""


def told_of(recipe: Recipe, store: Store) -> dict[str, str]:
    """What a run's manifest has of what the store says of people, beside the cohort's fingerprint: nothing if no network is told it."""
    return {TOLD: store.covariates.fingerprint} if any(condition.covariate for condition in recipe.conditions) else {}


def check(recipe: Recipe, store: Store) -> None:
    """Refuses what no training could begin with, whether or not there is a run yet. Nothing is written.

    Raises:
        UserError: nobody is in a split that is needed, scans have another shape, or the network cannot be trained as is asked.
    """
    _check_told(recipe, store)
    needed: dict[Split, str] = {"train": "to learn from"}
    if recipe.privacy.validates:
        needed["validation"] = "to measure losses on"
    for split, purpose in needed.items():
        records = recipe.data.records(store, split)
        if not records:
            found = f"has nobody in its {split} split, {purpose}, of {len({record.patient for record in store.records})} people"
            do = f"ingest the scans anew with a larger share, such as --validation 0.3, or more people ({_shares(store)})"
            raise UserError(str(store.path), found, "at least one person", do)
        recipe.data.check_shapes(store, records)
        for level in sorted({recipe.of(phase).level for phase in recipe.trained()}):
            if not recipe.data.records(store, split, level):
                found = f"has no scan in its {split} split, {purpose}, whose own voxels are as small as those of level {level}"
                finest = min(record.finest for record in records)
                do = f"give experts level {finest} or more, ingest with a larger --voxel-size, or set data.interpolated"
                if kept := _finer(recipe, finest):
                    do = f"set {kept}: finer experts are taken over as they are"
                raise UserError(str(store.path), found, f"one that is at most {ALMOST:g} times as coarse", do)
    for phase in networks(recipe):
        variant = recipe.of(phase)
        with torch.device("meta"):
            network = variant.build().network(phase)
        variant.optimiser.make()
        if variant.optimiser.matrix_learning_rate:
            check_matrices(network)
        variant.privacy.build(variant).refuse(network)


def _check_told(recipe: Recipe, store: Store) -> None:
    """Refuses conditions of which the store says nothing, or something of another kind."""
    columns = store.covariates.columns
    for number, condition in enumerate(recipe.conditions):
        name = condition.covariate
        if name and name not in columns:
            found = f"nothing is known of '{name}' in {store.path}"
            expected = f"one of {', '.join(columns)}" if columns else "a store that was told of its people"
            raise UserError(f"conditions.{number}", found, expected, "tell it: volgen participants STORE TABLE.tsv --column NAME")
        if name and (why := condition.unlike(columns[name].levels)):
            raise UserError(f"conditions.{number}", f"'{name}' of {store.path} is another thing: {why}", "what the store has")


def _finer(recipe: Recipe, finest: int) -> str:
    """The range of noise levels whose experts are of a level or coarser, as a key; "" where there is nothing to take the others from."""
    points = [point for phase in recipe.phases() if recipe.of(phase).level >= finest for point in phase.points]
    return f"start.sigma [{0.999 * min(points):.4g}, {1.001 * max(points):.4g}]" if recipe.start.brings_fit and points else ""


def check_run(recipe: Recipe, store: Store) -> None:
    """Refuses to continue another run than this one; one of which nothing was trained yet may begin anew.

    Raises:
        UserError: names what differs.
    """
    if not untouched(recipe.directory):
        _check_same(recipe, store)


def untouched(root: Path) -> bool:
    """Whether no network of a run was trained yet and no budget was spent, so that nothing is lost with it."""
    return not trained(root) and not (Ledger.exists(root) and Ledger(root).count())


def begin(recipe: Recipe, store: Store, start: Start, provenance: Provenance) -> None:
    """Writes everything that can be written before training; for whoever holds the lock of the run.

    Raises:
        UserError: the run is another one, or cannot be had.
    """
    root = recipe.directory
    regime: Regime = recipe.privacy.build(recipe)
    refuse_links(root, elsewhere="give the run another `name`")
    sweep(root)  # what others are writing now stays
    geometry = regime.geometry(store)
    start.check(geometry)
    try:
        _check_same(recipe, store)
        start.check_same(root)
    except UserError as error:
        if not untouched(root):
            raise
        cohort_entries.enter_untouched(root)
        _clear(root)
        say(f"{error.where} {error.found}. Nothing was trained in {root} yet: it is begun anew.")
    _say_who_is_cut(recipe, store)
    regime.begin(store, start.assumed)
    write_text(root / CONFIG, dump_yaml(recipe))
    geometry.write(root)
    provenance.write(root, state="training")
    _keep(recipe, start)


def _say_who_is_cut(recipe: Recipe, store: Store) -> None:
    """Says how many heads reach out of the box, where scans may be looked at for that."""
    box = recipe.data.box
    if box is None or not recipe.privacy.looks:
        return
    for split in LOOKED_AT:
        heads = field_of_view.boxes(store, recipe.data.records(store, split))
        cut = sum(not box.holds(head) for head in heads)
        if cut:
            say(f"{cut} of {len(heads)} scans of the {split} split reach out of data.box; what lies outside of it is not looked at.")


def _keep(recipe: Recipe, start: Start) -> None:
    """Marks the experts that are taken over as finished."""
    paths = Paths(recipe.directory)
    for phase in recipe.phases():
        folder = paths.phase(phase.name)
        if PhaseRecord.read(folder):
            continue
        kept = start.kept(phase)
        if kept is None:
            continue
        with Lock.wait(folder / LOCK), atomic_path(paths.weights(phase.name)) as temporary:
            shutil.copyfile(kept.path, temporary)
        PhaseRecord(0, 0, None, kept.parameters, kept.sha256).write(folder)
        say(f"{phase.label}{phase.levels} is that of the public run, unchanged.")


@contextmanager
def nothing_left(root: Path) -> Iterator[None]:
    """If the block ends with an error before anything was written, the folders that it made go again.

    Args:
        root: directory of the run; there may be its lock in it.
    """
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        with suppress(OSError):
            if made and [path.name for path in root.iterdir()] == [LOCK]:
                (root / LOCK).unlink()
            for folder in made:
                folder.rmdir()
        raise


def _check_same(recipe: Recipe, store: Store) -> None:
    """A run, finished or not, belongs to one configuration and one cohort, wherever its store lies."""
    check_same(recipe.directory, recipe)
    manifest = recipe.directory / MANIFEST
    if manifest.exists():
        before = manifests.read(recipe.directory, "the manifest of a run", limit=MANIFEST_BYTES).get("inputs", {})
        if before.get("fingerprint") != store.fingerprint:
            raise UserError(str(store.path), "is not the cohort this run began with", "the same cohort", "give the run another `name`")
        if before.get(TOLD) != told_of(recipe, store).get(TOLD):
            found = "says something else of its people than when this run began"
            raise UserError(str(store.path), found, "the table that it had", "give the run another `name`")


def _clear(root: Path) -> None:
    """Removes a run of which nothing was trained, unless somebody is just beginning to."""
    with ExitStack() as held:
        for folder in sorted(path for path in (root / EXPERTS).glob("*") if path.is_dir()):
            lock = Lock.take(folder / LOCK)
            if lock is None:
                found = f"is of another configuration, and {holder(folder / LOCK) or 'another process'} is training it"
                raise UserError(str(root), found, "a run of this configuration", "give the new run another `name`")
            held.enter_context(lock)
        for name in BEGUN:
            path = root / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _shares(store: Store) -> str:
    counts = {split: len({record.patient for record in store.split(split)}) for split in SPLITS}
    return "now " + ", ".join(f"{count} for {split}" for split, count in counts.items())
