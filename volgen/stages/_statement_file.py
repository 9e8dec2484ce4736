"""``statement.json`` and ``statement.html``, wherever they are needed: beside an audit, beside samples, or alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from volgen.core import ledger as ledgers
from volgen.core import manifest
from volgen.core.errors import UserError
from volgen.core.files import read_json, write_json
from volgen.privacy._statement import statement
from volgen.report import statement_page
from volgen.stages._trained_run import TrainedRun

AUDIT = "audit.json"
PAGE = statement_page.NAME


def write_statement(
    out: Path, trained: TrainedRun, *, audit: Mapping[str, Any] | None = None, certificates: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Writes both files and returns the content of ``statement.json``.

    Args:
        out: the directory.
        trained: whose ledger it is about.
        audit: content of an ``audit.json`` of the run.
        certificates: of scans that it denoised.
    """
    ledger = ledgers.read(trained.directory)
    content = statement(trained.recipe.name, trained.fingerprint, ledger, audit, certificates, halved=trained.recipe.data.half is not None)
    write_json(out / statement_page.STATEMENT, content)
    statement_page.write_page(out)
    return content


def claim(out: Path, trained: TrainedRun, *stages: str) -> bool:
    """Makes a directory, or checks that it holds what one of these stages made of the same run.

    Returns:
        Whether there was something already.

    Raises:
        UserError: it holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        out.mkdir(parents=True, exist_ok=True)
        return False
    words = " or ".join(stages)
    if not out.is_dir() or not (out / manifest.NAME).is_file():
        raise UserError(str(out), "holds other files", f"a new directory, or the output of volgen {words}", "choose another --out")
    before = read_json(out / manifest.NAME, "the manifest of a directory")
    if before.get("stage") not in stages or before.get("inputs", {}).get("run") != trained.fingerprint:
        found = f"holds the output of volgen {before.get('stage')}, or of another run"
        raise UserError(str(out), found, f"a new directory, or the output of volgen {words} on this run", "choose another --out")
    return True
