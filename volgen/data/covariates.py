"""What a store knows of people beside their scans, such as age and sex: columns of a table, as BIDS has it in ``participants.tsv``.

It is kept in the store's manifest, scan by scan, and is as private as the scans: whoever protects patients protects it with them. What is
not known of somebody is left out, and never filled in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from volgen.core.cells import numeric, says
from volgen.core.errors import UserError, nearest_word
from volgen.core.files import LARGEST_JSON, fingerprint, read_bytes
from volgen.core.manifest import NAME
from volgen.data.record import SubjectRecord
from volgen.data.table import UserTable

KEY = "participants"
"""Key of a store's manifest."""
TABLE = "participants.tsv"
"""Name of the table at the top of a BIDS tree."""
USUAL = ("age", "sex", "group", "site")
"""Columns that are taken where nobody names any."""
KEYS = frozenset({"participant_id", "scan_id", "scan", "patient", "patient_id", "person", "subject", "subject_id", "id"})
MOST_LEVELS = 64
"""Values of a column of words: with more of them it is free text, or says who somebody is."""
YEARS = "year"
SHOWN = 5
"""Names that a message lists."""
FORM = (
    "a tab-separated table (comma-separated if its name ends in .csv) whose header has one column for the person or the scan "
    f"({', '.join(sorted(KEYS))})"
)


@dataclass(frozen=True)
class Column:
    """What a column says.

    Attributes:
        levels: the words that occur, with what they mean if somebody said so, in alphabetical order; None for numbers.
        units: unit of numbers; "" if nobody said.
        description: what it is; "" if nobody said.
        missing: scans of which it is not known.
    """

    levels: Mapping[str, str] | None = None
    units: str = ""
    description: str = ""
    missing: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain mapping for JSON."""
        told = {"kind": "numbers", "units": self.units} if self.levels is None else {"kind": "levels", "levels": dict(self.levels)}
        return {**told, "description": self.description, "missing": self.missing}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Column:
        """Inverse of :meth:`to_dict`.

        Raises:
            KeyError, TypeError, ValueError: the mapping has another form.
        """
        levels = {str(level): str(text) for level, text in content["levels"].items()} if content["kind"] == "levels" else None
        return cls(levels, str(content.get("units", "")), str(content["description"]), int(content["missing"]))

    def __str__(self) -> str:
        said = self.units or "numbers" if self.levels is None else ", ".join(self.levels)
        return f"({said}{f'; not known of {self.missing} scans' if self.missing else ''})"


@dataclass(frozen=True)
class Covariates:
    """What is known of the people of a store.

    Attributes:
        columns: what each column says, by name.
        rows: id of a scan -> column -> what the table has there; what is not known is left out.
        table: SHA-256 of the table that it was read from; "" if there is none.
    """

    columns: Mapping[str, Column] = field(default_factory=dict)
    rows: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    table: str = ""

    @property
    def fingerprint(self) -> str:
        """One number for all that conditions could see of it."""
        return fingerprint([sorted(self.columns), {name: dict(row) for name, row in self.rows.items()}])

    def of(self, record: SubjectRecord) -> SubjectRecord:
        """The record of a scan with what is known of its person."""
        return replace(record, covariates=self.rows.get(record.id, {}))

    def kept(self, records: Iterable[SubjectRecord]) -> Covariates:
        """The same of some scans."""
        rows = {record.id: self.rows[record.id] for record in records if record.id in self.rows}
        return replace(self, rows=rows)

    def to_dict(self) -> dict[str, Any]:
        """What a manifest holds under :data:`KEY`; empty where nothing is known, so that such manifests are what they were."""
        if not self.columns:
            return {}
        columns = {name: column.to_dict() for name, column in self.columns.items()}
        return {KEY: {"table": self.table, "columns": columns, "rows": {name: dict(row) for name, row in self.rows.items()}}}

    @classmethod
    def from_dict(cls, manifest: Mapping[str, Any]) -> Covariates:
        """Those of a store's manifest; none in one that is older than this.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: they have another form.
        """
        content = manifest.get(KEY)
        if content is None:
            return UNKNOWN
        columns = {str(name): Column.from_dict(column) for name, column in content["columns"].items()}
        rows = {str(name): {str(key): str(text) for key, text in row.items()} for name, row in content["rows"].items()}
        if any(not set(row) <= set(columns) for row in rows.values()):
            raise ValueError("a row has a column that there is not")
        return cls(columns, rows, str(content["table"]))

    @classmethod
    def before(cls, folder: Path) -> Covariates:
        """Those of the manifest of a folder that is written anew: none if there is none, or it is damaged."""
        try:
            return cls.from_dict(json.loads(read_bytes(folder / NAME, limit=LARGEST_JSON)))
        except (AttributeError, OSError, ValueError, KeyError, TypeError):
            return UNKNOWN

    @classmethod
    def read(cls, path: Path, records: Sequence[SubjectRecord], names: Sequence[str] = ()) -> Covariates:
        """Reads a table, and the ``.json`` beside it if there is one, which says units, levels and descriptions as BIDS has them.

        Args:
            path: the table.
            records: the scans of the store; rows of people who are not among them are passed over.
            names: columns to take; those of :data:`USUAL` that there are if empty.

        Raises:
            UserError: it cannot be read, lacks a column, names none of the people, says two things of one, or has words where nobody can
                tell what they mean.
        """
        table = UserTable.read(path, FORM)
        places = [place for place in table.places(KEYS) if table.header[place] not in names]
        told = [place for place in places if table.header[place].lower() == "participant_id"] or places
        if len(told) != 1:
            raise UserError(str(path), f"has the columns {', '.join(table.header)[:200] or 'none'}", FORM)
        columns = {table.header[place]: place for place in _columns(table, names, told[0])}
        found: dict[str, tuple[str, ...]] = {}
        for line, row in table.rows:
            key, cells = row[told[0]], tuple(row[place] for place in columns.values())
            if (before := found.setdefault(key, cells)) != cells:
                name = next(name for name, one, other in zip(columns, before, cells, strict=True) if one != other)
                do = "give each scan a row of its own, by the ids that the store's manifest has"
                raise UserError(f"{path}, line {line}", f"says of somebody another '{name}' than a line before it", "one row each", do)
        rows = {}
        for record in records:
            called = next((name for name in _names(record) if name in found), None)
            if called is not None:
                told_of = dict(zip(columns, found[called], strict=True))
                rows[record.id] = {column: cell for column, cell in told_of.items() if says(cell)}
        if not rows:
            do = "name people as the store's manifest does (sub-<label>), or scans by their ids"
            raise UserError(str(path), "names nobody of the store", "its people", do)
        sidecar = _sidecar(path.with_suffix(".json"))
        described = {name: _column(path, name, [row.get(name, "") for row in rows.values()], sidecar.get(name)) for name in columns}
        absent = len(records) - len(rows)
        described = {name: replace(column, missing=column.missing + absent) for name, column in described.items()}
        return cls(described, rows, table.fingerprint)


UNKNOWN = Covariates()
"""Nothing is known of anybody."""


def _columns(table: UserTable, names: Sequence[str], key: int) -> list[int]:
    """Numbers of the columns that are taken."""
    repeated = [name for place, name in enumerate(table.header) if place != key and name in table.header[:place]]
    if repeated:
        raise UserError(str(table.path), f"has two columns '{repeated[0]}'", "each name once")
    if unknown := [name for name in names if name not in table.header]:
        raise UserError(str(table.path), f"has no column '{unknown[0]}'", "a column of its header", nearest_word(unknown[0], table.header))
    taken = [place for place, name in enumerate(table.header) if place != key and (name in names if names else name.lower() in USUAL)]
    if not taken:
        do = "name those that the store is to hold: --column NAME"
        raise UserError(str(table.path), f"has the columns {', '.join(table.header)[:200]}", f"one of {', '.join(USUAL)}", do)
    if odd := next((table.header[place] for place in taken if "=" in table.header[place] or not table.header[place].isprintable()), ""):
        raise UserError(str(table.path), f"has a column '{odd}'", "a name without '=' and control characters")
    return taken


def _names(record: SubjectRecord) -> tuple[str, ...]:
    """What a row may call a scan: its id first, then its person."""
    person = record.patient
    return record.id, person, person.removeprefix("sub-"), f"sub-{person}"


def _sidecar(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(read_bytes(path, limit=LARGEST_JSON, follow=True))
    except (OSError, ValueError) as error:
        raise UserError(str(path), f"cannot be read ({error})", "JSON that describes the columns of the table beside it") from None
    return {name: about for name, about in content.items() if isinstance(about, dict)} if isinstance(content, dict) else {}


def _column(path: Path, name: str, cells: Sequence[str], about: Mapping[str, Any] | None) -> Column:
    """What a column says, from what it holds and what a sidecar says of it."""
    said = about or {}
    told = [cell for cell in cells if cell]
    missing, description = len(cells) - len(told), str(said.get("Description", ""))
    meanings = said.get("Levels")
    if not isinstance(meanings, Mapping) and all(numeric(cell) is not None for cell in told):
        return Column(None, str(said.get("Units", "")) or (YEARS if name.lower() == "age" else ""), description, missing)
    meanings = meanings if isinstance(meanings, Mapping) else {}
    levels = sorted(set(told) | {str(level) for level in meanings if says(str(level))})
    if len(levels) > MOST_LEVELS:
        expected = f"numbers, or at most {MOST_LEVELS} different words"
        do = "leave it out: name others with --column"
        raise UserError(f"{path}, column '{name}'", f"has {len(levels)} different values", expected, do)
    return Column({level: _text(meanings.get(level, "")) for level in levels}, "", description, missing)


def _text(meaning: Any) -> str:
    return str(meaning.get("Description", "")) if isinstance(meaning, Mapping) else str(meaning)
