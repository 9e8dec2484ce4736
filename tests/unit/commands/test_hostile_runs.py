"""Run folders that somebody made to do harm, or that a disk has turned into such: one message, at once, whatever is in them."""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import save_file

from volgen.cli import main
from volgen.core.files import sha256, write_json
from volgen.core.span import tile
from volgen.experts.ensemble import Ensemble, ExpertRecord, write
from volgen.images.geometry import Geometry
from volgen.images.intensity import IntensityMap
from volgen.privacy.plans.none import NOTHING
from volgen.recipe import load

Change = Callable[[Path], None]
GIB = 2**30


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run without seals, as one that was made by hand."""
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    directory.mkdir()
    content = {
        "name": "tiny", "data": {"store": "nowhere.zarr", "shape": [8, 8, 8]}, "schedule": {"kind": "karras", "points": 4},
        "network": {"kind": "wavelet_unet3d", "channels": [8, 8], "norm_groups": 4}, "preconditioner": {"kind": "edm"},
        "experts": {"count": 2},
    }  # fmt: skip
    (directory / "config.yaml").write_text(yaml.safe_dump(content))
    recipe = load(directory / "config.yaml")
    grid, records = recipe.schedule.grid(), []
    for index, span in enumerate(tile(grid, 2)):
        path = directory / "experts" / str(index) / "weights.safetensors"
        path.parent.mkdir(parents=True)
        save_file(recipe.build().released(recipe.phases()[-1]).state_dict(), path)
        records.append(ExpertRecord(index, span.low, span.high, f"experts/{index}/weights.safetensors", sha256(path), 1, 1, 0.5))
    write(directory / "ensemble.json", Ensemble(tuple(records), grid[-1], grid[0], tuple(grid)))
    save_file({}, directory / "preconditioner.safetensors")
    Geometry((8, 8, 8), (2.0, 2.0, 2.0), IntensityMap(0.0, 1.0), skull_stripped=True).write(directory)
    write_json(directory / "privacy_ledger.json", NOTHING)
    return directory


def config(**sections: dict[str, Any]) -> Change:
    def change(run: Path) -> None:
        content = yaml.safe_load((run / "config.yaml").read_text())
        for name, section in sections.items():
            content[name] = {**content.get(name, {}), **section} if "kind" not in section else section
        (run / "config.yaml").write_text(yaml.safe_dump(content))

    return change


def edited(name: str, change: Callable[[dict[str, Any]], Any]) -> Change:
    def edit(run: Path) -> None:
        content = json.loads((run / name).read_text())
        change(content)
        (run / name).write_text(json.dumps(content))

    return edit


def text(name: str, content: str | bytes) -> Change:
    return lambda run: (run / name).write_bytes(content.encode() if isinstance(content, str) else content) and None  # type: ignore[func-returns-value]


def replaced(name: str, by: Callable[[Path], object]) -> Change:
    def change(run: Path) -> None:
        (run / name).unlink()
        by(run / name)

    return change


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**41)


def header(length: int, content: bytes = b"{}") -> bytes:
    return length.to_bytes(8, "little") + content


def many(count: int) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["grid"] = np.geomspace(80.0, 0.02, count).tolist()

    return change


MERGES = "\n".join(["a0: &a0 {x: 1}", *(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}], k{i}: 1}}" for i in range(1, 40))])
ALIASES = "\n".join(["a0: &a0 1", *(f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}" for i in range(1, 60))])
NAMES = (
    "config.yaml",
    "ensemble.json",
    "geometry.json",
    "preconditioner.safetensors",
    "privacy_ledger.json",
    "experts/1/weights.safetensors",
)
WEIGHTS = "experts/1/weights.safetensors"
CASES: dict[str, Change] = {
    "wide network": config(network={"channels": [8, 16000]}),
    "wider network": config(network={"channels": [8, 30000]}),
    "many blocks": config(network={"residual_blocks": 10**9}),
    "deep network": config(network={"channels": [8] * 3000}),
    "many haar levels": config(network={"haar_levels": 3000}),
    "wide unet": config(network={"kind": "unet3d", "channels": [16384, 16384], "attention": [False, False], "head_channels": 8}),
    "levels": config(preconditioner={"kind": "gaussian", "levels": 3000}),
    "rank": config(preconditioner={"kind": "gaussian", "rank": 10**9}),
    "folds": config(preconditioner={"kind": "gaussian", "folds": 10**12}),
    "coarse levels": config(assembly={"kind": "autoregressive", "coarse_levels": 3000}),
    "context": config(assembly={"kind": "autoregressive", "context": 10**9}),
    "points": config(schedule={"kind": "karras", "points": 10**6}),
    "experts": config(experts={"count": 10**9}),
    "shape": config(data={"shape": [2**20, 2**20, 2**20]}),
    "long axis": config(data={"shape": [65536, 8, 8]}),
    "aliases": text("config.yaml", ALIASES),
    "merges": text("config.yaml", MERGES),
    "deep yaml": text("config.yaml", "a: " + "[" * 100_000),
    "long yaml": text("config.yaml", "a: 1\n" * 2**20),
    "tiny voxels": edited("geometry.json", lambda c: c.update(voxel_size=[1e-300] * 3)),
    "huge voxels": edited("geometry.json", lambda c: c.update(voxel_size=[1e300] * 3)),
    "huge intensities": edited("geometry.json", lambda c: c.update(intensity={"low": 0.0, "high": 1e300})),
    "absurd grid": edited("geometry.json", lambda c: c.update(shape=[10**9] * 3)),
    "grid of 10^6": edited("ensemble.json", many(10**6)),
    "grid of 3000": edited("ensemble.json", many(3000)),
    "10^5 experts": edited("ensemble.json", lambda c: c.update(experts=c["experts"] * 50_000)),
    "huge number": text("ensemble.json", '{"experts": [], "sigma_min": 1' + "0" * 10_000 + ', "sigma_max": 1, "grid": [1]}'),
    "nested json": text("ensemble.json", "[" * 10**6),
    "long header": text(WEIGHTS, header(2**63)),
    "header beyond the file": text(WEIGHTS, header(2**20)),
    "huge tensor": text(WEIGHTS, header(58, b'{"a":{"dtype":"F32","shape":[999999999999],"data_offsets":[0,3]}}'[:58])),
    "huge preconditioner": replaced("preconditioner.safetensors", sparse),
    "huge weights": replaced(WEIGHTS, sparse),
    **{f"pipe as {name}": replaced(name, os.mkfifo) for name in NAMES},
    **{f"/dev/zero as {name}": replaced(name, lambda path: path.symlink_to("/dev/zero")) for name in NAMES},
    **{f"folder as {name}": replaced(name, lambda path: path.mkdir()) for name in NAMES},
    **{f"sparse {name}": replaced(name, sparse) for name in NAMES[:3]},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_folder_is_one_message_at_once(case: str, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    CASES[case](copy)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert main(["sample", str(copy), "--out", str(tmp_path / "out"), "--count", "1", "--seed", "0", "--device", "cpu"]) == 2
    error = capfd.readouterr().err
    assert error.count("error:") == 1 and "Traceback" not in error and len(error) < 2000
    assert time.process_time() - began < 10
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < GIB / 2
    assert not (tmp_path / "out").exists()


def test_the_folder_itself_is_fine(run: Path, tmp_path: Path) -> None:
    assert main(["sample", str(run), "--out", str(tmp_path / "out"), "--count", "1", "--seed", "0", "--device", "cpu"]) == 0
