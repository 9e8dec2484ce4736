"""Measure a part of volgen beside the alternatives."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field

from volgen.commands.bench.gate import MARGIN
from volgen.commands.bench.result import PACKAGE
from volgen.core import registry
from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Chosen, Nested, Option


def _config(name: str) -> type[BaseConfig]:
    found: type[BaseConfig] = registry.module(PACKAGE, name).Config
    return found


class Config(BaseConfig):
    """What is measured, and what becomes of it."""

    benchmark: Annotated[Chosen | None, Nested("NAME", "benchmarks", partial(registry.titles, PACKAGE), _config)] = None
    """What to measure (default: list them)."""
    out: Annotated[Path | None, Option("FILE.json")] = None
    """File for the figures (default: they are only printed)."""
    against: Annotated[Path | None, Option("FILE.json")] = None
    """File of --out of an earlier run: exit with 1 if a ratio fell behind it."""
    margin: Annotated[float, Option("SHARE"), Field(ge=0.0, lt=1.0)] = MARGIN
    """Part of a ratio that may be lost, with --against."""


def run(config: Config) -> Answer[None]:
    """Measures, or lists what can be measured; passed if no ratio fell behind that of ``--against``."""
    if config.benchmark is None:
        names = registry.titles(PACKAGE)
        width = max(map(len, names))
        print("\n".join(f"{name:<{width}}  {title}" for name, title in names.items()))
        return Answer(None)
    from volgen.commands.bench.bench import bench

    name, settings = config.benchmark
    return Answer(None, passed=bench(name, settings, out=config.out, against=config.against, margin=config.margin))
