"""``privacy_ledger.json`` for whoever reads it: what a run claims, and whether a claim of an older volgen still counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from volgen.core.files import read_json
from volgen.core.rounding import upper
from volgen.core.run_files import LEDGER

VERSION = 2
"""Version of the mechanism that a ledger counts. A ledger of volgen 0.1.0 has none, and counts as 1."""
RANDOMNESS = "by patient, from a secret of the launch"
"""Where all that is random about a patient's part of a step comes from, since version 2."""
FAULT = (
    "what a patient added to a step depended on who else was in the cohort, so that leaving one patient out moved the sum by more than"
    " the ledger counts"
)
"""What is wrong with version 1."""


def version_of(content: Mapping[str, Any]) -> object:
    """The version of a ledger or of a journal's first line."""
    return content.get("version", 1)


def outdated(version: object) -> str:
    """Why a claim of some version does not count; "" if it does."""
    if version == VERSION:
        return ""
    if version == 1:
        return f"was made by volgen 0.1.0 and is void: {FAULT}"
    return f"is of version {version}, which this volgen cannot judge (it knows {VERSION})"


def checked(ledger: Mapping[str, Any]) -> dict[str, Any]:
    """A ledger whose claim counts, as it is; any other one as that of a run without a guarantee, with the reason in ``why``.

    What was claimed is then in ``void``.
    """
    reason = "" if ledger.get("epsilon") is None else outdated(version_of(ledger))
    if not reason:
        return dict(ledger)
    claim = {"epsilon": ledger["epsilon"], "delta": ledger.get("delta")}
    why = f"the ledger, which claims ({_text(claim['epsilon'], 3)}, {_text(claim['delta'], 2)}), {reason}"
    return {**ledger, "epsilon": None, "delta": None, "why": why, "void": claim}


def read(directory: Path) -> dict[str, Any]:
    """The ledger of a run, as :func:`checked`.

    Raises:
        UserError: there is none, or it is no JSON object.
    """
    return checked(read_json(directory / LEDGER, "the privacy ledger of a trained run"))


def _text(value: object, digits: int) -> str:
    return upper(value, digits) if isinstance(value, int | float) else "?"
