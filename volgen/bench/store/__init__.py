"""Codecs and chunk sizes of the store: what they cost and save, on a real scan.

The figures in docs/store.md come from here: ``volgen bench store STORE --out FILE.json --repeats 12``. Every variant holds the same scan.
Times are CPU seconds of all threads, not wall time, so that other work on the machine hardly counts; the best of the repeats is taken, and
these are interleaved over the variants.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import tensorstore as ts
import zarr
from numpy.typing import NDArray
from pydantic import PositiveInt

from volgen.commands.bench.result import Row, row
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Positional
from volgen.core.progress import progress
from volgen.data.layout import CHUNK, Chunking, write_array
from volgen.data.layout import PACKINGS as LAYOUTS
from volgen.data.place import open_array
from volgen.data.quantise import CodeType, encode
from volgen.data.store import Store

PACKINGS = (
    Chunking(),
    Chunking(shuffle="shuffle"),
    Chunking(shuffle="bitshuffle"),
    Chunking(codec="blosc-zstd"),
    Chunking(codec="zstd"),
    Chunking(codec="none"),
    Chunking(chunk=CHUNK // 2),
    Chunking(chunk=CHUNK * 2),
    LAYOUTS["volumes"],
)
AXES = ("sagittal", "coronal", "axial")


class Config(BaseConfig):
    """What is measured, and how often."""

    store: Annotated[Path, Positional("STORE")]
    """Finished store, best of 256^3 scans; its first scan is used."""
    repeats: PositiveInt = 5
    """Repeats of each measurement; the best counts."""


def run(config: Config) -> list[Row]:
    """Writes the first scan of a store in every packing and times reading it; ratios are to the packing that volgen uses.

    Raises:
        UserError: no such store, or a damaged one.
    """
    cohort = Store.open(config.store)
    volume = cohort.read(cohort.records[0])
    rows = [Row("voxels", volume.voxels.size, "")]
    with tempfile.TemporaryDirectory() as scratch, progress("bench", 2 * config.repeats) as ticker:
        for dtype in get_args(CodeType):
            codes_ZYX = np.ascontiguousarray(encode(volume.voxels, dtype).codes.T)
            buffer_ZYX = np.zeros_like(codes_ZYX)
            groups = [_write(Path(scratch) / f"{dtype}-{number}", codes_ZYX, packing) for number, packing in enumerate(PACKINGS)]
            arrays = [open_array(group) for group in groups]
            best = [dict.fromkeys(("volume", *AXES), float("inf")) for _ in arrays]
            for _ in range(config.repeats):
                for array, times in zip(arrays, best, strict=True):
                    _measure(array, buffer_ZYX, times)
                ticker.advance(note=dtype)
            sizes = [(group / "0" / "c" / "0" / "0" / "0").stat().st_size / 2**20 for group in groups]
            chosen: list[Row] = []
            for packing, size, times in zip(PACKINGS, sizes, best, strict=True):
                name = f"{dtype} {_name(packing)}"
                found = [Row(f"{name} size", size, "MiB"), *(Row(f"{name} {what}", 1 / s, "per CPU second") for what, s in times.items())]
                chosen = chosen or found
                rows += [row(one.name, one.value, one.unit, reference) for one, reference in zip(found, chosen, strict=True)]
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown, one line per packing, with the ratio to volgen's choice in brackets."""
    kinds = ("size", "volume", *AXES)
    lines = ["| packing | MiB | volumes/CPU s | sagittal/CPU s | coronal/CPU s | axial/CPU s |", "|---|---|---|---|---|---|"]
    packings = [one for one in rows if one.ratio_to]
    for start in range(0, len(packings), len(kinds)):
        group = packings[start : start + len(kinds)]
        cells = [f"{one.value:.3g} ({next(iter(one.ratio_to.values())):.2f})" for one in group]
        lines.append(f"| {group[0].name.removesuffix(' size')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _write(folder: Path, codes_ZYX: NDArray[Any], packing: Chunking) -> Path:
    write_array(zarr.create_group(store=str(folder), zarr_format=3), codes_ZYX, packing)
    return folder


def _measure(array: Any, buffer_ZYX: NDArray[Any], times: dict[str, float]) -> None:
    times["volume"] = min(times["volume"], _seconds(lambda: ts.array(buffer_ZYX).write(array).result()))
    for axis, name in zip((2, 1, 0), AXES, strict=True):
        for fraction in (0.3, 0.5, 0.7):
            place: list[Any] = [slice(None)] * 3
            place[axis] = int(array.shape[axis] * fraction)
            chosen = array[tuple(place)]
            times[name] = min(times[name], _seconds(lambda chosen=chosen: chosen.read().result()))  # type: ignore[misc]


def _seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _name(packing: Chunking) -> str:
    shuffle = f" {packing.shuffle}" if packing.codec.startswith("blosc") else ""
    return f"{packing.codec}{shuffle} " + (f"{packing.chunk}^3" if packing.chunk else "slabs")
