"""Tells a launch script that this job gets somewhere, so that one that is preempted is not taken for one that only fails."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

FAILURES = "VOLGEN_FAILURES"
"""Variable with the path of a file in which a launch script counts the job's ends since it last saved something."""


def saved() -> None:
    """A checkpoint, or a finished network, is on the disk: what went wrong before does not count any longer.

    Deletes the file; that it cannot is no reason to end training. For rank 0.
    """
    if path := os.environ.get(FAILURES):
        with suppress(OSError):
            Path(path).unlink(missing_ok=True)
