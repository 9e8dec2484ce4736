"""``volgen bench``: runs a benchmark, prints its table, writes its file and holds it against an earlier one.

A benchmark is a folder in ``volgen/bench`` with a docstring whose first line says what is measured, a ``Config`` whose fields become
options, ``run(config) -> list[Row]``, and, if the common table does not suit it, ``table(rows) -> str``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import volgen
from volgen.commands.bench import gate, result
from volgen.commands.bench.machine import machine
from volgen.core.config import Config
from volgen.core.errors import UserError
from volgen.core.files import write_json
from volgen.core.manifest import git_revision
from volgen.core.registry import module


def bench(name: str, config: Config, *, out: Path | None = None, against: Path | None = None, margin: float = gate.MARGIN) -> bool:
    """Runs a benchmark.

    Args:
        name: name of the benchmark.
        config: its own options.
        out: file for the figures.
        against: file of an earlier run, whose ratios must not be better by more than the margin.
        margin: in [0, 1).

    Returns:
        Whether no ratio fell behind; true where nothing is compared.

    Raises:
        UserError: what the benchmark says of its inputs, or a file that cannot be used.
    """
    found = module(result.PACKAGE, name)
    if out is not None and out.is_dir():  # said before the work, not after it
        raise UserError("--out", f"{out} is a folder", "a file", "such as --out FILE.json")
    reference = None if against is None else gate.read_reference(against, name, _settings(config))
    rows = found.run(config)
    print(getattr(found, "table", result.table)(rows))
    if out is not None:
        write_json(out, content(name, config, rows, machine()))
    if reference is None:
        return True
    worse = gate.regressions(rows, reference, margin)
    gated = sum(len(row.ratio_to) for row in reference)
    print("\n".join([f"\n{len(worse)} of {gated} ratios are worse than the reference's by more than {margin:.0%}", *worse]))
    return not worse


def content(name: str, config: Config, rows: Sequence[result.Row], machine: Mapping[str, Any]) -> dict[str, Any]:
    """What the file holds: no folder, host or user name in it."""
    return {
        "benchmark": name,
        "volgen_version": volgen.__version__,
        "git_revision": git_revision(),
        "settings": _settings(config),
        "machine": dict(machine),
        "rows": [row.to_json() for row in rows],
    }


def _settings(config: Config) -> dict[str, Any]:
    return {key: _nameless(value) for key, value in config}


def _nameless(value: Any) -> Any:
    if isinstance(value, Path):
        return value.name
    return [_nameless(part) for part in value] if isinstance(value, tuple) else value
