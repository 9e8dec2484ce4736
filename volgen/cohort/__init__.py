"""The sample cohort: real brains inside the package, so that every command can be tried at once.

What it is, who made it and under which licence: ``bids/README.md``.
"""

from __future__ import annotations

import shutil
from importlib.resources import as_file, files
from pathlib import Path

from volgen.core.errors import UserError
from volgen.core.files import UNFINISHED, atomic_folder, atomic_path, sync
from volgen.core.folder import LOCK, own

COPY = f"{UNFINISHED}cohort"
ADDED = "T1w.json"
"""A file that a cohort copied by volgen 0.1.0 lacks, and gets; the rest is the same."""


def copy_to(target: Path) -> Path:
    """Copies the cohort out of the package as a BIDS tree.

    A folder that already holds exactly this cohort is left as it is, so that scripts can be run again; the sidecar that volgen 0.1.0
    did not have is added.

    Args:
        target: folder to make; its parents are made too.

    Returns:
        ``target``.

    Raises:
        UserError: ``target`` holds something else.
    """
    with as_file(files(__name__) / "bids") as source:
        wanted = _names(source)
        if target.is_dir() and _names(target) in (wanted, {name: size for name, size in wanted.items() if name != ADDED}):
            if not (target / ADDED).exists():
                with atomic_path(target / ADDED) as temporary:
                    shutil.copyfile(source / ADDED, temporary)
            return target
        with own(target, "the cohort", lambda: _check(target, wanted), elsewhere="choose another folder"):
            # Copied into a folder of another name and then renamed: what a kill leaves of that is known, and goes with the next call.
            with atomic_folder(target / COPY) as partial:
                shutil.copytree(source, partial, dirs_exist_ok=True)
            for path in sorted((target / COPY).iterdir()):
                if (target / path.name).is_dir():
                    shutil.rmtree(target / path.name)
                path.replace(target / path.name)
            (target / COPY).rmdir()
            sync(target)
    return target


def _check(target: Path, wanted: dict[str, int]) -> None:
    """Refuses a folder that holds anything but a part of the cohort, which a call that was killed leaves."""
    entries = {path.name for path in target.iterdir() if not path.name.startswith(".")}
    if not (entries <= {Path(name).parts[0] for name in wanted} and _names(target).items() <= wanted.items()):
        raise UserError(str(target), "is there already and is not this cohort", "a new or empty folder", "choose another folder")


def _names(folder: Path) -> dict[str, int]:
    """Relative path and size of every file."""
    paths = (path for path in folder.rglob("*") if not path.relative_to(folder).parts[0].startswith((UNFINISHED, LOCK)))
    return {str(path.relative_to(folder)): path.stat().st_size for path in paths if path.is_file()}
