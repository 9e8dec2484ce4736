"""Ranks that sample together make the volumes of one process, bit for bit, and do not wait for one that is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from volgen.commands.sample.sample import sample
from volgen.core.files import read_json

pytestmark = pytest.mark.distributed

COUNT = 5


@pytest.fixture(scope="module")
def run(alone: Callable[..., Path]) -> Path:
    return alone(experts={"count": 6}, stopping={"max_steps": 1, "min_steps": 1, "validate_every": 1})


def together(run: Path, out: Path, ranks: int, count: int = COUNT, **options: object) -> subprocess.Popen[str]:
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", *str(value).split())]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [
        sys.executable,
        *launcher,
        "-m",
        "volgen",
        "sample",
        str(run),
        "--out",
        str(out),
        "--count",
        str(count),
        "--seed",
        "3",
        *words,
    ]
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.Popen(command, env={**environment, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def images(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.rglob("*_T1w.*"))}


@pytest.mark.parametrize(
    ("ranks", "options"),
    [
        (2, {"stages": 2, "sampler": "heun"}),  # remembers something, and is random in nothing but its start
        pytest.param(3, {"stages": 3, "sampler": "ddpm", "batch_size": 2}, marks=pytest.mark.slow),
        pytest.param(2, {}, marks=pytest.mark.slow),  # both hold all experts
    ],
)
def test_ranks_make_the_volumes_of_one_process(run: Path, tmp_path: Path, ranks: int, options: dict[str, object]) -> None:
    process = together(run, tmp_path / "ranks", ranks, **options)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    alone = sample(run, tmp_path / "alone", count=COUNT, seed=3, device="cpu", sampler=options.get("sampler"))  # type: ignore[arg-type]
    assert images(tmp_path / "ranks") == images(alone)
    assert len(images(alone)) == 2 * COUNT
    assert read_json(tmp_path / "ranks" / "manifest.json", "manifest")["complete"] is True


@pytest.mark.slow
def test_ranks_draw_rows_and_from_sketches_as_one_process_does(run: Path, tmp_path: Path) -> None:
    path = next(sample(run, tmp_path / "data", count=1, device="cpu").rglob("*_T1w.nii.gz"))
    sigma = read_json(next((tmp_path / "data").rglob("sub-*.json")), "sidecar")["SigmaGrid"][2]
    for name, words, options in (
        ("row", {"between": "3 8"}, {"between": (3, 8)}),
        ("sketch", {"sketch": path, "sketch_sigma": sigma}, {"sketch": path, "sketch_sigma": sigma}),
    ):
        process = together(run, tmp_path / f"{name}-ranks", 2, count=3, stages=2, sampler="ddpm", **words)
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        alone = sample(run, tmp_path / name, count=3, seed=3, device="cpu", sampler="ddpm", **options)  # type: ignore[arg-type]
        assert images(tmp_path / f"{name}-ranks") == images(alone) and len(images(alone)) == 6


def test_a_rank_that_is_killed_does_not_keep_the_others_waiting(run: Path, tmp_path: Path) -> None:
    process = together(run, tmp_path / "out", 2, count=100_000, stages=2)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").rglob("*.nii.gz")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    ranks = {child.environ().get("RANK"): child for child in psutil.Process(process.pid).children(recursive=True)}
    process.send_signal(signal.SIGSTOP)  # the launcher would end rank 0 too
    ranks["1"].kill()
    deadline = time.monotonic() + 60
    while ranks["0"].status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "rank 0 still waits"
        time.sleep(0.2)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "rank 1 on" in errors and "has died" in errors, errors
    assert read_json(tmp_path / "out" / "manifest.json", "manifest")["complete"] is False


@pytest.mark.parametrize("stages", [2, 0])
def test_rows_that_cannot_be_are_refused(run: Path, tmp_path: Path, stages: int) -> None:
    from volgen.core.errors import UserError

    with pytest.raises(UserError, match=rf"--stages: {stages}; expected a divisor of 1"):
        sample(run, tmp_path / "out", count=1, seed=0, device="cpu", stages=stages)
    assert not (tmp_path / "out").exists()
