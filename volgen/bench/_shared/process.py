"""A Python process of its own, and what it took."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from resource import struct_rusage
from typing import IO


def counted(arguments: Sequence[str], out: IO[str], errors: IO[str]) -> tuple[int, struct_rusage]:
    """Runs Python with these arguments; returns its exit code (negative: the signal that ended it) and the resources that it used.

    Its threads sleep while they wait: they would burn processor seconds when something else has their core.
    """
    process = subprocess.Popen([sys.executable, *arguments], stdout=out, stderr=errors, env=os.environ | {"OMP_WAIT_POLICY": "passive"})
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, used


def processor_seconds(used: struct_rusage) -> float:
    """User and system time."""
    return used.ru_utime + used.ru_stime
