"""What conditions share that are told from a column of a store's table of people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from volgen.core.cells import says
from volgen.models.condition import ConditionConfig

NAME = r"^[A-Za-z0-9_][A-Za-z0-9_ -]*$"
"""Columns that can be a condition: what a command line and a YAML file take without quotes, but for blanks."""


class ColumnConfig(ConditionConfig):
    """A condition whose name is that of a column."""

    column: str = Field(pattern=NAME)
    """Column of the store's table of people (``volgen ingest --participants``); also what the condition is called."""

    @property
    def name(self) -> str:
        """The name of the condition is that of its column."""
        return self.column

    @property
    def covariate(self) -> str:
        """The covariate that the condition is about is its column."""
        return self.column

    def cell(self, about: Mapping[str, Any]) -> str:
        """What the table says of a scan; "" where nothing is known."""
        return str(about.get("covariates", {}).get(self.column, ""))


def asked(text: str) -> str:
    """What somebody asks for, "" if that is not to be told: ``n/a``, as tables have it."""
    return text.strip() if says(text) else ""
