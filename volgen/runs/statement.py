"""``statement.json`` and ``statement.html``, wherever they are needed: beside an audit, beside samples, or alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from volgen.core import folder as folders
from volgen.core.files import write_json
from volgen.core.folder import Folder
from volgen.core.manifest import Provenance
from volgen.privacy import cohort_entries
from volgen.privacy.statement import statement
from volgen.reporting import statement_page
from volgen.runs.trained import TrainedRun

AUDIT, CERTIFICATE = "audit.json", "certificate.json"
PAGE = statement_page.NAME
STATEMENT = (statement_page.STATEMENT, PAGE)
FILES = (AUDIT, *STATEMENT)


def write_statement(
    out: Path,
    trained: TrainedRun,
    *,
    audit: Mapping[str, Any] | None = None,
    certificates: Sequence[Mapping[str, Any]] = (),
    cohort_of: Path | None = None,
) -> dict[str, Any]:
    """Writes both files and returns the content of ``statement.json``.

    Args:
        out: the directory.
        trained: whose ledger it is about.
        audit: content of an ``audit.json`` of the run.
        certificates: certificates of scans that it denoised.
        cohort_of: directory of the run that knows its cohort; that of ``trained`` if None.
    """
    ledger = trained.claim
    cohort = None
    if ledger.get("epsilon") is not None:
        cohort = cohort_entries.told(cohort_of or trained.directory, trained.recipe.data.store, ledger)
    halved = trained.recipe.data.half is not None
    content = statement(trained.recipe.name, trained.fingerprint, ledger, audit, certificates, halved=halved, cohort=cohort)
    write_json(out / statement_page.STATEMENT, content)
    statement_page.write_page(out)
    return content


def claim(out: Path, trained: TrainedRun, provenance: Provenance, *commands: str) -> AbstractContextManager[Folder]:
    """Claims a directory that is empty, or holds what one of these commands made of the same run.

    Raises:
        UserError: it holds something else, or another process is writing to it.
    """
    words = " or ".join(commands)

    def differs(before: Mapping[str, Any]) -> str:
        same = before.get("stage") in commands and before.get("inputs", {}).get("run") == trained.fingerprint
        return "" if same else f"holds the output of volgen {before.get('stage')}, or of another run"

    expected = f"a new directory, or the output of volgen {words} on this run"
    what = f"volgen {provenance.command}"
    return folders.claim(out, provenance, what, writes=lambda name: name in FILES, differs=differs, expected=expected, strangers=True)
