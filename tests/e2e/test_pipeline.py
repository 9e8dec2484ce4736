"""From scans to a report through the command line, in a subprocess, as a user does it; then everything that a user can get wrong."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from safetensors import safe_open

import volgen
from volgen import cli

pytestmark = pytest.mark.e2e
SHAPE, SIZE, PEOPLE = (16, 16, 16), 12.0, 12
CONFIG = {
    "name": "tiny",
    "data": {"store": "cohort.zarr", "shape": list(SHAPE), "batch_size": 2, "workers": 1},
    "schedule": {"kind": "log_snr", "points": 4},
    "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4},
    "preconditioner": {"kind": "gaussian", "levels": 2, "rank": 2},
    "experts": {"count": 2},
    "stopping": {"max_steps": 4, "validate_every": 2, "validation_draws": 1, "validation_volumes": 2},
}
COMMANDS = (
    ["ingest", "scans", "cohort.zarr", "--shape", "16", "--voxel-size", "12", "--workers", "1"],
    ["train", "--config", "tiny.yaml", "--seed", "3"],
    ["sample", "runs/tiny", "--out", "samples", "--count", "2", "--seed", "5"],
    ["report", "samples", "--reference", "cohort.zarr", "--out", "report"],
)


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def _volgen(folder: Path, *words: str) -> Done:
    environment = {**os.environ, "PYTHONPATH": str(Path(volgen.__file__).parents[1])}  # also where volgen is not installed
    command = [sys.executable, "-m", "volgen", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=240)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def pipeline(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage has run once: scans, cohort.zarr, runs/tiny, samples, report."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    people = sorted(path.name for path in cohort.glob("sub-*"))
    for name in people[:PEOPLE]:
        shutil.copytree(cohort / name, folder / "scans" / name)
    shutil.copy(cohort / "dataset_description.json", folder / "scans")
    for words in COMMANDS:
        done = _volgen(folder, *words)
        assert done.code == 0, f"volgen {' '.join(words)}\n{done.err}"
        assert "Warning" not in done.err
        assert "Traceback" not in done.err
    return folder


def _json(path: Path) -> dict[str, object]:
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{path} holds {name}"))


def test_every_directory_says_where_it_is_from(pipeline: Path) -> None:
    for place, stage in (("cohort.zarr", "ingest"), ("runs/tiny", "train"), ("samples", "sample"), ("report", "report")):
        manifest = _json(pipeline / place / "manifest.json")
        assert manifest["stage"] == stage
        for key in (
            "volgen_version",
            "git_revision",
            "config",
            "inputs",
            "seed",
            "axis_order",
            "units",
            "wall_seconds",
            "peak_memory_bytes",
        ):
            assert key in manifest, f"{place}: no {key}"
    assert _json(pipeline / "samples/manifest.json")["seed"] == 5


def test_nothing_half_written_is_left(pipeline: Path) -> None:
    hidden = [path for path in pipeline.rglob(".*") if path.name not in {".zattrs", ".zgroup"}]
    assert not [path for path in hidden if path.is_file() and path.stat().st_size == 0 and "lock" not in path.name]
    assert not [path for path in pipeline.rglob("*") if path.name.endswith((".partial", ".tmp"))]


def test_the_store_holds_every_person_once(pipeline: Path) -> None:
    manifest = _json(pipeline / "cohort.zarr/manifest.json")
    subjects = manifest["subjects"]
    assert isinstance(subjects, list)
    assert len({subject["id"] for subject in subjects}) == PEOPLE
    assert {subject["split"] for subject in subjects} <= {"train", "validation", "test"}


def test_the_run_is_complete_and_its_weights_are_those_of_the_ensemble(pipeline: Path) -> None:
    run = pipeline / "runs/tiny"
    assert yaml.safe_load((run / "config.yaml").read_text())["seed"] == 3
    ensemble = _json(run / "ensemble.json")
    experts = ensemble["experts"]
    assert isinstance(experts, list)
    assert [expert["index"] for expert in experts] == [0, 1]
    assert experts[0]["sigma_low"] == 0
    assert experts[0]["sigma_high"] == experts[1]["sigma_low"]
    for expert in experts:
        assert hashlib.sha256((run / expert["weights"]).read_bytes()).hexdigest() == expert["sha256"]
        assert 1 <= expert["steps"] <= 4
        assert expert["validation_loss"] > 0
    assert _json(run / "privacy_ledger.json")["epsilon"] is None
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sum("loss" in step for step in steps) >= 2
    assert list((run / "tensorboard").iterdir())


def test_a_finished_run_holds_no_statistics_of_parts_of_the_cohort(pipeline: Path) -> None:
    with safe_open(pipeline / "runs/tiny/preconditioner.safetensors", "pt") as file:
        assert set(file.keys()) == {"mean", "components", "residual", "variances"}
    assert not list((pipeline / "runs/tiny").glob("*training*"))


def test_samples_are_volumes_in_the_space_of_the_cohort(pipeline: Path) -> None:
    paths = sorted((pipeline / "samples").rglob("*.nii.gz"))
    assert [path.name for path in paths] == [f"sub-{number}_desc-synthetic_T1w.nii.gz" for number in ("0001", "0002")]
    voxels = []
    for path in paths:
        image = nib.load(path)
        assert image.shape == SHAPE
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        np.testing.assert_allclose(image.header.get_zooms(), SIZE, rtol=1e-6)
        assert int(image.header["sform_code"]) == int(image.header["qform_code"]) > 0
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
        assert image.header.get_xyzt_units()[0] == "mm"
        voxels.append(image.get_fdata())
        sidecar = _json(path.with_name(path.name.replace(".nii.gz", ".json")))
        assert sidecar["Seed"] == 5
        assert sidecar["SkullStripped"] is not None
    assert np.isfinite(voxels).all()
    assert np.abs(voxels[0] - voxels[1]).max() > 1, "two samples are the same"
    assert _json(pipeline / "samples/dataset_description.json")["DatasetType"] == "derivative"


def test_a_sample_depends_on_seed_and_index_alone(pipeline: Path, tmp_path: Path) -> None:
    run, out = str(pipeline / "runs/tiny"), str(tmp_path / "one")
    assert cli.main(["sample", run, "--out", out, "--count", "1", "--seed", "5", "--start-index", "1"]) == 0
    (alone,) = (tmp_path / "one").rglob("*.nii.gz")
    np.testing.assert_array_equal(
        nib.load(alone).get_fdata(), nib.load(pipeline / "samples/sub-0002/anat/sub-0002_desc-synthetic_T1w.nii.gz").get_fdata()
    )


def test_the_report_has_the_fixed_keys_and_works_offline(pipeline: Path) -> None:
    report = _json(pipeline / "report/report.json")
    volumes = report["volumes"]
    assert isinstance(volumes, list)
    assert len(volumes) == 2
    for volume in volumes:
        assert volume["verdict"] in {"pass", "fail"}
        assert 0 <= volume["score"] <= 1
        assert all(set(axes) == {"S", "A", "R"} for axes in volume["metrics"].values())
    html = (pipeline / "report/report.html").read_text()
    assert "data:image/png;base64" in html
    assert 'src="http' not in html
    assert "<link" not in html
    with (pipeline / "report/volumes.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 2
    with (pipeline / "report/slices.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) > 2 * 3 * 8


def test_a_second_run_of_every_command_keeps_what_is_there(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [
        pipeline / name
        for name in ("runs/tiny/ensemble.json", "runs/tiny/metrics.jsonl", "samples/sub-0001/anat/sub-0001_desc-synthetic_T1w.nii.gz")
    ]
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in kept]
    monkeypatch.chdir(pipeline)
    for words in COMMANDS:
        assert cli.main(words) == 0
    assert [(path.stat().st_mtime_ns, path.read_bytes()) for path in kept] == before


def test_strict_fails_on_a_volume_of_noise(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).uniform(0, 200, SHAPE).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, np.diag([SIZE, SIZE, SIZE, 1.0])), tmp_path / "noise.nii.gz")
    monkeypatch.chdir(pipeline)
    words = ["report", str(tmp_path / "noise.nii.gz"), "--reference", "cohort.zarr", "--out", str(tmp_path / "report")]
    assert cli.main(words) == 0
    assert cli.main([*words, "--strict"]) == 1
    (volume,) = _json(tmp_path / "report/report.json")["volumes"]  # type: ignore[misc]
    # By nine people in voxels of 12 mm bands are wide, and noise alone may be another scanner's; it never passes.
    assert volume["verdict"] != "pass"
    assert volume["findings"]


def _break(folder: Path) -> None:
    """Bad inputs beside the good ones."""
    (folder / "bad.yaml").write_text("name: [unclosed\n")
    (folder / "list.yaml").write_text("- 1\n- 2\n")
    (folder / "empty").mkdir()
    (folder / "text.nii.gz").write_text("this is no image")
    (folder / "halfrun").mkdir()
    shutil.copy(folder / "runs/tiny/config.yaml", folder / "halfrun")
    (folder / "used").mkdir()
    (folder / "used/thesis.tex").write_text("years of work")
    (folder / "cut.json").write_text('{"version": ')


@pytest.fixture(scope="module")
def broken(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broken") / "copy"
    shutil.copytree(pipeline, folder)
    _break(folder)
    return folder


SAMPLE = ["--count", "1", "--seed", "0", "--out", "new"]
REPORT = ["--reference", "cohort.zarr", "--out", "new"]
BAD = [
    (["ingest", "nowhere", "new.zarr"], "nowhere"),
    (["ingest", "empty", "new.zarr"], "empty"),
    (["ingest", "text.nii.gz", "new.zarr", "--workers", "1"], "text.nii.gz"),
    (["ingest", "scans", "cohort.zarr", "--shape", "32", "--voxel-size", "6"], "shape was [16, 16, 16]"),
    (["ingest", "scans", "used"], "used"),
    (["ingest", "scans", "new.zarr", "--shape", "0"], "shape"),
    (["ingest", "scans", "new.zarr", "--validation", "0.8", "--test", "0.3"], "leave nobody to train on"),
    (["export", "nowhere", "--out", "new"], "nowhere"),
    (["export", "cohort.zarr", "--out", "new", "--ids", "sub-nobody"], "sub-nobody"),
    (["export", "cohort.zarr", "--out", "used"], "used"),
    (["train", "--config", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
    (["train", "--config", "bad.yaml"], "bad.yaml: cannot be read as YAML"),
    (["train", "--config", "list.yaml"], "list.yaml: holds a list"),
    (["train", "--config", "tiny.yaml", "--name", "x", "--data.store", "nowhere.zarr"], "nowhere.zarr"),
    (["train", "--config", "tiny.yaml", "--name", "x", "--data.shape", "[32, 32, 32]"], "shape"),
    (["train", "--config", "tiny.yaml", "--name", "x", "--netwrk.channels", "[8]"], "did you mean 'network'"),
    (["train", "--config", "tiny.yaml", "--name", "x", "--network.kind", "unet"], "did you mean 'unet3d'"),
    (["train", "--config", "tiny.yaml", "--name", "x", "--experts.count", "9"], "experts.count is 9"),
    (["train", "--config", "tiny.yaml", "--name", "x", "--optimiser.learning_rate", "fast"], "optimiser.learning_rate"),
    (["train", "--config", "tiny.yaml", "--seed", "4"], "seed"),
    (["sample", "nowhere", *SAMPLE], "nowhere"),
    (["sample", "empty", *SAMPLE], "config.yaml"),
    (["sample", "halfrun", *SAMPLE], "halfrun"),
    (["sample", "runs/tiny", "--count", "0", "--seed", "0", "--out", "new"], "--count"),
    (["sample", "runs/tiny", *SAMPLE, "--steps", "9"], "--steps"),
    (["sample", "runs/tiny", *SAMPLE, "--sampler", "eulr"], "did you mean 'euler'"),
    (["sample", "runs/tiny", *SAMPLE, "--sampler.heat", "3"], "heat"),
    (["sample", "runs/tiny", "--count", "1", "--seed", "6", "--out", "samples"], "samples"),
    (["sample", "runs/tiny", "--count", "1", "--seed", "0", "--out", "used"], "used"),
    (["report", "nowhere", *REPORT], "nowhere"),
    (["report", "empty", *REPORT], "empty"),
    (["report", "text.nii.gz", *REPORT], "text.nii.gz"),
    (["report", "samples", "--reference", "nowhere.zarr", "--out", "new"], "nowhere.zarr"),
    (["report", "samples", "--reference", "cut.json", "--out", "new"], "cut.json"),
    (["report", "samples", "--reference", "cohort.zarr", "--out", "used"], "used"),
    (["cohort", "used"], "used"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_one_message(
    words: list[str], message: str, broken: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(broken)
    assert cli.main(words) == 2
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message.lower() in lines[0].lower()
    assert err.rstrip().splitlines()[-1] == lines[0]
    assert "Traceback" not in err + out
    assert (broken / "used/thesis.tex").read_text() == "years of work"
    left = sorted(path.name for path in (broken / "used").iterdir())
    assert left == ["thesis.tex"], f"{words[0]} wrote into a folder that is not its own"


def test_a_damaged_weight_file_is_named(broken: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights = broken / "runs/tiny/experts/0/weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert cli.main(["sample", str(broken / "runs/tiny"), "--out", str(broken / "fresh"), "--count", "1", "--seed", "0"]) == 2
    err = capfd.readouterr().err
    assert "experts/0/weights.safetensors" in err
    assert "Traceback" not in err
    assert not list((broken / "fresh").rglob("*.nii.gz"))


def test_a_folder_without_permission_is_one_message(pipeline: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        target = Path("/proc/volgen")  # where even root cannot write
    else:
        target = tmp_path / "locked" / "cohort"
        target.parent.mkdir(mode=0o500)
    done = _volgen(pipeline, "cohort", str(target))
    assert done.code == 2
    assert str(target) in done.err
    assert "Traceback" not in done.err
