"""What volumes are asked to be: the same of all of them, and what a table asks of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from volgen.core.cells import says
from volgen.core.errors import UserError
from volgen.core.given import Given
from volgen.core.progress import say
from volgen.data.table import UserTable
from volgen.models.condition import ConditionConfig, asked_for

SHOWN = 5
"""Names that a message lists."""


@dataclass(frozen=True)
class Asked:
    """What is asked for.

    Attributes:
        conditions: those of the run.
        every: values of conditions by name, in words, that every volume is asked for.
        table: what more each volume is asked for, a row each, in order; None if nothing.

    Raises:
        UserError: there is no such condition, or no such value of it; names the line of a table.
    """

    conditions: Sequence[ConditionConfig]
    every: Mapping[str, str]
    table: UserTable | None = None

    def __post_init__(self) -> None:
        asked_for(self.conditions, self.every)
        if self.table is None:
            return
        where, header = str(self.table.path), self.table.header
        if len(set(header)) < len(header):
            raise UserError(where, f"has the columns {', '.join(header)}", "each name once")
        if twice := [name for name in header if name in self.every]:
            raise UserError(where, f"asks for {twice[0]}, and so does --given {twice[0]}={self.every[twice[0]]}", "one of them")
        if not set(header) & self._names:
            expected = f"one of {', '.join(sorted(self._names))}" if self._names else "no table: this run was trained without conditions"
            raise UserError(where, f"has the columns {', '.join(header)[:200] or 'none'}", expected)
        if not self.table.rows:
            raise UserError(where, "has a header and no rows", "a row for each volume")
        for index, (line, _) in enumerate(self.table.rows):
            try:
                asked_for(self.conditions, self.of(index))
            except UserError as error:
                raise UserError(f"{where}, line {line}", f"{error.where.removeprefix('--given ')}: {error.found}") from None

    @classmethod
    def read(cls, conditions: Sequence[ConditionConfig], given: Sequence[str]) -> Asked:
        """Reads ``NAME=VALUE`` for each condition, and at most one table.

        Raises:
            UserError: a word is of another form, names a condition twice, or is a second table.
        """
        every: dict[str, str] = {}
        tables: list[Path] = []
        for word in given:
            name, equals, text = word.partition("=")
            if not equals and word:
                tables.append(Path(word))
            elif not name or name in every:
                raise UserError("--given", f"'{word}'", "NAME=VALUE, each name once, or a table with a row for each volume")
            else:
                every[name] = text
        if len(tables) > 1:
            raise UserError("--given", f"{tables[0]} and {tables[1]}", "one table")
        form = "NAME=VALUE, or a tab-separated table whose columns are conditions, with a row for each volume"
        return cls(conditions, every, UserTable.read(tables[0], form) if tables else None)

    @property
    def _names(self) -> set[str]:
        return {condition.name for condition in self.conditions}

    @property
    def rows(self) -> int | None:
        """Volumes that the table asks for; None without one."""
        return None if self.table is None else len(self.table.rows)

    def count(self, count: int | None, first: int) -> int:
        """How many volumes are drawn: as many as are asked for, or as the table has rows.

        Args:
            count: what ``--count`` says.
            first: index of the first volume, whose row is the one of that index, from 0.

        Raises:
            UserError: nobody says it, or the table has fewer rows.
        """
        if self.rows is None:
            if count is None:
                raise UserError("--count", "is not given", "a number of volumes, or --given TABLE.tsv with a row for each")
            return count
        if first + (count or 1) > self.rows:
            raise UserError("--given", f"the table has {self.rows} rows", f"one for each volume, {first + (count or 1)} of them")
        return self.rows - first if count is None else count

    def of(self, index: int) -> dict[str, str]:
        """What one volume is asked for, in words; what a table does not say is not asked for."""
        if self.table is None:
            return dict(self.every)
        _, row = self.table.rows[index]
        own = {name: cell for name, cell in zip(self.table.header, row, strict=True) if name in self._names and says(cell)}
        return {**self.every, **own}

    def given(self, index: int) -> Given:
        """What the networks are told of one volume (B = 1)."""
        return asked_for(self.conditions, self.of(index))

    @cached_property
    def told(self) -> dict[str, Any]:
        """What a manifest says of it; nothing where nothing is asked for."""
        return {
            **({"given": dict(self.every)} if self.every else {}),
            **({} if self.table is None else {"given_table": self.table.fingerprint}),
        }

    def said(self, index: int) -> dict[str, Any]:
        """What the sidecar of a volume says of it."""
        words = self.of(index)
        return {"given": words} if words else {}

    def say_what_is_passed_over(self) -> None:
        """Says which columns of the table are no conditions."""
        if self.table is not None and (over := [name for name in self.table.header if name not in self._names]):
            more = f" and {len(over) - SHOWN} more" if len(over) > SHOWN else ""
            say(f"{self.table.path}: {', '.join(over[:SHOWN])}{more} passed over: no conditions of the run.")
