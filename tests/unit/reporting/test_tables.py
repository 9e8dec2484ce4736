"""Tables of a report, as spreadsheets and the page read them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from volgen.reporting.page import read_slices
from volgen.reporting.tables import SLICES, VOLUMES, as_given, write_slices, write_volumes

NAMES = ["=HYPERLINK(0)", "+1", "-sub", "@SUM(A1)", "\ttab", "\rreturn", "'quoted", "'=both", "plain", "sub-01"]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_is_a_formula_and_numbers_stay(name: str, tmp_path: Path) -> None:
    write_volumes(tmp_path, [{"name": name, "verdict": "pass", "score": -1.5, "findings": [], "metrics": {"tv": {"S": -0.25}}}])
    write_slices(tmp_path, [{"name": name, "axis": "S", "slice": 3, "tv": -2.0}])
    for table in (VOLUMES, SLICES):
        with (tmp_path / table).open(newline="") as stream:
            (row,) = csv.DictReader(stream)
        assert not row["name"].startswith(("=", "+", "-", "@", "\t", "\r")) and as_given(row["name"]) == name
        assert row.get("tv_S", "-0.25") == "-0.25" and row.get("tv", "-2") == "-2"
    assert list(read_slices(tmp_path / SLICES)) == [name], "the page finds a volume's slices by its name"
