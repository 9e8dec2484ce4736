"""What every benchmark gives back: rows that say what they are relative to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        name: unique in its benchmark.
        value: finite.
        unit: of the value; "" for counts and ratios.
        ratio_to: for each row that this one is compared with, its name and this value divided by that one's.
        interval: low and high end of the 95 % interval of the value, where one was computed.
    """

    name: str
    value: float
    unit: str
    ratio_to: Mapping[str, float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """The keys of the file; ``interval`` only where there is one."""
        content = asdict(self)
        if self.interval is None:
            del content["interval"]
        return content


def row(name: str, value: float, unit: str, *others: Row) -> Row:
    """A row relative to others. Those that are 0 are left out: nothing is a multiple of 0."""
    return Row(name, value, unit, {other.name: value / other.value for other in others if other.value})


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown, one line each; for benchmarks that have no table of their own."""
    lines = ["| | value | unit | relative to |", "|---|---|---|---|"]
    for entry in rows:
        interval = "" if entry.interval is None else f" [{entry.interval[0]:.4g}, {entry.interval[1]:.4g}]"
        ratios = ", ".join(f"{ratio:.3g} x {name}" for name, ratio in entry.ratio_to.items())
        lines.append(f"| {entry.name} | {entry.value:.4g}{interval} | {entry.unit} | {ratios} |")
    return "\n".join(lines)
