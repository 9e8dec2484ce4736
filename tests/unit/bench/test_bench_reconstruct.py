"""`volgen bench reconstruct`: wavelets and the Gaussian against closed forms, and a whole small form that is stopped and continued."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from volgen.bench._shared.record import Record
from volgen.bench.reconstruct import wavelets
from volgen.cli import main
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.operators.identity import Config as Identity
from volgen.operators.inpaint import Config as Inpaint
from volgen.recipe import Recipe


def test_wavelets_are_orthogonal_and_a_line_of_low_degree_has_few_of_them() -> None:
    matrix = wavelets.orthogonal(16)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(16), atol=1e-6, rtol=0)
    cubic = torch.linspace(-1, 1, 16) ** 3
    details = matrix[8:] @ cubic
    assert details[:5].abs().max() < 1e-5 < 0.05 < details[5:].abs().max(), "four vanishing moments, but where the period ends"
    x = torch.randn(1, 1, 10, 12, 8)
    torch.testing.assert_close(wavelets.shrunk(x, 0.0, (3, 1, 2)), x, atol=1e-5, rtol=0)


def test_compressed_sensing_of_everything_is_soft_thresholding() -> None:
    x, cpu = torch.zeros(1, 1, 16, 16, 16), torch.device("cpu")
    x[..., 4:11, 5:12, 3:9] = 1.0
    operator = Identity().build((16, 16, 16), cpu)
    clean = wavelets.sparsest(operator, x, 1e-5, (1, 1, 16, 16, 16))
    torch.testing.assert_close(clean, x, atol=1e-3, rtol=0)
    torch.manual_seed(0)
    noisy = x + 0.1 * torch.randn(x.shape)
    errors = [float((wavelets.sparsest(operator, noisy, weight, x.shape) - x).square().mean()) for weight in (1e-5, 0.1, 10.0)]
    assert errors[1] < 0.5 * errors[0] and errors[1] < errors[2], "some weight is better than none, and than one that leaves nothing"
    # What is missing is filled in by what is sparse: better than leaving it at 0.
    hole = Inpaint(share=0.5).build((16, 16, 16), cpu)
    filled = wavelets.sparsest(hole, hole.apply(x), 0.01, x.shape)
    assert (filled - x).square().mean() < (hole.adjoint(hole.apply(x)) - x).square().mean()


def small_run(store: Path, runs: Path) -> Path:
    content = {
        "name": "run", "runs": str(runs), "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 2},
        "schedule": {"kind": "log_snr", "points": 3, "sigma_max": 3.0}, "network": {"kind": "wavelet_unet3d", "channels": [8]},
        "preconditioner": {"kind": "gaussian"},
        "stopping": {"max_steps": 1, "min_steps": 1, "validation_volumes": 1, "validation_draws": 1},
    }  # fmt: skip
    return train(validate(Recipe, content, "test"))


def test_a_small_form_compares_guidances_with_rows_without_a_network_and_continues(
    blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = small_run(blob_store, tmp_path), tmp_path / "figures"
    words = ["bench", "reconstruct", str(run), "--store", str(blob_store), "--folder", str(folder), "--people", "1", "--tuning", "1",
             "--accelerations", "2", "--coils", "2", "--samples", "2", "--iterations", "8", "--device", "cpu",
             "--supervised", "20"]  # fmt: skip
    assert main([*words, "--guidances", "resample", "dds"]) == 0
    told = {row["name"]: row["value"] for row in json.loads((folder / "reconstruct.json").read_text())["rows"]}
    assert told["people"] == 1
    assert told["2x Gaussian alone: PSNR"] > told["2x Gaussian alone: sample PSNR"], "a posterior's mean is nearer than a draw of it"
    assert 0.8 < told["2x Gaussian alone: chi-square"] < 1.25, "draws miss the data by their noise"
    assert {"2x resample: coverage of 90 %", "2x dds: sample PSNR", "2x compressed sensing: PSNR", "2x zero-filled: PSNR"} <= set(told)
    assert "2x zero-filled: sample PSNR" not in told and told["2x compressed sensing: PSNR"] > told["2x zero-filled: PSNR"]
    assert told["2x U-Net trained for 2x, 20 steps: PSNR"] > told["2x zero-filled: PSNR"] + 3
    table = (folder / "reconstruct.md").read_text()
    assert "| Gaussian alone |" in table and (folder / "reconstruct.png").stat().st_size > 1000
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["complete"] and "reconstruct.md" in manifest["files"]

    # What is there stays, what is missing comes, and figures of other settings are refused.
    cells = {path: path.stat().st_mtime_ns for path in (folder / "people").rglob("*.json")}
    gone = folder / "people/0001/2x/dds.json"
    before = json.loads(gone.read_text())["figures"]
    gone.unlink()
    (network,), told_before = (folder / "people").glob("*.safetensors"), told["2x U-Net trained for 2x, 20 steps: PSNR"]
    trained_at, of_network = network.stat().st_mtime_ns, folder / "people/0001/2x/u-net-trained-for-2x-20-steps.json"
    of_network.unlink()
    assert main([*words, "--guidances", "resample", "dds"]) == 0
    again = {row["name"]: row["value"] for row in json.loads((folder / "reconstruct.json").read_text())["rows"]}
    assert network.stat().st_mtime_ns == trained_at and again["2x U-Net trained for 2x, 20 steps: PSNR"] == pytest.approx(told_before)
    cells.pop(of_network)
    assert {path for path, when in cells.items() if path.stat().st_mtime_ns != when} == {gone}
    assert {**json.loads(gone.read_text())["figures"], "CPU time": 0} == {**before, "CPU time": 0}
    assert main([*words, "--seed", "1"]) == 2 and "other figures" in capsys.readouterr().err
    assert main([*words, "--guidances", "ddd"]) == 2 and "no guidance 'ddd'" in capsys.readouterr().err


def test_lambda_goes_from_the_prior_to_the_data(blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, folder = small_run(blob_store, tmp_path), tmp_path / "figures"
    words = ["bench", "strength", str(run), "--store", str(blob_store), "--folder", str(folder), "--people", "1", "--acceleration", "2",
             "--coils", "2", "--samples", "2", "--iterations", "20", "--device", "cpu", "--split", "validation"]  # fmt: skip
    assert main([*words, "--strengths", "0", "0.5", "1"]) == 0
    told = {row["name"]: row["value"] for row in json.loads((folder / "strength.json").read_text())["rows"]}
    left = [told[f"lambda {one}: residual"] for one in ("0", "0.5", "1")]
    assert left[0] > 2.5 > 1 > left[1] > left[2], "the more lambda is, the less is left of what was measured"
    assert told["lambda 1: sample PSNR"] > told["lambda 0: sample PSNR"] and 0 <= told["lambda 0.5: score"] <= 1
    assert (folder / "strength.png").stat().st_size > 1000 and "| 0.5 |" in (folder / "strength.md").read_text()
    capsys.readouterr()
    assert main([*words, "--strengths", "1", "0"]) == 2 and "ascending" in capsys.readouterr().err


def test_half_a_head_is_completed_along_two_paths_and_judged_where_nothing_was_measured(blob_store: Path, tmp_path: Path) -> None:
    run, folder = small_run(blob_store, tmp_path), tmp_path / "figures"
    words = ["bench", "strength", str(run), "--store", str(blob_store), "--folder", str(folder), "--people", "1", "--samples", "2",
             "--instrument", "half", "--device", "cpu", "--split", "validation", "--strengths", "0", "1"]  # fmt: skip
    assert main([*words, "--guidance", "song", "energy"]) == 0
    told = {row["name"]: row["value"] for row in json.loads((folder / "strength.json").read_text())["rows"]}
    for kind in ("song", "energy"):
        assert told[f"{kind}, lambda 1: residual"] < 1e-3 < 2.5 < told[f"{kind}, lambda 0: residual"], "the data are copied, noise and all"
        assert told[f"{kind}, lambda 1: unknown PSNR"] < told[f"{kind}, lambda 1: sample PSNR"], "what was measured is no merit"
    assert told["song, lambda 0: unknown PSNR"] == told["energy, lambda 0: unknown PSNR"], "without a measurement there is one path"
    assert told["song, lambda 1: unknown PSNR"] != told["energy, lambda 1: unknown PSNR"]
    assert len((folder / "strength.md").read_text().splitlines()) == 4 + 4
    assert main([*words, "--sampler", "renoise"]) == 2, "figures of another solver"


def test_one_setting_is_held_against_the_best_for_each_of_eight_instruments(blob_store: Path, tmp_path: Path) -> None:
    run, folder = small_run(blob_store, tmp_path), tmp_path / "figures"
    words = ["bench", "instruments", str(run), "--store", str(blob_store), "--folder", str(folder), "--people", "1", "--coils", "2",
             "--samples", "2", "--iterations", "8", "--trials", "2", "--device", "cpu"]  # fmt: skip
    assert main(words) == 0
    told = {row["name"]: row["value"] for row in json.loads((folder / "instruments.json").read_text())["rows"]}
    names = {name.rpartition(", ")[0] for name in told if ", tuned: PSNR" in name}
    assert len(names) == 8 and {"k-space 8x", "shading", "a hole of 20 mm", "slices of 4 voxels"} <= names
    assert told["slices of 2 voxels, as it is: PSNR"] > told["slices of 4 voxels, as it is: PSNR"]
    trials = json.loads((folder / "people/tuned/shading/trials.json").read_text())["trials"]
    assert trials[0]["values"] == {"guidance.spread": 1.0} != trials[1]["values"], "the first trial is what nobody has tuned"
    assert len((folder / "instruments.md").read_text().splitlines()) == 4 + 8


def test_solutions_are_timed_beside_the_network(blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = small_run(blob_store, tmp_path), tmp_path / "solves.json"
    words = ["bench", "solves", str(run), "--store", str(blob_store), "--coils", "1", "2", "--levels", "2", "--device", "cpu"]
    assert main([*words, "--iterations", "7", "--tolerance", "1e-12", "--out", str(out)]) == 0
    told = {row["name"]: row["value"] for row in json.loads(out.read_text())["rows"]}
    assert told["2 coils: iterations"] == 7 and told["voxels"] == 16**3
    assert told["2 coils: solution"] / told["2 coils: network"] == pytest.approx(told["2 coils: solution / network"])
    assert told["1 coil: iteration"] > 0 and told["most memory of the process"] > 0.1
    assert "| 2 |" in capsys.readouterr().out


def test_what_is_not_installed_is_said_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    from volgen.bench.reconstruct import theirs
    from volgen.core.errors import UserError

    with pytest.raises(UserError, match="deepinv is not installed"):
        theirs.methods()


def test_samplers_of_deepinv_take_the_runs_denoiser(blob_store: Path, tmp_path: Path) -> None:
    pytest.importorskip("deepinv")
    run, folder = small_run(blob_store, tmp_path), tmp_path / "figures"
    words = ["bench", "reconstruct", str(run), "--store", str(blob_store), "--folder", str(folder), "--people", "1", "--tuning", "1",
             "--accelerations", "1.5", "--samples", "2", "--iterations", "8", "--device", "cpu", "--guidances", "gauss"]  # fmt: skip
    assert main([*words, "--deepinv"]) == 0
    told = {row["name"]: row["value"] for row in json.loads((folder / "reconstruct.json").read_text())["rows"]}
    assert told["1.5x deepinv's DiffPIR: sample PSNR"] > told["1.5x zero-filled: PSNR"], "what was measured nearly completely is found"
    assert told["1.5x deepinv's DPS: sample PSNR"] > 0


def test_what_figures_are_made_of_is_called_as_they_are(tmp_path: Path) -> None:
    record = Record("reconstruct", tmp_path, {}, {}, 0)
    found = [record.beside(f"trained for {factor}x", ".safetensors").name for factor in (8.25, 8.5)]
    assert found == ["trained-for-8.25x.safetensors", "trained-for-8.5x.safetensors"] and record.beside("a/8.5x").name == "8.5x"
