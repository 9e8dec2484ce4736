"""Every ZeRO stage x precision x number of ranks x accumulation (and Muon) against one rank at stage 0 of the same precision.

    PYTHONPATH=. python tests/distributed/chaos/parity.py --store STORE --folder EMPTY --table table.md

Prints how far losses, validation losses and exported average weights are apart. Exit code 1 if any is further than its tolerance.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1")
sys.path.insert(0, str(Path(__file__).parent))

import yaml
from ranks import Job, Node, warm

TOLERANCES = {"fp32": 2e-4, "bf16": 2e-2}
"""Largest relative difference of losses, and of weights in the Euclidean norm; bf16 has 8 bits, and rounds otherwise in another order."""
LIMIT = 900.0
MUON = {"warmup_steps": 2, "matrix_learning_rate": 0.02, "gradient_clip": 0.0}
HEAD = """| optimiser | ZeRO | precision | ranks | accumulation | losses apart | validation apart | weights apart | within |
|---|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Mode:
    """One way to run the same training."""

    optimiser: str
    stage: int
    precision: str
    ranks: int
    accumulation: int

    def __str__(self) -> str:
        return f"| {self.optimiser} | {self.stage} | {self.precision} | {self.ranks} | {self.accumulation} |"


def train(mode: Mode, store: Path, folder: Path) -> Path:
    """Runs it; returns the run directory."""
    name = "-".join(map(str, (mode.optimiser, mode.stage, mode.precision, mode.ranks, mode.accumulation)))
    content = {
        "name": name, "runs": str(folder), "seed": 5,
        "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 4, "workers": 1},
        "schedule": {"kind": "log_snr", "points": 6, "sigma_max": 20.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8, 8], "norm_groups": 4},
        "preconditioner": {"kind": "edm"}, "experts": {"count": 1},
        "optimiser": MUON if mode.optimiser == "Muon" else {"warmup_steps": 2},
        "stopping": {"max_steps": 8, "validate_every": 4, "validation_volumes": 2, "validation_draws": 2},
        "engine": {
            "zero_stage": mode.stage, "precision": mode.precision, "accumulation": mode.accumulation, "dead_after": 60.0,
        },
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(content))
    job = Job(config, folder / f"logs-{name}", (Node(),) * mode.ranks)
    job.start()
    if not job.wait(LIMIT) or set(job.codes.values()) != {0}:
        job.kill()
        raise RuntimeError(f"{mode}: {job.codes}\n{job.said()}")
    return folder / name


def apart(run: Path, reference: Path) -> list[float]:
    """Largest relative difference of losses and of validation losses, and that of the weights."""
    # Read by numpy: this process forks, and must not start torch's threads.
    from safetensors.numpy import load_file

    lines = [[json.loads(text) for text in (path / "metrics.jsonl").read_text().splitlines()] for path in (run, reference)]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    found: list[float] = []
    for key in ("loss", "validation_loss"):
        pairs = [(mine[key], theirs[key]) for mine, theirs in zip(*lines, strict=True) if key in theirs]
        found.append(max(abs(mine - theirs) / abs(theirs) for mine, theirs in pairs))
    mine, theirs = (load_file(path / "experts" / "0" / "weights.safetensors") for path in (run, reference))
    square: Any = sum(((mine[name] - theirs[name]) ** 2).sum() for name in theirs)
    return [*found, float(square / sum((tensor**2).sum() for tensor in theirs.values())) ** 0.5]


def main() -> int:
    """Runs the matrix."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    warm()
    lines, good = [HEAD], True
    modes = [Mode("AdamW", *rest) for rest in itertools.product((0, 1, 2, 3), ("fp32", "bf16"), (1, 2), (1, 2))]
    modes += [Mode("Muon", stage, "fp32", ranks, 1) for stage in (0, 1, 2, 3) for ranks in (1, 2)]
    print(HEAD, flush=True)
    references: dict[tuple[str, str], Path] = {}
    for mode in sorted(modes, key=lambda mode: (mode.ranks, mode.stage, mode.accumulation)):
        run = train(mode, options.store, options.folder)
        found = apart(run, references.setdefault((mode.optimiser, mode.precision), run))
        # DeepSpeed orthogonalises in half precision where the processor has it.
        tolerance = 2e-3 if mode.optimiser == "Muon" else TOLERANCES[mode.precision]
        good &= max(found) <= tolerance
        lines.append(f"{mode} {' | '.join(f'{value:.1e}' for value in found)} | {tolerance:g}{'' if max(found) <= tolerance else ' NO'} |")
        print(lines[-1], flush=True)
    if options.table:
        options.table.write_text("\n".join(lines) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
