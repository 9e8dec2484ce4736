"""`volgen bench race`: every arm trains for the same processor time, draws, and is scored against the same people."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import pytest
import yaml

from volgen.bench.race import OURS
from volgen.cli import main
from volgen.core.config import validate
from volgen.recipe import Recipe

MINUTES, VOLUMES = 0.05, 2
ARMS = [*OURS, "MONAI", "MONAI, larger rate"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_small_race_scores_every_arm_alike(blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "race", tmp_path / "race.json"
    words = ["bench", "race", str(blob_store), "--folder", str(folder), "--minutes", str(MINUTES), "--volumes", str(VOLUMES)]
    assert main([*words, "--precision", "fp32", "--out", str(out)]) == 0
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    floors = set()
    for arm in ARMS:
        assert rows[f"{arm}: steps"]["value"] >= 1
        (real,) = rows[f"{arm}: Frechet distance"]["ratio_to"]
        floors.add(rows[f"{arm}: Frechet distance"]["value"] / rows[f"{arm}: Frechet distance"]["ratio_to"][real])
    assert max(floors) == pytest.approx(min(floors)), "one floor for all"
    shapes = {nib.load(path).shape for path in folder.glob("samples/*/**/*.nii.gz")}  # type: ignore[attr-defined]
    assert shapes == {(16, 16, 16)} and len(list(folder.glob("samples/*/**/*.nii.gz"))) == VOLUMES * len(ARMS)
    for arm in ("MONAI", "MONAI, larger rate"):  # they stop by the clock of their process: at most one step late
        assert MINUTES * 60 <= rows[f"{arm}: training"]["value"] < MINUTES * 60 * 2
    shown = capsys.readouterr().out
    assert all(f"| {arm} |" in shown for arm in ARMS)
    assert main([*words, "--out", str(out)]) == 2 and "is there already" in capsys.readouterr().err


@pytest.mark.slow
def test_only_those_race_who_are_named(blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = _race(blob_store, "0.02", tmp_path)
    assert main([*words, "--arms", "GAN", "the-Gaussian-alone", "--out", str(tmp_path / "race.json")]) == 0
    shown = capsys.readouterr().out
    assert [arm for arm in ARMS if f"| {arm} |" in shown] == ["the Gaussian alone", "GAN"]
    assert main([*words, "--arms", "gan"]) == 2
    assert "there is no 'gan'; expected some of volgen, volgen-without-the-Gaussian" in capsys.readouterr().err


@pytest.mark.slow
def test_latents_share_their_time_with_an_autoencoder(blob_store: Path, tmp_path: Path) -> None:
    words = _race(blob_store, "0.05", tmp_path)
    assert main([*words, "--arms", "latents", "AdamW", "--out", str(tmp_path / "race.json")]) == 0
    rows = {row["name"]: row["value"] for row in json.loads((tmp_path / "race.json").read_text())["rows"]}
    run = validate(Recipe, yaml.safe_load((tmp_path / "race/latents.yaml").read_text()), "test")
    assert rows["latents: steps"] == run.method.steps + run.stopping.max_steps and min(run.method.steps, run.stopping.max_steps) >= 1
    assert rows["AdamW: steps"] >= 1 and rows["latents: parameters"] > rows["AdamW: parameters"]


def test_a_store_without_people_to_score_against_is_refused(blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "race", str(tmp_path / "none"), "--folder", str(tmp_path / "race")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert not (tmp_path / "race").exists()


def _race(store: Path, minutes: str, tmp_path: Path) -> list[str]:
    """A race of two volumes an arm, without who races and where the figures go."""
    folder = str(tmp_path / "race")
    return ["bench", "race", str(store), "--minutes", minutes, "--volumes", "2", "--precision", "fp32", "--folder", folder]
