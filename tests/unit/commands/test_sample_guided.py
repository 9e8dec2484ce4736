"""Volumes that agree with what was measured, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from volgen import cli
from volgen.commands.sample import sample as sample_stage
from volgen.core.registry import config_class
from volgen.runs.choices import component


def volgen(*words: str | Path) -> int:
    return cli.main([str(word) for word in words])


def voxels(folder: Path) -> list[np.ndarray]:  # type: ignore[type-arg]
    return [nib.load(path).get_fdata() for path in sorted(folder.rglob("sub-*.nii.gz"))]


@pytest.fixture
def there(made_by_0_1_0: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made_by_0_1_0)
    assert volgen("sample", "runs/finished", "--out", "scan", "--count", 1, "--seed", 9, "--device", "cpu") == 0  # type: ignore[arg-type]
    return made_by_0_1_0


def test_a_head_is_completed_from_its_lower_half(there: Path) -> None:
    (scan,) = (there / "scan").rglob("sub-*.nii.gz")
    words = ["sample", "runs/finished", "--guidance", "projection", "--operator", "inpaint", "--data", str(scan), "--seed", "5"]
    assert volgen(*words, "--out", "completed", "--count", "2") == 0
    truth, (first, second) = nib.load(scan).get_fdata(), voxels(there / "completed")
    half = truth.shape[2] // 2
    for volume in (first, second):
        np.testing.assert_allclose(volume[:, :, :half], truth[:, :, :half], atol=1e-4 * np.ptp(truth))
    assert np.abs(first - second)[:, :, half:].max() > 0.01 * np.ptp(truth), "what was not measured is drawn"
    manifest = json.loads((there / "completed/manifest.json").read_text())
    assert manifest["config"]["guidance"] == {"kind": "projection", "strength": 1.0}
    assert manifest["config"]["operator"]["share"] == 0.5 and len(manifest["config"]["data"]) == 64
    sidecar = json.loads(next((there / "completed").rglob("sub-0001*.json")).read_text())
    assert sidecar["AskedFor"]["guidance"]["kind"] == "projection" and "shows no person" not in sidecar["Description"]
    assert "None shows a person" not in (there / "completed/README.md").read_text()
    # A folder of one measurement is not continued with another.
    assert volgen(*words, "--out", "completed", "--count", "2", "--operator.share", "0.25") == 2


def test_an_option_that_comes_later_leaves_guided_samples_to_be_continued(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (scan,) = (there / "scan").rglob("sub-*.nii.gz")
    words = ["sample", "runs/finished", "--out", "completed", "--count", "1", "--steps", "2", "--data", str(scan)]
    assert volgen(*words, "--guidance", "projection", "--operator", "inpaint") == 0

    class Newer(config_class("volgen.operators", "inpaint")):  # type: ignore[misc]
        margin: int = 0

    for margin, code in ((0, 0), (3, 2)):
        newer = Newer(margin=margin)
        monkeypatch.setattr(
            sample_stage, "component", lambda option, *rest, newer=newer: newer if option == "--operator" else component(option, *rest)
        )
        assert volgen(*words, "--guidance", "projection") == code


def test_samples_of_the_prior_do_not_say_that_nothing_guided_them(there: Path) -> None:
    assert "guidance" not in json.loads((there / "scan/manifest.json").read_text())["config"]
    assert "AskedFor" not in json.loads(next((there / "scan").rglob("sub-0001*.json")).read_text())


def test_halves_of_a_measurement_are_refused(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scan,) = (there / "scan").rglob("sub-*.nii.gz")
    other = nib.load(scan)
    nib.save(nib.Nifti1Image(other.get_fdata()[:8].astype(np.float32), other.affine), there / "short.nii.gz")
    moved = np.array(other.affine)
    moved[0, 3] += 5.0
    nib.save(nib.Nifti1Image(other.get_fdata().astype(np.float32), moved), there / "moved.nii.gz")
    full = ("--guidance", "projection", "--operator", "inpaint")
    for words, message in (
        (("--guidance", "projection"), "a measurement: --operator KIND and --data FILE"),
        (("--operator", "inpaint", "--guidance", "projection"), "--operator: is there, and --data is not"),
        (("--operator", "inpaint", "--data", scan), "--data: nothing makes volumes agree with it"),
        ((*full, "--data", there / "short.nii.gz"), "short.nii.gz: has [8, 16, 16] voxels"),
        ((*full, "--data", there / "moved.nii.gz"), "moved.nii.gz: is in another place"),
        (("--guidance", "projektion", "--operator", "inpaint", "--data", scan), "there is no guidance 'projektion'"),
        (("--operator.share", "0.3", "--data", scan), "--operator"),
    ):
        assert volgen("sample", "runs/finished", "--out", "out", "--count", "1", *words) == 2, words
        assert message in capsys.readouterr().err


def test_a_run_may_have_a_guidance_of_its_own(there: Path) -> None:
    def drawn(out: str, *words: str) -> tuple[np.ndarray, object]:  # type: ignore[type-arg]
        assert volgen("sample", "runs/finished", "--out", out, "--count", "1", "--seed", "9", *words) == 0
        return voxels(there / out)[0], json.loads((there / out / "manifest.json").read_text())["config"].get("guidance")

    (plain, nothing), (strong, said) = drawn("plain"), drawn("strong", "--guidance", "auto", "--guidance.strength", "2")
    config = there / "runs/finished/config.yaml"
    config.write_text(config.read_text() + "guidance: {kind: auto, strength: 2.0}\n")
    (own, told), (off, silent) = drawn("own"), drawn("off", "--guidance", "none")
    np.testing.assert_array_equal(own, strong)
    np.testing.assert_array_equal(off, plain)
    assert told == said and nothing is silent is None
    assert np.abs(strong - plain).max() > 0.001 * np.ptp(plain)
