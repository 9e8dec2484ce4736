"""What killed processes leave in a run does not stay in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.files import UNFINISHED
from volgen.core.run_files import FOR_TRAINING
from volgen.recipe import Recipe
from volgen.runs.leftovers import leftovers, tidy
from volgen.runs.trained import open_run

KILLED = """
import os, signal, sys
from pathlib import Path
from volgen.core.files import atomic_path

with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"a person")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def recipe(store: Path, runs: Path) -> Recipe:
    content = {
        "name": "run", "runs": str(runs), "seed": 5,
        "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 2},
        "schedule": {"kind": "log_snr", "points": 4, "sigma_max": 20.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8, 8], "norm_groups": 4},
        "preconditioner": {"kind": "gaussian", "rank": 2, "levels": 1},
        "stopping": {"max_steps": 1, "validate_every": 1, "validation_volumes": 1, "validation_draws": 1},
    }  # fmt: skip
    return validate(Recipe, content, "test")


def litter(run: Path) -> None:
    """What kills at the worst moments leave, in this volgen and in 0.1.0."""
    for path in (run / FOR_TRAINING, run / "experts" / "0" / "weights.safetensors"):
        subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    for name in (".preconditioner_training.ab12cd34.safetensors", ".manifest.zz_9x8y7.json"):
        (run / name).write_bytes(b"a person")
    for name in ("checkpoint-00000001", ".checkpoint-00000002.partial", ".damaged-checkpoint-00000003"):
        (run / "experts" / "0" / name).mkdir(parents=True)
        (run / "experts" / "0" / name / "state.json").touch()
    assert len(list(run.glob(f"{UNFINISHED}*"))) == 1 and len(leftovers(run)) >= 7


def test_nothing_stays_when_a_run_is_finished_or_read(blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("volgen.commands.train.train.metrics.put_in_order", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr("volgen.commands.train.train.tidy", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(blob_store, tmp_path))
    litter(run)
    train(recipe(blob_store, tmp_path))  # only the end is left to do
    whole = sorted(path.relative_to(run).as_posix() for path in run.rglob("*"))
    assert leftovers(run) == [] and not any(name.startswith((UNFINISHED, "experts/0/.")) for name in whole)
    for read in (lambda: open_run(run), lambda: train(recipe(blob_store, tmp_path))):
        litter(run)
        read()
        assert sorted(path.relative_to(run).as_posix() for path in run.rglob("*")) == whole
        assert "removed what a killed process had left (7 files and folders)" in capsys.readouterr().err


def test_what_cannot_be_removed_is_named(
    blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".preconditioner_training.ab12cd34.safetensors").touch()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr("volgen.runs.leftovers.sweep", refuse)
    tidy(tmp_path)
    assert "delete it before anybody gets this run" in capsys.readouterr().err


def test_nothing_outside_of_a_run_is_tidied(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (victim / "0" / "checkpoint-00000001").mkdir(parents=True)
    run = tmp_path / "run"
    run.mkdir()
    (run / ".manifest.zz_9x8y7.json").touch()
    (run / "experts").symlink_to(victim)
    tidy(run)
    (run / "experts").unlink()
    (run / "experts").mkdir()
    (run / "experts" / "0").symlink_to(victim / "0")
    (run / ".manifest.zz_9x8y7.json").touch()
    tidy(run)
    assert (victim / "0" / "checkpoint-00000001").is_dir() and leftovers(run) == []


@pytest.mark.parametrize("name", ["metrics.jsonl", ".lock", ".metrics.lock", "experts", "tensorboard", "manifest.json"])
def test_training_writes_nothing_through_a_planted_link(name: str, blob_store: Path, tmp_path: Path) -> None:
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.mkdir()
    run.mkdir()
    (victim / "letter").write_text("dear")
    (run / name).symlink_to(victim if name in ("experts", "tensorboard") else victim / "letter")
    with pytest.raises(UserError, match="is a link"):
        train(recipe(blob_store, tmp_path))
    assert [path.name for path in victim.iterdir()] == ["letter"] and (victim / "letter").read_text() == "dear"
