"""`volgen anonymise`: the file, the certificate, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from volgen import cli
from volgen.commands.anonymise import anonymise as stage
from volgen.commands.anonymise.anonymise import CERTIFICATE, anonymise
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.rounding import upper
from volgen.images.geometry import Geometry
from volgen.privacy.gaussian import epsilon_of, mu_of
from volgen.recipe import Recipe
from volgen.runs.scan import prepared

SECRET = b"Doe^Jane"
WEAK = {"epsilon": 1e6, "delta": 1e-5, "accept_vacuous": True}


@pytest.fixture(scope="module")
def run(blob_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    content: dict[str, Any] = {
        "name": "run", "runs": str(tmp_path_factory.mktemp("runs")), "seed": 5,
        "data": {"store": str(blob_store), "shape": [16, 16, 16], "batch_size": 2},
        "schedule": {"kind": "log_snr", "points": 6, "sigma_max": 30.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4},
        "preconditioner": {"kind": "gaussian", "rank": 2, "levels": 1, "folds": 3},
        "experts": {"count": 2}, "sampler": {"kind": "euler"},
        "stopping": {"max_steps": 1, "validation_volumes": 2, "validation_draws": 2},
    }  # fmt: skip
    return train(validate(Recipe, content, "test"))


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan that lies askew in its scanner, with a patient's name in its header and in its file name."""
    x, y, z = np.meshgrid(*[np.arange(n) - n / 2 for n in (20, 18, 17)], indexing="ij")
    voxels = (800.0 * np.exp(-((x / 3.0) ** 2 + (y / 2.5) ** 2 + (z / 3.5) ** 2))).astype(np.float32)
    affine = np.diag([-7.0, 8.0, 8.5, 1.0])
    affine[:3, 3] = (81.0, -77.0, 12.0)
    image = nib.Nifti1Image(voxels, affine)
    image.header["descrip"] = SECRET
    path = tmp_path_factory.mktemp("scans") / "doe_jane.nii.gz"
    nib.save(image, path)
    return path


def test_the_image_is_in_the_frame_of_the_run_and_nothing_of_the_header_is_left(run: Path, scan: Path, tmp_path: Path) -> None:
    out = anonymise(scan, run, tmp_path / "out", **WEAK)
    image, geometry = nib.load(out / "sub-0001/anat/sub-0001_desc-anonymised_T1w.nii.gz"), Geometry.read(run)
    assert image.shape == geometry.shape  # type: ignore[attr-defined]
    np.testing.assert_allclose(image.affine, geometry.affine)  # type: ignore[attr-defined]
    assert image.header.get_sform(coded=True)[1] == image.header.get_qform(coded=True)[1] == 2  # type: ignore[attr-defined]
    assert np.isfinite(image.get_fdata()).all()  # type: ignore[attr-defined]
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file() and path.suffix != ".gz") + bytes(
        image.header.binaryblock
    )  # type: ignore[attr-defined]
    assert b"jane" not in written.lower()


def test_what_is_written_beside_the_image_is_the_same_for_any_two_scans(run: Path, scan: Path, tmp_path: Path) -> None:
    """Size, place, voxel size, name and the time that it took are no part of what the noise covers."""
    other = tmp_path / "somebody_else_with_a_long_name.nii.gz"
    voxels = np.random.default_rng(0).gamma(2.0, 100.0, (96, 80, 70)).astype(np.float32)
    affine = np.diag([1.5, 2.0, 1.9, 1.0])
    affine[:3, 3] = (-70.0, -60.0, -55.0)
    nib.save(nib.Nifti1Image(voxels, affine), other)
    image = "sub-0001/anat/sub-0001_desc-anonymised_T1w.nii.gz"
    centre = anonymise(scan, run, tmp_path / "mean", **WEAK) / image
    one, two = (anonymise(path, run, tmp_path / f"of_{path.name[:3]}", centre=str(centre), **WEAK) for path in (scan, other))
    names = [{path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} for folder in (one, two)]
    assert names[0] == names[1] and image in names[0]
    for name in names[0] - {image, "manifest.json"}:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
        assert str(tmp_path).encode() not in (one / name).read_bytes(), name
    manifest, other_one = (json.loads((folder / "manifest.json").read_text()) for folder in (one, two))
    assert str(tmp_path) not in json.dumps(manifest)
    for each in (manifest, other_one):
        each.get("files", {}).pop(image, None)  # the checksum of what is released
        assert each.pop("seal")  # a checksum of that and of what is the same
    assert manifest == other_one
    assert not {"wall_seconds", "peak_memory_bytes"} & set(manifest)
    headers = [nib.load(path / image).header.binaryblock for path in (one, two)]  # type: ignore[attr-defined]
    assert headers[0] == headers[1]
    # Of gzip's own header: flags (a name, a comment), time.
    packed = [(path / image).read_bytes()[:10] for path in (one, two)]
    assert packed[0] == packed[1] and packed[0][3:8] == bytes(5)


def test_two_promises_of_different_kinds_are_not_added() -> None:
    """(3, 1e-5) about taking part is (6, 1e-5 (1 + e^3)) about being exchanged; only then the release's own (2, 1e-6) is added."""
    own = stage._both(3.0, 1e-5, stage.ScanBudget(1.0, 1.0 / mu_of(2.0, 1e-6), 1e-6), exchanged=4.7)
    assert "costs at most (4.7, 1e-05)" in own and "together at most (6.7, " in own, "what the ledger itself has is less"
    said = stage._both(3.0, 1e-5, stage.ScanBudget(1.0, 1.0 / mu_of(2.0, 1e-6), 1e-6))
    assert "the two are not added" in said and "(6, 0.00022)" in said
    total = 1e-5 * (1 + np.e**3) + 1e-6
    assert "at most (8" in said and upper(total, 2) in said


def test_the_certificate_says_what_was_done(run: Path, scan: Path, tmp_path: Path) -> None:
    radius = 10.0
    out = anonymise(scan, run, tmp_path / "out", epsilon=8.0, delta=1e-5, radius=radius, centre="run")
    found = json.loads((out / CERTIFICATE).read_text())
    assert {"neighbouring", "clip", "d", "sigma", "mu", "epsilon", "delta", "denoiser"} <= set(found)
    assert found["d"] == 16**3 and found["sensitivity"] == 2 * radius and found["clip"]["radius"] == radius
    assert found["mu"] == pytest.approx(2 * radius / found["sigma"]) and found["epsilon"] == epsilon_of(found["mu"], 1e-5) <= 8.0
    assert found["asked"] == {"epsilon": 8.0, "delta": 1e-5} and not found["vacuous"]
    grid = json.loads((run / "ensemble.json").read_text())["grid"]
    needed = found["denoiser"]["noise_needed"]
    assert found["sigma"] == min(level for level in grid if level >= needed), "the run's next level, with at least the noise needed"
    assert found["denoiser"]["levels"] == [level for level in grid if level <= found["sigma"]]
    assert found["denoiser"]["epsilon"] is None and "cannot check" in found["denoiser"]["assumed"]
    sidecar = json.loads((out / "sub-0001/anat/sub-0001_desc-anonymised_T1w.json").read_text())
    assert sidecar["PrivacyStatement"] == found["meaning"] and sidecar["PrivacyCertificate"] == CERTIFICATE


def test_the_denoiser_starts_from_the_clipped_scan_with_the_certified_noise(
    run: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[torch.Tensor] = []
    real = stage.descent.sample

    def spy(*args: Any, **options: Any) -> list[torch.Tensor]:
        started.append(options["begin"][0][0].double())
        return real(*args, **options)

    monkeypatch.setattr(stage.descent, "sample", spy)
    radius = 5.0
    for name in ("one", "two"):
        anonymise(scan, run, tmp_path / name, epsilon=9.0, delta=1e-5, radius=radius, centre="run")
    sigma = json.loads((tmp_path / "one" / CERTIFICATE).read_text())["sigma"]
    difference = started[0] - started[1]
    assert float(difference.std()) == pytest.approx(2**0.5 * sigma, rel=0.05), "two releases have noise of their own"
    mean = (started[0] + started[1]) / 2
    assert float(mean.norm()) == pytest.approx(sigma * (16**3 / 2) ** 0.5, rel=0.25), "the clipped scan is small beside its noise"


def test_a_vacuous_budget_is_refused_and_named(run: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["anonymise", str(scan), str(run), "--epsilon", "1e6", "--delta", "1e-5", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "vacuous" in error and "--accept-vacuous" in error
    assert not (tmp_path / "out").exists()
    assert cli.main([*words, "--accept-vacuous"]) == 0
    assert "VACUOUS" in json.loads((tmp_path / "out" / CERTIFICATE).read_text())["meaning"]


def test_a_budget_beyond_the_noise_of_the_run_is_refused(run: Path, scan: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs noise of .* and this run knows noise up to 30"):
        anonymise(scan, run, tmp_path / "out", epsilon=1.0, delta=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "--epsilon: 0.0"), ({"epsilon": float("nan")}, "--epsilon"), ({"delta": 0.0}, "--delta"),
        ({"delta": 1.0}, "--delta"), ({"radius": -1.0}, "--radius"), ({"radius": 0.0}, "--radius"), ({"steps": 99}, "--steps"),
        ({"centre": "nowhere.nii"}, "no such file"),
    ],
)  # fmt: skip
def test_impossible_options_are_refused(options: dict[str, Any], message: str, run: Path, scan: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        anonymise(scan, run, tmp_path / "out", **{**WEAK, **options})
    assert not (tmp_path / "out").exists()


def test_each_release_has_a_directory_of_its_own(run: Path, scan: Path, tmp_path: Path) -> None:
    anonymise(scan, run, tmp_path / "out", **WEAK)
    with pytest.raises(UserError, match="a release of its own"):
        anonymise(scan, run, tmp_path / "out", **WEAK)


def test_a_public_mean_can_be_given_and_must_be_in_the_frame(run: Path, scan: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\[20, 18, 17\] voxels"):
        anonymise(scan, run, tmp_path / "out", centre=str(scan), **WEAK)
    mean = anonymise(scan, run, tmp_path / "mean", **WEAK) / "sub-0001/anat/sub-0001_desc-anonymised_T1w.nii.gz"
    out = anonymise(scan, run, tmp_path / "out", centre=str(mean), **WEAK)
    assert "public" in json.loads((out / CERTIFICATE).read_text())["clip"]["centre"]


def test_little_noise_keeps_the_scan(run: Path, scan: Path, tmp_path: Path) -> None:
    """At the lowest level, the volume that comes out is the scan on the run's grid."""
    out = anonymise(scan, run, tmp_path / "out", epsilon=1e12, delta=1e-5, accept_vacuous=True)
    unit = Geometry.read(run).intensity.to_unit(nib.load(out / "sub-0001/anat/sub-0001_desc-anonymised_T1w.nii.gz").get_fdata())  # type: ignore[attr-defined]
    expected = (prepared(scan, Geometry.read(run)).numpy() + 1) / 2
    assert np.corrcoef(unit.ravel(), expected.ravel())[0, 1] > 0.98
