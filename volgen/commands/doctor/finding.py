"""What ``volgen doctor`` says of one thing that it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "note", "missing"]


@dataclass(frozen=True)
class Finding:
    """One line of the answer.

    Attributes:
        name: what was looked at.
        state: ``ok``; ``note``: worth knowing, nothing that was asked for depends on it; ``missing``.
        found: what was found.
        do: what to do about it, empty if nothing.
    """

    name: str
    state: Severity
    found: str
    do: str = ""
