"""Tables of a user: tab-separated, or comma-separated if the name ends in ``.csv``; a header, then rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from volgen.core.errors import UserError
from volgen.core.files import sha256

LARGEST = 1 << 26
"""Bytes of a table."""


@dataclass(frozen=True)
class UserTable:
    """What a file says.

    Attributes:
        path: the file, for messages.
        header: names of the columns, without spaces around them.
        rows: number of the line and its cells, as many as the header has; lines without any are left out.
        fingerprint: SHA-256 of the file.
    """

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    fingerprint: str

    @classmethod
    def read(cls, path: Path, form: str) -> UserTable:
        """Reads a file.

        Args:
            path: where it is.
            form: what it should be, for messages.

        Raises:
            UserError: it cannot be read, or is too large.
        """
        try:
            if path.stat().st_size > LARGEST:
                raise UserError(str(path), f"has {path.stat().st_size} bytes", f"a table of at most {LARGEST}")
            text = path.read_text(encoding="utf-8-sig")
            lines = list(csv.reader(text.splitlines(), delimiter="," if path.name.lower().endswith(".csv") else "\t", strict=True))
        except FileNotFoundError:
            raise UserError(str(path), "there is no such file", form) from None
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(str(path), f"cannot be read as a table ({error})", form) from None
        header = tuple(cell.strip() for cell in lines[0]) if lines else ()
        return cls(path, header, tuple(_rows(lines[1:], len(header))), sha256(path, follow=True))

    def places(self, names: frozenset[str]) -> list[int]:
        """Numbers of the columns that have one of these names, which are in lower case."""
        return [place for place, name in enumerate(self.header) if name.lower() in names]


def _rows(lines: list[list[str]], width: int) -> Iterator[tuple[int, tuple[str, ...]]]:
    for number, line in enumerate(lines, 2):
        if any(cell.strip() for cell in line):
            yield number, tuple(line[place].strip() if place < len(line) else "" for place in range(width))
