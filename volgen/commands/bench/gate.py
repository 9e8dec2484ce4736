"""A regression gate: the ratios of an earlier run of a benchmark, and how far those of this run may fall behind them.

Ratios, not times: the machine that checks a change is not the one that wrote the reference. A row is gated if it says what is better
(:attr:`volgen.commands.bench.result.Row.better`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from volgen.commands.bench.result import Row
from volgen.core.errors import UserError
from volgen.core.files import read_json

MARGIN = 0.4
"""A part of a ratio that may be lost before it is called a regression: two runs on a busy machine differ by a fifth."""


def read_reference(path: Path, benchmark: str, settings: Mapping[str, Any]) -> list[Row]:
    """The gated rows of a file that ``volgen bench NAME --out`` wrote with the same settings.

    Raises:
        UserError: no such file, of another benchmark or other settings, or without a gated row.
    """
    expected = f"a file that `volgen bench {benchmark} --out` wrote"
    content = read_json(path, expected, follow=True)
    if content.get("benchmark") != benchmark:
        raise UserError(str(path), f"is of benchmark '{content.get('benchmark')}'", expected)
    before = content.get("settings")
    if not isinstance(before, dict):
        raise UserError(str(path), "holds no settings", expected)
    odd = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
    if odd:
        found = ", ".join(f"{key} is {before.get(key)} there and {settings.get(key)} here" for key in odd)
        raise UserError(str(path), f"was made with other settings: {found}", "the same settings", "ratios are compared like with like")
    try:
        rows = [
            Row(r["name"], float(r["value"]), r["unit"], dict(r["ratio_to"]), better=r["better"]) for r in content["rows"] if "better" in r
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(str(path), f"its rows have another form ({error!r})", expected) from None
    if not any(row.ratio_to for row in rows):
        raise UserError(str(path), "holds no ratio that says what is better", expected)
    return rows


def regressions(rows: Sequence[Row], reference: Sequence[Row], margin: float) -> list[str]:
    """One line for each gated ratio that is worse than the reference's by more than the margin, or is gone.

    Args:
        rows: what this run measured.
        reference: gated rows of the earlier one.
        margin: in [0, 1). A ratio of which more is better may fall to ``1 - margin`` of the reference; one of which less is better may
            rise to ``1 / (1 - margin)`` of it.
    """
    now = {row.name: row for row in rows}
    lines = []
    for before in reference:
        for other, ratio in before.ratio_to.items():
            found = now[before.name].ratio_to.get(other) if before.name in now else None
            where = f"{before.name} / {other}"
            if found is None:
                lines.append(f"{where}: is not measured any more, was {ratio:.3g}")
                continue
            worst = ratio / (1 - margin) if before.better == "lower" else ratio * (1 - margin)
            if not (found <= worst if before.better == "lower" else found >= worst):
                at = "most" if before.better == "lower" else "least"
                lines.append(f"{where}: {found:.3g}, was {ratio:.3g}, allowed is at {at} {worst:.3g}")
    return lines
