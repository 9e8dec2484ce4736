"""Nobody's contribution to a private step depends on who else is in the cohort: every network, adapter, pass, one rank and two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from volgen.commands.ingest.ingest import ingest
from volgen.core import registry
from volgen.data.ingest.preprocess import IngestConfig

from .record_play import CASES, EDGE, MUTANT, SHARED

pytestmark = pytest.mark.distributed
SCRIPT = Path(__file__).with_name("record_play.py")
PEOPLE = 7


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 7 patients for training, every second of whom has several scans."""
    folder, generator = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    (folder / "scans").mkdir()
    for person in range(PEOPLE):
        for visit in range(1 + 2 * (person % 2)):
            voxels = generator.normal(size=(EDGE,) * 3).astype(np.float32) * (1 + person)
            image = nib.Nifti1Image(voxels, np.diag([8.0, 8.0, 8.0, 1.0]))
            nib.save(image, folder / "scans" / f"sub-{person}_ses-{visit}_T1w.nii.gz")
    ingest(folder / "scans", folder / "store", IngestConfig(shape=(EDGE,) * 3, voxel_size=8.0, validation=0.0, test=0.0))
    return folder / "store"


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)], ids=["one-rank", "two-ranks"])
def found(request: pytest.FixtureRequest, store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, dict[str, int]]]:
    launcher = [] if request.param == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(request.param)]
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    command = [sys.executable, *launcher, str(SCRIPT), str(store), str(tmp_path_factory.mktemp("runs"))]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment | {"OMP_NUM_THREADS": "1"}, timeout=250, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND"))
    return request.param, json.loads(line.removeprefix("FOUND"))


@pytest.mark.parametrize("case", CASES)
def test_what_everybody_else_adds_stays_bit_for_bit(case: str, found: tuple[int, dict[str, dict[str, int]]]) -> None:
    ranks, told = found
    if ranks > 1 and case not in SHARED:
        pytest.skip("one rank has this case")
    count = told[case]
    assert count["people"] >= PEOPLE - 1 and count["compared"] > 2 * count["drawn"], "too few contributions were looked at"
    assert count.get("nothing", 0) == 0, "a contribution of zeros would hide a difference"
    assert count["others drawn"] == 0, "who is drawn depends on who else is there"
    assert count["differ"] == 0


def test_draws_by_place_would_be_noticed(found: tuple[int, dict[str, dict[str, int]]]) -> None:
    ranks, told = found
    if ranks > 1:
        pytest.skip("one rank has this case")
    assert told[MUTANT]["differ"] > told[MUTANT]["compared"] / 3


def test_no_kind_is_left_out() -> None:
    networks, preconditioners, adapters = ({case[place] for case in CASES.values()} for place in (0, 1, 2))
    package = "volgen.models.networks"
    said = {kind for kind in registry.kinds(package) if getattr(registry.config_class(package, kind), "patients_apart", False)}
    assert networks == said, "a network that says so of itself has to be played"
    assert preconditioners == set(registry.kinds("volgen.models.preconditioners"))
    assert adapters == set(registry.kinds("volgen.models.adapters"))
