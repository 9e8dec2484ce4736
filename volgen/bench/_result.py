"""What every benchmark gives back: rows that say what they are relative to, on a machine that is described but not named."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch


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


def machine() -> dict[str, Any]:
    """What the figures were measured on: nothing that says whose machine it is."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "ram_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "accelerator": _accelerator(),
    }


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _accelerator() -> str:
    """Kind, number and model, or "none"."""
    if not torch.accelerator.is_available():
        return "none"
    device = torch.accelerator.current_accelerator()
    assert device is not None
    named = getattr(torch.get_device_module(device), "get_device_name", lambda: device.type)
    return f"{torch.accelerator.device_count()} x {named()}"
