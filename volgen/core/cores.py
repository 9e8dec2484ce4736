"""How many cores this process may use: a scheduler gives fewer than the machine has."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores that this process may run on; all of the machine's where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
