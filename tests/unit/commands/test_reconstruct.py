"""Volumes from measurements, from the command line."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from volgen import cli
from volgen.core.files import sha256


def volgen(*words: str | Path | int | float) -> int:
    return cli.main([str(word) for word in words])


def voxels(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(nib.load(path).get_fdata())  # type: ignore[attr-defined]


def one(out: Path, what: str, head: str = "0001") -> Path:
    return out / f"sub-{head}/anat/sub-{head}_desc-{what}_T1w.nii.gz"


@pytest.fixture
def there(made_by_0_1_0: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made_by_0_1_0)
    return made_by_0_1_0


SIMULATED = (
    "reconstruct",
    "runs/finished",
    "--out",
    "out",
    "--operator",
    "inpaint",
    "--guidance",
    "projection",
    "--steps",
    2,
    "--device",
    "cpu",
)


def test_scans_of_a_store_are_measured_and_the_truth_is_compared(there: Path) -> None:
    words = (*SIMULATED, "--simulate", "cohort.zarr", "--split", "train", "--people", 1, "--count", 3, "--noise", 0.01)
    assert volgen(*words) == 0
    out = there / "out"
    calibration = json.loads((out / "calibration.json").read_text())
    told = calibration["heads"][0]
    assert told["truth"]["mean"]["psnr_head"] > told["truth"]["sample"]["psnr_head"] > 5
    assert set(calibration["all"]["coverage"]) == {"0.5", "0.8", "0.9", "0.95"}
    assert sum(calibration["all"]["pit"]) == pytest.approx(1)
    # What projection copies is the noise itself, and the command says so.
    assert max(told["chi_squares"]) < 0.01
    samples = np.stack([voxels(one(out, f"sample{number:04d}")) for number in (1, 2, 3)])
    np.testing.assert_allclose(voxels(one(out, "mean")), samples.mean(axis=0), rtol=1e-4, atol=1e-3 * np.ptp(samples))
    np.testing.assert_allclose(voxels(one(out, "std")), samples.std(axis=0, ddof=1), rtol=1e-3, atol=1e-3 * np.ptp(samples))
    np.testing.assert_allclose(voxels(one(out, "p50")), np.median(samples, axis=0), rtol=1e-4, atol=1e-3 * np.ptp(samples))
    truth = voxels(one(out, "truth"))
    half = truth.shape[2] // 2
    assert np.abs(samples[0] - truth)[:, :, :half].max() < 0.05 * np.ptp(truth) < np.abs(samples[0] - truth)[:, :, half:].max()
    assert np.abs(voxels(one(out, "std")))[:, :, :half].max() < 1e-3 * np.ptp(truth), "what projection measures has no spread"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"] and manifest["inputs"]["store"] and "reconstruction.html" in manifest["files"]
    # The same command finds all there, and a larger one adds what is missing: sample i depends on the seed and i alone.
    before = {path.name: sha256(path) for path in (out / "sub-0001/anat").glob("*sample*.gz")}
    one(out, "sample0002").unlink()
    assert volgen(*words) == 0
    assert {path.name: sha256(path) for path in (out / "sub-0001/anat").glob("*sample*.gz")} == before
    assert volgen(*words, "--seed", 5) == 2
    assert volgen(*words[:-1], 0.02) == 2
    # Scans are read as the store has them.
    assert sha256(one(out, "sample0001")) == manifest["files"]["sub-0001/anat/sub-0001_desc-sample0001_T1w.nii.gz"]


def test_an_image_with_a_hole_is_filled_where_it_lies(there: Path, bids_errors: Any) -> None:
    assert volgen("sample", "runs/finished", "--out", "scan", "--count", 1, "--seed", 9, "--device", "cpu") == 0
    (scan,) = (there / "scan").rglob("sub-*.nii.gz")
    image = nib.load(scan)  # type: ignore[attr-defined]
    # Another scanner's frame: turned, moved, cut at one side, and NaN where nothing is known.
    data = image.get_fdata()[:, :, :14].astype(np.float32)
    known = np.ones(data.shape, dtype=bool)
    known[6:10, 6:10, 6:10] = False
    data[~known] = np.nan
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) @ np.diag(image.header.get_zooms()[:3])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn, (30, -20, 11)
    nib.save(nib.Nifti1Image(data, affine), there / "hole.nii.gz")  # type: ignore[attr-defined]
    nib.save(nib.Nifti1Image(known.astype(np.uint8), affine), there / "known.nii.gz")  # type: ignore[attr-defined]
    low, high = float(np.nanmin(data)), float(np.nanmax(data))
    words = ("reconstruct", "runs/finished", "--data", "hole.nii.gz", "--operator", "inpaint", "--operator.mask", "known.nii.gz")
    more = ("--guidance", "projection", "--count", 2, "--steps", 2, "--window", low, high, "--device", "cpu", "--centre", "grid")
    assert volgen(*words, "--out", "out", *more) == 0
    mean = nib.load(one(there / "out", "mean"))  # type: ignore[attr-defined]
    np.testing.assert_allclose(mean.affine[:3, :3], turn, atol=1e-5)
    assert mean.shape == (16, 16, 16)
    start = np.linalg.solve(mean.affine, affine)[:3, 3]
    np.testing.assert_allclose(start, [0, 0, 1], atol=1e-4)
    inside = mean.get_fdata()[:, :, 1:15]
    np.testing.assert_allclose(inside[known], data[known], atol=2e-4 * (high - low))
    assert np.isfinite(mean.get_fdata()).all()
    sidecar = json.loads(one(there / "out", "mean").with_name("sub-0001_desc-mean_T1w.json").read_text())
    assert sidecar["Placed"] == "grid" and sidecar["Numbers"] == known.sum()
    assert bids_errors(there / "out") == []


def test_what_cannot_be_reconstructed_is_refused_in_one_message(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    def image(name: str, shape: tuple[int, ...], size: float, fill: float | None = None) -> Path:
        voxels = np.random.default_rng(0).random(shape, dtype=np.float32) if fill is None else np.full(shape, fill, dtype=np.float32)
        nib.save(nib.Nifti1Image(voxels, np.diag([size, size, size, 1.0])), there / name)  # type: ignore[attr-defined]
        return there / name

    size = float(json.loads((there / "runs/finished/geometry.json").read_text())["voxel_size"][0])
    fits, odd = image("fits.nii.gz", (16, 16, 16), size), image("odd.nii.gz", (16, 16, 16), 0.7 * size)
    flat = image("flat.nii.gz", (16, 16, 16), size, 1.0)
    (there / "text.h5").write_text("not HDF5")
    inpaint = ("--operator", "inpaint", "--guidance", "projection")
    for words, message in (
        ((), "--data and --simulate: are both missing"),
        (("--data", fits, "--simulate", "cohort.zarr"), "are both there"),
        (("--data", fits), "--operator: is missing"),
        (("--data", fits, "--mask", "random"), "--mask: is there, and --operator is not"),
        (("--data", there / "nowhere.nii.gz", *inpaint), "there is no such file"),
        (("--data", odd, *inpaint), "odd.nii.gz: has voxels of"),
        (("--data", flat, *inpaint), "flat.nii.gz: is constant"),
        (("--data", fits, *inpaint, "--centre", "header"), "does not lie on the run's grid"),
        (("--data", fits, *inpaint, "--operator.share", "0"), "--operator: measures nothing"),
        (("--data", fits, *inpaint, "--window", "3", "1"), "--window"),
        (("--data", fits, "--operator", "inpaint", "--guidance", "none"), "--guidance: makes nothing agree"),
        (("--simulate", "cohort.zarr", *inpaint, "--people", "0"), "--people: 0"),
        (("--simulate", "cohort.zarr", *inpaint, "--centre", "grid"), "--centre"),
        (("--data", there / "text.h5", *inpaint), "--operator: is there"),
        (("--data", there / "text.h5"), "text.h5: cannot be read as HDF5"),
    ):
        assert volgen("reconstruct", "runs/finished", "--out", "out", "--count", 1, "--steps", 2, *words) == 2, words
        error = capsys.readouterr().err
        assert message in error, (message, error)
        assert "Traceback" not in error
    assert not (there / "out").exists()


def test_data_that_the_model_cannot_explain_are_called_so(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*SIMULATED, "--simulate", "cohort.zarr", "--split", "train", "--people", 1, "--count", 1, "--noise", 0.01)
    assert volgen(*words, "--guidance.strength", 0.0, "--strict") == 1
    assert "Data and model disagree" in capsys.readouterr().err
    assert "Data and model disagree" in (there / "out/reconstruction.html").read_text()


def test_k_space_of_coils_is_reconstructed_by_what_is_best(there: Path) -> None:
    words = ("--operator", "cartesian", "--operator.coils", 3, "--mask", "random", "--mask.acceleration", 2)
    more = ("--simulate", "cohort.zarr", "--split", "train", "--people", 2, "--count", 2, "--noise", 0.05, "--steps", 3, "--device", "cpu")
    assert volgen("reconstruct", "runs/finished", "--out", "out", *words, *more) == 0
    config = json.loads((there / "out/manifest.json").read_text())["config"]
    assert config["guidance"]["kind"] == "resample" and config["sampler"]["kind"] == "renoise"
    assert config["operator"]["mask"]["kind"] == "random" and config["operator"]["mask"]["acceleration"] == 2
    heads = json.loads((there / "out/calibration.json").read_text())["heads"]
    assert len(heads) == 2
    assert all(0.5 < value < 2.0 for head in heads for value in head["chi_squares"])


def test_raw_data_are_reconstructed_where_the_scanner_says(there: Path, repository: Path) -> None:
    (there / "scan.h5").write_bytes(lzma.decompress((repository / "tests/fixtures/ismrmrd.h5.xz").read_bytes()))
    words = ("reconstruct", "runs/finished", "--data", "scan.h5", "--centre", "grid", "--count", 2, "--steps", 3, "--device", "cpu")
    assert volgen(*words, "--out", "out") == 0
    mean = nib.load(one(there / "out", "mean"))  # type: ignore[attr-defined]
    # The file's image is an ellipsoid about L 5, A 3, S 7 of 12 x 8 x 12 voxels, brighter at the upper side.
    np.testing.assert_allclose(mean.affine[:3, :3], 14.0 * np.eye(3), atol=1e-4)
    image = np.asarray(mean.get_fdata())
    x, y, z = np.linalg.inv(mean.affine)[:3] @ [-5, 3, 7, 1]
    grid = np.meshgrid(*(np.arange(edge) - middle for edge, middle in zip(image.shape, (x, y, z), strict=True)), indexing="ij")
    head = np.where((grid[2] / 5) ** 2 + (grid[0] / 4.5) ** 2 + (grid[1] / 3) ** 2 < 1, 1.0, 0.0) * (1 + 0.5 * (grid[2] > 1))
    assert np.corrcoef(image.ravel(), head.ravel())[0, 1] > 0.85
    assert np.corrcoef(image[:, :, ::-1].ravel(), head.ravel())[0, 1] < np.corrcoef(image.ravel(), head.ravel())[0, 1]


def test_what_a_guidance_has_noted_is_said(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["energy" if word == "projection" else word for word in SIMULATED]
    more = ("--simulate", "cohort.zarr", "--split", "train", "--people", 1, "--count", 1, "--guidance.path", "score", "--guidance.moves", 1)
    assert volgen(*words, *more) == 0
    said = capsys.readouterr()
    assert "energy: fell_back" in said.out + said.err and "energy: finished" in said.out + said.err
