"""What every benchmark gives back: rows that say what they are relative to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

PACKAGE = "volgen.bench"
"""The folder is the registry: every folder in it without an underscore is a benchmark."""
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        name: unique in its benchmark.
        value: finite.
        unit: unit of the value; "" for counts and ratios.
        ratio_to: for each row that this one is compared with, its name and this value divided by that one's.
        interval: low and high end of the 95 % interval of the value, where one was computed.
        better: which way the value and its ratios should go; makes them part of the regression gate (``--against``).
    """

    name: str
    value: float
    unit: str
    ratio_to: Mapping[str, float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    better: Better | None = None

    def to_json(self) -> dict[str, Any]:
        """The keys of the file; ``interval`` and ``better`` only where there is one."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def row(name: str, value: float, unit: str, *others: Row, better: Better | None = None) -> Row:
    """A row relative to others. Those that are 0 are left out: nothing is a multiple of 0."""
    return Row(name, value, unit, {other.name: value / other.value for other in others if other.value}, better=better)


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown, one line each; for benchmarks that have no table of their own."""
    lines = ["| | value | unit | relative to |", "|---|---|---|---|"]
    for entry in rows:
        interval = "" if entry.interval is None else f" [{entry.interval[0]:.4g}, {entry.interval[1]:.4g}]"
        ratios = ", ".join(f"{ratio:.3g} x {name}" for name, ratio in entry.ratio_to.items())
        lines.append(f"| {entry.name} | {entry.value:.4g}{interval} | {entry.unit} | {ratios} |")
    return "\n".join(lines)
