"""Whether two checkouts make the same files, bit for bit: ``python tests/golden.py OLD NEW [FOLDER]``.

Both make a store, runs of several kinds, volumes by several solvers, a report, an audit and statements with one thread; then every file is
compared. What may differ: times, versions, git revisions, memory and where things lie. No part of the test suite, because it takes another
checkout; results go into the CHANGELOG.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

COMMON: dict[str, Any] = {
    "seed": 3, "runs": "runs", "data": {"store": "cohort.zarr", "shape": [16, 16, 16], "batch_size": 2, "workers": 1},
    "schedule": {"kind": "log_snr", "points": 4}, "network": {"kind": "wavelet_unet3d", "channels": [4], "norm_groups": 2},
    "preconditioner": {"kind": "gaussian", "levels": 2, "rank": 2}, "experts": {"count": 2},
    "stopping": {"max_steps": 6, "validate_every": 3, "validation_draws": 1, "validation_volumes": 2}, "engine": {"checkpoint_every": 2},
}  # fmt: skip
UNET = {"kind": "unet3d", "channels": [4, 8], "attention": [False, False], "head_channels": 4, "norm_groups": 2}
RUNS: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "shared": {"experts": {"count": 2, "warm_start": "shared", "shared_steps": 4}, "engine": {"accumulation": 2}},
    "edm": {"preconditioner": {"kind": "edm"}, "network": UNET, "sampler": {"kind": "heun"}, "data": {"store": "public.zarr"}},
    "bf16": {
        "engine": {"precision": "bf16", "zero_stage": 1}, "optimiser": {"matrix_learning_rate": 0.01, "gradient_clip": 0.0},
        "sampler": {"kind": "ddpm"},
    },
    "flow": {"preconditioner": {"kind": "flow"}, "network": {"kind": "triplanar"}, "experts": {"points": [1, 3]}},
    "public": {
        "preconditioner": {"kind": "edm"}, "network": UNET, "adapter": {"kind": "lora"}, "start": {"kind": "public", "run": "runs/edm"},
        "experts": {"count": 2, "warm_start": "none"},
    },
    "private": {
        "preconditioner": {"kind": "edm"}, "optimiser": {"warmup_steps": 2, "gradient_clip": 0.0},
        "stopping": {"max_steps": 4, "min_steps": 4},
        "data": {"batch_size": 3}, "privacy": {"kind": "dp_sgd", "epsilon": 6, "delta": 1.0e-3, "accountant": "rdp"},
    },
}  # fmt: skip
RANDOM = {"private": re.compile(r"weights|metrics|losses|ensemble|manifest|journal|seal|training|README")}
"""What of a private run depends on its secret."""
IGNORED = re.compile(r"^all/|/tensorboard/|lock$|^log\.txt$|\.privacy\.jsonl$")
"""Files with the time or the process in their name or content."""
VARYING = {
    "wall_time_seconds", "wall_seconds", "seconds", "peak_memory_bytes", "peak_memory", "volgen_version", "git_revision", "started",
    "finished", "GeneratedBy", "hostname", "machine", "time", "created", "sha256", "files", "seal", "digest", "hours",
    "hours_per_expert", "step_seconds", "entry", "command",
}  # fmt: skip


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return {
        **base,
        **{
            key: {**base.get(key, {}), **value} if isinstance(value, dict) and "kind" not in value else value for key, value in more.items()
        },
    }


def make(tree: Path, folder: Path) -> None:
    """Everything, with the volgen of one checkout; what it refuses stands in ``log.txt`` like what it says."""
    folder.mkdir(parents=True)
    place = {**os.environ, "PYTHONPATH": str(tree), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    log = (folder / "log.txt").open("w")

    def volgen(*words: str) -> None:
        ended = subprocess.run([sys.executable, "-m", "volgen", *words], cwd=folder, env=place, capture_output=True, text=True, check=False)
        log.write(f"$ {' '.join(words)}\n{ended.returncode}\n")
        if ended.returncode:
            log.write(ended.stderr)
        log.flush()

    volgen("cohort", "all")
    people = sorted((folder / "all").glob("sub-*"))
    for scans, store, chosen in (("scans", "cohort.zarr", people[:14]), ("others", "public.zarr", people[14:28])):
        (folder / scans).mkdir()
        (folder / scans / "dataset_description.json").write_bytes((folder / "all/dataset_description.json").read_bytes())
        for person in chosen:
            person.rename(folder / scans / person.name)
        volgen("ingest", scans, store, "--shape", "16", "--voxel-size", "14", "--workers", "1", "--validation", "0.25")
    for name, more in RUNS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **merged(COMMON, more)}))
        volgen("train", "--config", f"{name}.yaml")
        volgen("plan", "--config", f"{name}.yaml", "--nodes", "1", "--gpus-per-node", "2", "--gpu-memory", "16", "--out", f"plan_{name}")
        if name != "private":
            volgen("sample", f"runs/{name}", "--out", f"samples_{name}", "--count", "2", "--seed", "5")
            volgen("statement", f"runs/{name}", "--out", f"statement_{name}")
    for solver in ("ddpm", "ddim", "euler", "heun", "dpmpp_2m"):
        volgen("sample", "runs/gaussian", "--out", f"by_{solver}", "--count", "1", "--sampler", solver, "--steps", "3")
    volgen("sample", "runs/gaussian", "--out", "by_slerp", "--count", "1", "--noise", "slerp", "--noise.axis", "A")
    volgen("report", "samples_gaussian", "--reference", "cohort.zarr", "--out", "report")
    volgen("report", "--compare", "samples_gaussian", "samples_edm", "--reference", "cohort.zarr", "--out", "compare")
    volgen(
        "audit",
        "runs/gaussian",
        "--members",
        "cohort.zarr",
        "--non-members",
        "public.zarr",
        "--out",
        "audit",
        "--count",
        "2",
        "--levels",
        "2",
        "--draws",
        "2",
    )
    scan = next((folder / "scans").rglob("*T1w.nii.gz")).relative_to(folder)
    volgen("export", "cohort.zarr", "--out", "export")
    volgen("anonymise", str(scan), "runs/gaussian", "--epsilon", "8", "--delta", "1e-5", "--out", "anonymised", "--accept-vacuous")
    log.close()


def bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: bare(item) for key, item in value.items() if key not in VARYING}
    return [bare(item) for item in value] if isinstance(value, list) else value


def content(path: Path) -> Any:
    if path.suffix == ".json":
        return bare(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [bare(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix in {".html", ".md", ".css"}:
        return None  # compared by what is in the JSON beside them
    if path.name.endswith(".nii.gz"):
        image = bytearray(gzip.decompress(path.read_bytes()))
        image[148:228] = bytes(80)  # the header's description, which has volgen's version
        return bytes(image)
    return path.read_bytes()


def differing(old: Path, new: Path) -> list[str]:
    """Names of files that only one has, or that differ."""
    names = [
        {
            path.relative_to(root).as_posix()
            for path in root.rglob("*")
            if path.is_file() and not IGNORED.search(path.relative_to(root).as_posix())
        }
        for root in (old, new)
    ]
    found = [f"only {'old' if name in names[0] else 'new'}: {name}" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        if any(part in name and pattern.search(name) for part, pattern in RANDOM.items()) or name.startswith("anonymised"):
            continue
        if content(old / name) != content(new / name):
            found.append(f"differs: {name}")
    return found


def main() -> int:
    trees = [Path(word).resolve() for word in sys.argv[1:3]]
    folder = Path(sys.argv[3] if len(sys.argv) > 3 else tempfile.mkdtemp()).resolve()
    for name, tree in zip(("old", "new"), trees, strict=True):
        if not (folder / name).exists():
            make(tree, folder / name)
    found = differing(folder / "old", folder / "new")
    count = sum(path.is_file() for path in (folder / "new").rglob("*"))
    print("\n".join([*found, f"{len(found)} of {count} files differ ({folder})"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
