"""The sample cohort: real brains inside the package, so that every command can be tried at once.

What it is, who made it and under which licence: ``bids/README.md``.
"""

from __future__ import annotations

import shutil
from importlib.resources import as_file, files
from pathlib import Path

from volgen.core.errors import UserError
from volgen.core.files import atomic_path

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
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UserError(str(target), "is there already and is not this cohort", "a new or empty folder", "choose another folder")
        # Copied beside the target and then renamed: a folder of this name is always whole.
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            shutil.copytree(source, partial)
            partial.replace(target)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise UserError(str(target), f"cannot be written ({error.strerror})", "a writable folder") from None
    return target


def _names(folder: Path) -> dict[str, int]:
    """Relative path and size of every file."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
