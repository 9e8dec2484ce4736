"""The machine that figures come from: described, not named."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from volgen.core.cores import cores


def machine() -> dict[str, Any]:
    """What the figures were measured on: nothing that says whose machine it is."""
    return {
        "cpu": _cpu(),
        "cores": cores(),
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
