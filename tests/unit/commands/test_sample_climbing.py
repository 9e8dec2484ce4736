"""`volgen sample` of a bank with levels: volumes climb where nothing needs them whole, and folders say whether they did."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from volgen.cli import main
from volgen.commands.sample.sample import sample
from volgen.core.errors import UserError
from volgen.core.files import read_json, sha256, write_json
from volgen.experts.ensemble import Ensemble, ExpertRecord, write
from volgen.images.geometry import Geometry
from volgen.images.intensity import IntensityMap, to_model
from volgen.models import haar
from volgen.privacy.plans.none import NOTHING
from volgen.recipe import load
from volgen.runs import trained
from volgen.runs.coarser import in_voxels
from volgen.runs.trained import open_run
from volgen.sampling import descent

SHAPE = (16, 16, 16)
SIZE = 16**3
LEVELS = [2, 2, 1, 0, 0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three experts with random weights, each of a level of its own, behind a Gaussian that was fitted to random volumes."""
    return made(tmp_path_factory.mktemp("runs") / "levels", 0.05)


def made(directory: Path, weights: float) -> Path:
    directory.mkdir()
    content = {
        "name": "levels", "data": {"store": "nowhere.zarr", "shape": list(SHAPE)},
        "schedule": {"kind": "log_snr", "points": 5, "sigma_max": 20.0},
        "network": {"kind": "wavelet_unet3d", "channels": [4], "norm_groups": 2},
        "preconditioner": {"kind": "gaussian", "levels": 2, "rank": 2, "rank_level": 2, "folds": 2},
        "experts": {"models": [{"points": 2}, {"points": 1, "level": 1}, {"points": 2, "level": 2}]},
    }  # fmt: skip
    (directory / "config.yaml").write_text(yaml.safe_dump(content))
    recipe = load(directory / "config.yaml")
    torch.manual_seed(0)
    volumes = [torch.rand(SHAPE) - 0.5 for _ in range(4)]
    save_file(recipe.preconditioner.fit(lambda: iter(volumes), list("abcd"), 0).state(), directory / "preconditioner.safetensors")
    records, grid = [], recipe.schedule.grid()
    for phase in sorted(recipe.phases(), key=lambda phase: phase.span.low):
        module = recipe.of(phase).build().released(phase)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=weights)
        path = directory / "experts" / phase.name / "weights.safetensors"
        path.parent.mkdir(parents=True)
        save_file(module.state_dict(), path)
        name = path.relative_to(directory).as_posix()
        made = recipe.made_of(phase)
        records.append(ExpertRecord(int(phase.name), phase.span.low, phase.span.high, name, sha256(path), 1, 1, 0.5, made))
    write(directory / "ensemble.json", Ensemble(tuple(records), grid[-1], grid[0], tuple(grid)))
    Geometry(SHAPE, (1.0, 1.0, 1.0), IntensityMap(0.0, 100.0), skull_stripped=True).write(directory)
    write_json(directory / "privacy_ledger.json", NOTHING)
    return directory


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Voxels of every noise that is drawn."""
    sizes: list[int] = []
    real = descent.Descent._noise

    def counted(self: descent.Descent, *key: Any) -> torch.Tensor:
        noise = real(self, *key)
        sizes.append(noise.numel())
        return noise

    monkeypatch.setattr(descent.Descent, "_noise", counted)
    return sizes


def sidecar(out: Path, number: int = 1) -> dict[str, Any]:
    return json.loads(next(out.rglob(f"sub-{number:04d}_*.json")).read_text())  # type: ignore[no-any-return]


def images(out: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(out.rglob("*_T1w.nii.gz"))]


def test_volumes_climb_and_say_so(run: Path, tmp_path: Path, drawn: list[int]) -> None:
    out = sample(run, tmp_path / "out", count=1, device="cpu")
    assert drawn == [SIZE // 64, SIZE // 8, SIZE], "noise of the corner, and of the bands that come later"
    assert sidecar(out)["Levels"] == [*LEVELS, 0]
    assert read_json(out / "manifest.json", "manifest")["config"]["climbs"] is True
    again = sample(run, tmp_path / "again", count=3, device="cpu", memory_gib=0)
    assert images(again)[0] == images(out)[0], "a volume depends on its seed and index alone"
    assert len(set(images(again))) == 3


@pytest.mark.parametrize("options", [{"full": True}, {"noise": "slerp"}])
def test_what_needs_whole_volumes_gets_them(run: Path, tmp_path: Path, drawn: list[int], options: dict[str, Any]) -> None:
    out = sample(run, tmp_path / "out", count=1, device="cpu", **options)
    assert drawn == [SIZE]
    assert "Levels" not in sidecar(out) and "climbs" not in read_json(out / "manifest.json", "manifest")["config"]


def test_a_guidance_gets_whole_volumes(run: Path, tmp_path: Path, drawn: list[int]) -> None:
    data = next(sample(run, tmp_path / "data", count=1, device="cpu").rglob("*_T1w.nii.gz"))
    drawn.clear()
    sample(run, tmp_path / "out", count=1, device="cpu", guidance="projection", operator={"kind": "inpaint", "share": 0.5}, data=data)
    assert set(drawn) == {SIZE}


def test_a_sketch_climbs_from_the_corner_that_the_first_expert_sees(
    run: Path, tmp_path: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = next(sample(run, tmp_path / "data", count=1, device="cpu").rglob("*_T1w.nii.gz"))
    drawn.clear()
    begun: list[torch.Tensor] = []
    real = descent.Descent.begin
    monkeypatch.setattr(descent.Descent, "begin", lambda self, *each: begun.append((state := real(self, *each)).x_BCXYZ) or state)
    for full in (False, True):
        sample(run, tmp_path / str(full), count=1, device="cpu", sketch=path, sketch_sigma=99.0, seed=4, full=full)
    assert drawn == [SIZE // 64, SIZE // 8, SIZE, SIZE] and sidecar(tmp_path / "False")["Levels"] == [*LEVELS, 0]
    sketch = to_model(torch.from_numpy(nib.load(path).get_fdata().astype(np.float32) / 100.0))[None, None]  # type: ignore[attr-defined]
    sigma = sidecar(tmp_path / "True")["SigmaGrid"][0]
    for state, level in zip(begun, (2, 0), strict=True):
        shape = tuple(edge >> level for edge in sketch.shape[2:])
        left = state - sigma * descent.white((1, *shape), 4, "start", 0)[None]
        torch.testing.assert_close(left, 8 ** (level / 2) * haar.means(sketch, level), atol=2e-4, rtol=1e-4)


def test_a_folder_that_was_begun_without_climbing_goes_on_without(run: Path, tmp_path: Path) -> None:
    out = sample(run, tmp_path / "out", count=1, device="cpu", full=True)
    sample(run, out, count=2, device="cpu")
    whole = sample(run, tmp_path / "whole", count=2, device="cpu", full=True)
    assert images(out) == images(whole)


def test_a_folder_that_climbed_is_not_continued_with_whole_volumes(run: Path, tmp_path: Path) -> None:
    out = sample(run, tmp_path / "out", count=1, device="cpu")
    with pytest.raises(UserError, match="another 'config'"):
        sample(run, out, count=2, device="cpu", full=True)


def test_a_row_of_ranks_sends_what_is_on_its_way_and_makes_the_same_volumes(run: Path, tmp_path: Path) -> None:
    """Each step by another rank: states of three sizes are sent."""
    from volgen.core.registry import config_class
    from volgen.runs.draw import Drawing
    from volgen.runs.ranks import Volumes

    finished, device = open_run(run), torch.device("cpu")
    grid = finished.ensemble.grid
    white = config_class("volgen.sampling.noises", "white")()
    fitted, solver = finished.preconditioner(device), finished.recipe.sampler
    drawing = Drawing(finished, fitted, finished.assembly(), solver, white, grid, device, climbs=True)
    kept: dict[int, torch.Tensor] = {}
    with drawing.bank(grid, 2) as bank:
        down = descent.Descent(
            bank, drawing.sampler(), descent.down(grid), 3, (1, *SHAPE), device, drawing.problem, drawing.noise, climb=drawing.climb
        )
        work = Volumes(down, [[0, 1]], kept.__setitem__, lambda count, note: None)
        state = work.begin(0)
        for number in range(len(grid)):
            state = work.advance(0, state, range(number, number + 1))
            if number < len(grid) - 1:
                packed = work.pack(0, state, number + 1)
                assert packed.numel() == work.size(0, number + 1)
                assert packed.numel() <= 2 * (8 * SIZE // 8 ** LEVELS[number + 1] + 8)
                state = work.unpack(0, packed, number + 1)
        work.finish(0, state)
    alone: dict[int, torch.Tensor] = {}
    drawing.draw(3, [0, 1], alone.__setitem__, lambda count, note: None)
    assert all(torch.equal(kept[index], alone[index]) for index in (0, 1))


def test_rows_are_cut_by_what_steps_cost(run: Path) -> None:
    from volgen.runs.choices import costs_of

    finished = open_run(run)
    assert costs_of(finished, finished.ensemble.grid, [1, 1, 1, 1, 1]) == [1 / 64, 1 / 64, 1 / 8, 1.0, 1.0]


def test_experts_of_one_level_do_not_climb(run: Path) -> None:
    finished = open_run(run)
    grid = finished.ensemble.grid
    assert finished.levels(grid) == [*LEVELS, 0]
    assert finished.climbs(grid) and not finished.climbs(grid[:2]) and not finished.climbs(grid[3:])


def voxels(out: Path) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    return [nib.load(path).get_fdata() for path in sorted(out.rglob("*_T1w.nii.gz"))]


def means(volume: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return volume.reshape(8, 2, 8, 2, 8, 2).mean((1, 3, 5))


@pytest.mark.parametrize("full", [False, True])
def test_larger_voxels_are_means_over_the_runs(run: Path, tmp_path: Path, full: bool) -> None:
    """Where noise would be seen in them, finer experts take part."""
    fine = sample(run, tmp_path / "fine", count=2, device="cpu", full=full)
    coarse = sample(run, tmp_path / "coarse", count=2, device="cpu", full=full, voxel_size=2.0)
    for volume, mean in zip(voxels(fine), voxels(coarse), strict=True):
        inside = (volume > 0).reshape(8, 2, 8, 2, 8, 2).all((1, 3, 5)) & (volume < 100).reshape(8, 2, 8, 2, 8, 2).all((1, 3, 5))
        np.testing.assert_allclose(mean[inside], means(volume)[inside], atol=1e-3)
    image, before = (nib.load(next(out.rglob("*_T1w.nii.gz"))) for out in (coarse, fine))
    assert image.shape == (8, 8, 8) and image.header.get_zooms() == (2.0, 2.0, 2.0)
    corner = np.array([-0.5, -0.5, -0.5, 1.0])
    np.testing.assert_allclose(image.affine @ corner, before.affine @ corner, err_msg="the same field of view")
    with pytest.raises(UserError, match="another 'config'"):
        sample(run, coarse, count=3, device="cpu", full=full, voxel_size=4.0)


def test_experts_of_detail_that_larger_voxels_do_not_show_are_left_out(
    tmp_path: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Gaussian's corner goes its way alone, so that it is that of the whole volume of the same seed, up to what the last step expects."""
    gaussian = made(tmp_path / "gaussian", 0.0)
    fine = sample(gaussian, tmp_path / "fine", count=2, device="cpu", sampler="heun")
    monkeypatch.setattr(trained, "UNSEEN", 0.3)
    drawn.clear()
    coarse = sample(gaussian, tmp_path / "coarse", count=2, device="cpu", sampler="heun", voxel_size=2.0)
    assert drawn == [SIZE // 64] * 2 + [SIZE // 8] * 2
    assert sidecar(coarse)["Levels"] == [2, 2, 1, 1] and len(sidecar(coarse)["SigmaGrid"]) == 3
    (one, other), (mean, _) = voxels(fine), voxels(coarse)
    assert np.corrcoef(means(one).ravel(), mean.ravel())[0, 1] > 0.9 > 0.5 > np.corrcoef(means(other).ravel(), mean.ravel())[0, 1]
    again = sample(gaussian, tmp_path / "again", count=1, start_index=1, device="cpu", sampler="heun", voxel_size=2.0)
    assert images(again)[0] == images(coarse)[1]


@pytest.mark.parametrize("edge", [1.5, 0.5, 3.0, 32.0, math.nan, -2.0])
def test_voxels_that_do_not_fill_the_grid_are_refused(run: Path, tmp_path: Path, edge: float) -> None:
    with pytest.raises(UserError, match=r"--voxel-size: .* 1 or 2 or 4 or 8"):
        sample(run, tmp_path / "out", count=1, voxel_size=edge)
    assert not (tmp_path / "out").exists()


def test_a_bank_of_levels_is_one_of_larger_voxels_too(run: Path) -> None:
    whole, cpu = open_run(run), torch.device("cpu")
    seen = in_voxels(whole, 2.0)
    assert seen.geometry.shape == (8, 8, 8) and seen.geometry.voxel_size == (2.0, 2.0, 2.0) and in_voxels(whole, None) is whole
    assert seen.levels(seen.ensemble.grid) == [1, 1, 0, 0], "the expert of finer voxels is left out"
    fine, coarse = whole.preconditioner(cpu), seen.preconditioner(cpu)
    torch.manual_seed(1)
    with whole.bank(fine, cpu, whole.ensemble.grid) as of_volumes, seen.bank(coarse, cpu, seen.ensemble.grid) as of_means:
        for sigma in whole.ensemble.grid[:3]:
            y, level = fine.prior(torch.randn(1, 1, *SHAPE), sigma), torch.full((1,), sigma)
            expected, seen_y, seen_at = haar.means(of_volumes(y, level), 1), haar.means(y, 1), level / haar.corner_scale(1)
            torch.testing.assert_close(of_means(seen_y, seen_at), expected, atol=1e-5, rtol=1e-5)
            assert (coarse.expected(seen_y, seen_at) - expected).abs().max() > 1e-3, "networks have a part in it"
    with pytest.raises(UserError, match="no expert of the run works on voxels of more than 4 mm"):
        in_voxels(whole, 8.0)


def test_images_of_larger_voxels_are_reconstructed_by_a_bank_of_levels(run: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((8, 8, 8), dtype=np.float32)
    nib.save(nib.Nifti1Image(image, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "half.nii.gz")  # type: ignore[attr-defined]
    words = ["reconstruct", str(run), "--data", str(tmp_path / "half.nii.gz"), "--operator", "inpaint", "--count", "1", "--window", "0",
             "1", "--guidance", "projection", "--centre", "grid", "--noise", "0.01", "--device", "cpu"]  # fmt: skip
    assert main([*words, "--out", str(tmp_path / "out"), "--voxel-size", "2"]) == 0
    drawn = nib.load(tmp_path / "out/sub-0001/anat/sub-0001_desc-sample0001_T1w.nii.gz")  # type: ignore[attr-defined]
    assert drawn.header.get_zooms() == (2.0, 2.0, 2.0)
    assert np.abs(drawn.get_fdata() - image)[:, :, :4].max() < 0.05 < np.abs(drawn.get_fdata() - image)[:, :, 4:].max()
    assert json.loads((tmp_path / "out/manifest.json").read_text())["config"]["voxel_size"] == [2.0, 2.0, 2.0]
    assert main([*words, "--out", str(tmp_path / "out"), "--voxel-size", "4"]) == 2, "other voxels are other volumes"
