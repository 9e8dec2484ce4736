"""``volgen statement``: a run's ledger, its audit and certificates in, one page for a privacy reviewer out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from volgen.core import manifest
from volgen.core.errors import UserError
from volgen.core.files import read_json, sha256
from volgen.core.progress import say
from volgen.runs.statement import AUDIT, CERTIFICATE, PAGE, STATEMENT, claim, write_statement
from volgen.runs.trained import open_run

AUDITED = {"people", "membership", "epsilon", "nearest", "twins", "findings", "refuted", "verdict", "run_fingerprint"}
CERTIFIED = {"unit", "neighbouring", "epsilon", "delta", "sigma", "mu", "d", "sensitivity", "vacuous", "meaning", "denoiser", "covers",
             "not_covered", "composition"}  # fmt: skip


def statement(run: Path, out: Path, *, audit: Path | None = None, certificate: Sequence[Path] = ()) -> Path:
    """Writes ``statement.html`` and ``statement.json``.

    Args:
        run: directory that ``volgen train`` made.
        out: a new directory, an earlier statement of the run, or a folder of its samples, whose statement is then replaced.
        audit: directory that ``volgen audit`` made of the run.
        certificate: directories that ``volgen anonymise`` made with the run.

    Returns:
        The page.

    Raises:
        UserError: the files are not of this run, or damaged.
    """
    trained = open_run(run)
    audited = None if audit is None else read_json(audit / AUDIT, "the findings of volgen audit", lambda content: _has(content, AUDITED))
    if audited and audited["run_fingerprint"] != trained.fingerprint:
        raise UserError(str(audit), "is the audit of another run", f"an audit of {trained.recipe.name}")
    paths = [path / CERTIFICATE for path in certificate]
    certificates = [read_json(path, "a certificate of volgen anonymise", lambda content: _has(content, CERTIFIED)) for path in paths]
    for path, content in zip(paths, certificates, strict=True):
        if not isinstance(content["denoiser"], dict) or content["denoiser"].get("run_fingerprint") != trained.fingerprint:
            raise UserError(str(path), "is of a scan that another run denoised", f"a certificate with {trained.recipe.name}")
    inputs = {
        "run": trained.fingerprint,
        "audit": sha256(audit / AUDIT) if audit else None,
        "certificates": [sha256(path) for path in paths],
    }
    provenance = manifest.Provenance("statement", {}, inputs, measured=trained.recipe.privacy.measured)
    with claim(out, trained, provenance, "statement", "sample") as folder:
        beside_samples = folder.before is not None and folder.before.get("stage") == "sample"
        if not beside_samples:
            folder.begin()
        try:
            content = write_statement(out, trained, audit=audited, certificates=certificates)
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            found = f"has another form ({error!r})"
            raise UserError("the ledger, audit or certificate", found, "files that volgen wrote", "make them again") from None
        if beside_samples:
            folder.amend(STATEMENT)
        else:
            folder.finish(run_name=trained.recipe.name)
    say(f"{out / PAGE}: {content['headline']}")
    return out / PAGE


def _has(content: object, keys: set[str]) -> bool:
    return isinstance(content, dict) and keys <= content.keys()
