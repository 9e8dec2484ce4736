"""Which machine a process is on, as far as process numbers go: on another one, or in another container, they mean somebody else."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

import psutil

BOOT = Path("/proc/sys/kernel/random/boot_id")
PROCESS_NUMBERS = Path("/proc/self/ns/pid")
SECONDS_APART = 2.0
"""How far two readings of when a process began may be apart: the kernel tells the moment of booting in whole seconds."""


def identity() -> str:
    """The same text for all processes that share process numbers, and for no others.

    On Linux the id of this boot of the kernel and the namespace of process numbers: a container may have its machine's host name,
    two may share one, and a machine may have several. Elsewhere, or without ``/proc``, the host name.
    """
    try:
        return f"{BOOT.read_text(encoding='ascii').strip()} {PROCESS_NUMBERS.readlink()}"
    except OSError:
        return socket.gethostname()


def began() -> float:
    """When this process began, in seconds since 1970."""
    return float(psutil.Process().create_time())


def process(number: int, began: float) -> psutil.Process | None:
    """The process of this machine with a number, if it began then; else it is another one (machines restored from one image are alike)."""
    with suppress(psutil.Error):
        found = psutil.Process(number)
        if abs(found.create_time() - began) <= SECONDS_APART:
            return found
    return None
