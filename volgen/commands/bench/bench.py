"""``volgen bench``: the folder is the registry, so every folder in ``volgen/bench`` without an underscore is a benchmark.

A benchmark has a docstring whose first line says what is measured, a ``Config`` whose fields become options,
``run(config) -> list[Row]``, and, if the common table does not suit it, ``table(rows) -> str``.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import volgen
from volgen.commands.bench import gate, result
from volgen.core.config import Config
from volgen.core.errors import UserError
from volgen.core.exit_codes import CHECK_FAILED, DONE
from volgen.core.files import write_json
from volgen.core.manifest import git_revision
from volgen.core.options import Parser, add_options, from_options
from volgen.core.registry import kinds, module

PACKAGE = "volgen.bench"


def titles() -> dict[str, str]:
    """Name and first line of every benchmark. Files are read, not imported: some import a lot."""
    folder = Path(volgen.__file__).parent / "bench"
    files = {name: folder / name / "__init__.py" for name in kinds(PACKAGE)}
    documentation = {name: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) for name, file in files.items()}
    return {name: (text or "").partition("\n")[0].rstrip(".") for name, text in documentation.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-parser for each benchmark; its options are added when it is asked for."""
    benchmarks = parser.add_subparsers(
        dest="benchmark", metavar="NAME", title="benchmarks", parser_class=Parser, help="what to measure (default: list them)"
    )
    for name, title in titles().items():
        sub = benchmarks.add_parser(name, help=title, description=title, allow_abbrev=False)
        sub.late = partial(_add_options, name=name)


def run(options: argparse.Namespace) -> int:
    """Runs a benchmark, prints its table and writes its file; lists all of them if none is named.

    Returns:
        The exit code: 1 if a ratio is worse than that of ``--against`` by more than the margin.

    Raises:
        UserError: an option that the benchmark refuses, or what it says of its inputs.
    """
    if options.benchmark is None:
        names = titles()
        width = max(map(len, names))
        print("\n".join(f"{name:<{width}}  {title}" for name, title in names.items()))
        return DONE
    found = module(PACKAGE, options.benchmark)
    if options.out is not None and options.out.is_dir():  # said before the work, not after it
        raise UserError("--out", f"{options.out} is a folder", "a file", "such as --out FILE.json")
    config = from_options(found.Config, options, f"volgen bench {options.benchmark}")
    reference = None if options.against is None else gate.read_reference(options.against, options.benchmark, _settings(config))
    rows = found.run(config)
    print(getattr(found, "table", result.table)(rows))
    if options.out is not None:
        from volgen.commands.bench.machine import machine  # asks torch, which the list of benchmarks need not wait for

        write_json(options.out, content(options.benchmark, config, rows, machine()))
    if reference is None:
        return DONE
    worse = gate.regressions(rows, reference, options.margin)
    gated = sum(len(row.ratio_to) for row in reference)
    print("\n".join([f"\n{len(worse)} of {gated} ratios are worse than the reference's by more than {options.margin:.0%}", *worse]))
    return CHECK_FAILED if worse else DONE


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


def _add_options(parser: argparse.ArgumentParser, name: str) -> None:
    add_options(parser, module(PACKAGE, name).Config)
    parser.add_argument("--out", metavar="FILE.json", type=Path, help="file for the figures (default: they are only printed)")
    against = "file of --out of an earlier run: exit with 1 if a ratio fell behind it"
    parser.add_argument("--against", metavar="FILE.json", type=Path, help=against)
    margin = "with --against: part of a ratio that may be lost (default: %(default)s)"
    parser.add_argument("--margin", metavar="SHARE", type=_share, default=gate.MARGIN, help=margin)
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def _settings(config: Config) -> dict[str, Any]:
    return {key: _nameless(value) for key, value in config}


def _nameless(value: Any) -> Any:
    if isinstance(value, Path):
        return value.name
    return [_nameless(part) for part in value] if isinstance(value, tuple) else value
