"""Clusters on this machine, for the tests that need a real one; where it cannot be had, they are skipped and say why."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import namespaces
import pytest
import slurm_cluster

Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[namespaces.TwoNodes]:
    """Two nodes; tests that cut a cable heal it."""
    if reason := namespaces.unavailable():
        pytest.skip(reason)
    with namespaces.two_nodes(tmp_path_factory.mktemp("nodes")) as made:
        yield made


@pytest.fixture(scope="module")
def slurm() -> Iterator[slurm_cluster.Slurm]:
    """A Slurm with one node and two processors."""
    if reason := slurm_cluster.unavailable():
        pytest.skip(reason)
    with slurm_cluster.slurm() as made:
        yield made


@pytest.fixture
def environment() -> dict[str, str]:
    """What a user of the scripts sets: the environment in which the tests run has volgen."""
    return {"VENV": sys.prefix, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": os.environ["DS_ACCELERATOR"]}


@pytest.fixture(scope="session")
def same_losses() -> Callable[..., None]:
    """``same_losses(run, other, ...)``: the runs have taken the same steps, with the same losses to the accuracy of fp32."""

    def read(run: Path) -> Lines:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return sorted(lines, key=lambda line: (line["phase"], line["step"]))

    def compare(run: Path, *others: Path) -> None:
        lines = read(run)
        assert lines, f"{run} has trained nothing"
        for other in map(read, others):
            assert [(line["phase"], line["step"]) for line in other] == [(line["phase"], line["step"]) for line in lines]
            for one, two in zip(lines, other, strict=True):
                assert one.keys() == two.keys()
                for key in one.keys() & {"loss", "validation_loss"}:
                    assert one[key] == pytest.approx(two[key], rel=2e-4), (one, two)

    return compare
