"""What killed processes leave in the directory of a run: files half-written, and checkpoints of networks that are finished.

A half-written fit for training could give away single people (:data:`FOR_TRAINING`), so none may stay in a run that is passed on.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from volgen.core.files import sweep, unfinished
from volgen.core.folder import LOCK
from volgen.core.lock import Lock
from volgen.core.progress import say
from volgen.core.run_files import FOR_TRAINING
from volgen.runs.paths import Paths
from volgen.training import checkpoint


def tidy(run: Path, *, quiet: bool = False) -> None:
    """Removes leftovers from a run in which nobody trains any more, and says so; what cannot be removed is named.

    Args:
        run: a finished run, or one that its last job is about to mark as finished.
        quiet: say only what cannot be removed.
    """
    before = set(leftovers(run))
    if not before:
        return
    with suppress(OSError):  # a run that may only be read
        sweep(run, alone=True)
        (run / FOR_TRAINING).unlink(missing_ok=True)
        for phase in Paths(run).folders():
            checkpoint.remove(phase)
            if (phase / LOCK).exists() and (lock := Lock.take(phase / LOCK)):
                lock.release(remove=True)
    after = [path for path in leftovers(run) if path in before]
    if after:
        names = ", ".join(path.relative_to(run).as_posix() for path in after[:3])
        say(
            f"warning: {run} holds what a killed process left ({names}) and this one may not remove. It could give away single people: "
            "delete it before anybody gets this run"
        )
    elif not quiet:
        say(f"{run}: removed what a killed process had left ({len(before)} files and folders)")


def leftovers(run: Path) -> list[Path]:
    """Paths of leftovers in a finished run, sorted."""
    folders = [run, *Paths(run).folders()]
    found = [path for folder in folders for path in folder.iterdir() if unfinished(path.name) or checkpoint.of_training(path.name)]
    if (run / FOR_TRAINING).exists():
        found.append(run / FOR_TRAINING)
    return sorted(found)
