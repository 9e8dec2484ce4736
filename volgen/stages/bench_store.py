"""What codec and chunk cost and save, on a real scan: ``python -m volgen.stages.bench_store STORE --out FILE.json``.

The figures in docs/store.md come from here. Every variant holds the same scan. Times are CPU seconds of all threads, not wall time, so
that other work on the machine hardly counts; the best of the repeats is taken, and these are interleaved over the variants.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import tensorstore as ts
import zarr
from numpy.typing import NDArray

from volgen.core.errors import UserError
from volgen.core.files import write_json
from volgen.core.progress import progress
from volgen.data.layout import CHUNK, Packing, write_array
from volgen.data.quantise import CodeType, encode
from volgen.data.store import Store, open_array

PACKINGS = (
    Packing(),
    Packing(shuffle="shuffle"),
    Packing(shuffle="bitshuffle"),
    Packing(codec="blosc-zstd"),
    Packing(codec="zstd"),
    Packing(codec="none"),
    Packing(chunk=CHUNK // 2),
    Packing(chunk=CHUNK * 2),
)
AXES = ("sagittal", "coronal", "axial")


def bench_store(store: Path, out: Path, repeats: int = 5) -> list[dict[str, Any]]:
    """Writes the first scan of a store in every packing and times reading it.

    Args:
        store: a finished store, best of 256^3 scans.
        out: JSON file: ``{"machine", "rows": [{"name", "value", "unit", "ratio_to"}]}``; ratios are to the packing that volgen uses.
        repeats: of each measurement; the best counts.

    Raises:
        UserError: no such store, or a damaged one.
    """
    cohort = Store.open(store)
    volume = cohort.read(cohort.records[0])
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=out.resolve().parent) as scratch, progress("bench", 2 * repeats) as ticker:
        for dtype in get_args(CodeType):
            codes_ZYX = np.ascontiguousarray(encode(volume.voxels, dtype).codes.T)
            buffer = np.zeros(volume.shape, dtype)
            groups = [_write(Path(scratch) / f"{dtype}-{number}", codes_ZYX, packing) for number, packing in enumerate(PACKINGS)]
            arrays = [open_array(group) for group in groups]
            best = [dict.fromkeys(("volume", *AXES), float("inf")) for _ in arrays]
            for _ in range(repeats):
                for array, times in zip(arrays, best, strict=True):
                    _measure(array.T, buffer, times)
                ticker.advance(note=dtype)
            sizes = [(group / "0" / "c" / "0" / "0" / "0").stat().st_size / 2**20 for group in groups]
            for packing, size, times in zip(PACKINGS, sizes, best, strict=True):
                name = f"{dtype} {_name(packing)}"
                rows.append(_row(f"{name} size", size, "MiB", f"{dtype} {_name(PACKINGS[0])} size", sizes[0]))
                for what, seconds in times.items():
                    reference = f"{dtype} {_name(PACKINGS[0])} {what}"
                    rows.append(_row(f"{name} {what}", 1 / seconds, "per CPU second", reference, 1 / best[0][what]))
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "system": platform.platform(), "shape": list(volume.shape)}
    write_json(out, {"machine": machine, "rows": rows})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown, one line per packing, with the ratio to volgen's choice in brackets."""
    kinds = ("size", "volume", *AXES)
    lines = ["| packing | MiB | volumes/CPU s | sagittal/CPU s | coronal/CPU s | axial/CPU s |", "|---|---|---|---|---|---|"]
    for start in range(0, len(rows), len(kinds)):
        group = rows[start : start + len(kinds)]
        name = str(group[0]["name"]).removesuffix(" size")
        cells = [f"{row['value']:.3g} ({next(iter(row['ratio_to'].values())):.2f})" for row in group]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m volgen.stages.bench_store", description="Compare codecs and chunk sizes on a real scan."
    )
    parser.add_argument("store", metavar="STORE", type=Path)
    parser.add_argument("--out", metavar="FILE.json", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    try:
        print(table(bench_store(options.store, options.out, options.repeats)))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _write(folder: Path, codes_ZYX: NDArray[Any], packing: Packing) -> Path:
    write_array(zarr.create_group(store=str(folder), zarr_format=3), codes_ZYX, packing)
    return folder


def _measure(array: Any, buffer: NDArray[Any], times: dict[str, float]) -> None:
    times["volume"] = min(times["volume"], _seconds(lambda: ts.array(buffer).write(array).result()))
    for axis, name in enumerate(AXES):
        for fraction in (0.3, 0.5, 0.7):
            place: list[Any] = [slice(None)] * 3
            place[axis] = int(array.shape[axis] * fraction)
            chosen = array[tuple(place)]
            times[name] = min(times[name], _seconds(lambda chosen=chosen: chosen.read().result()))  # type: ignore[misc]


def _seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _name(packing: Packing) -> str:
    shuffle = f" {packing.shuffle}" if packing.codec.startswith("blosc") else ""
    return f"{packing.codec}{shuffle} {packing.chunk}^3"


def _row(name: str, value: float, unit: str, reference: str, of: float) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "ratio_to": {reference: value / of}}


if __name__ == "__main__":
    sys.exit(main())
