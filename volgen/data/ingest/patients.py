"""A table of the user's that says whose each scan is, where names do not: ``volgen ingest --patients table.tsv``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from volgen.core.errors import UserError
from volgen.data.people import Person
from volgen.data.table import UserTable
from volgen.images.nifti import stem

SCANS = ("file", "filename", "path", "scan", "scan_id", "id", "participant_id")
PATIENTS = ("patient", "patient_id", "person", "person_id", "subject", "subject_id")
SHOWN = 5
"""Names that a message lists."""
LONGEST = 200
"""Letters of a header that a message shows."""
FORM = (
    "a tab-separated table (comma-separated if its name ends in .csv) whose header has "
    f"a column for the scan ({', '.join(SCANS)}) and one for the patient ({', '.join(PATIENTS)})"
)


@dataclass(frozen=True)
class PatientTable:
    """Whose each scan is.

    Attributes:
        path: the table, for messages.
        rows: patient of each file (path inside the source, file name, or file name without its suffix) or ``sub-<label>``.
        fingerprint: SHA-256 of the table.
    """

    path: Path
    rows: Mapping[str, str]
    fingerprint: str

    @classmethod
    def read(cls, path: Path) -> PatientTable:
        """Reads a table, tab-separated, or comma-separated if its name ends in ``.csv``.

        Raises:
            UserError: it cannot be read, lacks a column or a value, or gives a scan two patients.
        """
        table = UserTable.read(path, FORM)
        columns = [table.places(frozenset(wanted)) for wanted in (SCANS, PATIENTS)]
        if not all(len(found) == 1 for found in columns):
            raise UserError(str(path), f"has the columns {', '.join(table.header).lower()[:LONGEST] or 'none'}", FORM)
        (scan,), (patient,) = columns
        rows: dict[str, str] = {}
        for number, row in table.rows:
            cells = row[scan], row[patient]
            if not all(cells) or cells[1].lower() == "n/a":
                raise UserError(f"{path}, line {number}", "lacks the scan or the patient", FORM)
            if (before := rows.setdefault(*cells)) != cells[1]:
                raise UserError(f"{path}, line {number}", f"gives {cells[0]} to {cells[1]}, and a line before it to {before}", FORM)
        return cls(path, rows, table.fingerprint)

    def people(self, relative: Sequence[str], people: Sequence[Person]) -> list[Person]:
        """The people with the names that the table gives them; others stay as they are.

        Args:
            relative: path of each image inside the source.
            people: whose they are by their names.

        Raises:
            UserError: an image that two rows give to two patients, or a row that names no image.
        """
        used: set[str] = set()
        result = []
        for inside, person in zip(relative, people, strict=True):
            name = Path(inside)
            keys = [key for key in dict.fromkeys((inside, name.name, stem(name), person.name)) if key in self.rows]
            used.update(keys)
            patients = sorted({self.rows[key] for key in keys})
            if len(patients) > 1:
                raise UserError(str(self.path), f"gives {inside} to {' and to '.join(patients)}", "one patient for each scan")
            result.append(replace(person, name=patients[0], told_by="table") if patients else person)
        self._refuse("names what the source does not hold:", [key for key in self.rows if key not in used])
        return result

    def check(self, unnamed: Sequence[str]) -> None:
        """Refuses scans that no row names.

        Raises:
            UserError: there are some.
        """
        self._refuse("does not name", unnamed)

    def _refuse(self, found: str, names: Sequence[str]) -> None:
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            raise UserError(str(self.path), f"{found} {', '.join(names[:SHOWN])}{more}", "every scan of the source, and nothing else")
