"""Settings of a reconstruction in a file: what ``volgen tune`` writes, and ``volgen reconstruct --settings`` takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import PositiveInt, model_validator

from volgen.core.config import Config, read_yaml, validate


class Settings(Config):
    """How volumes are drawn from measurements."""

    guidance: dict[str, Any] | None = None
    """Configuration of a guidance, with its ``kind``."""
    sampler: dict[str, Any] | None = None
    """Configuration of a solver, with its ``kind``."""
    steps: PositiveInt | None = None
    """Points of the run's noise grid to visit."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        for name, section in (("guidance", self.guidance), ("sampler", self.sampler)):
            if section is not None and not isinstance(section.get("kind"), str):
                raise ValueError(f"{name} has no kind")
        return self


def read_settings(path: Path) -> Settings:
    """Settings of a file.

    Raises:
        UserError: it cannot be read, or has other keys.
    """
    return validate(Settings, read_yaml(path), str(path))


def joined(asked: str | Mapping[str, Any] | None, filed: Mapping[str, Any] | None) -> str | Mapping[str, Any] | None:
    """A section as it was asked for, and what a file says of it: where both are of one kind, keys that were asked for win."""
    if asked is None or filed is None:
        return filed if asked is None else asked
    content = {"kind": asked} if isinstance(asked, str) else dict(asked)
    return {**filed, **content} if content.setdefault("kind", filed["kind"]) == filed["kind"] else content
