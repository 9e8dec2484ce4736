"""`volgen sample` on a small run made here: what it writes, what it keeps, what it refuses."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from volgen.commands.sample import sample as sample_stage
from volgen.commands.sample.sample import sample
from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.files import read_json, sha256, write_json
from volgen.core.registry import config_class
from volgen.core.span import tile
from volgen.data.sources import sources_of
from volgen.experts.ensemble import Ensemble, ExpertRecord, write
from volgen.images import nifti
from volgen.images.geometry import Geometry
from volgen.images.intensity import IntensityMap
from volgen.images.volume import Volume
from volgen.privacy.plans.none import NOTHING
from volgen.recipe import load
from volgen.runs import choices
from volgen.runs.choices import component

SHAPE = (8, 12, 8)
VOXEL_SIZE = (2.0, 2.0, 3.0)
WINDOW = IntensityMap(10.0, 510.0)
POINTS = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory as training leaves it: three experts with random weights."""
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    directory.mkdir()
    content = {
        "name": "tiny",
        "data": {"store": "nowhere.zarr", "shape": list(SHAPE)},
        "schedule": {"kind": "karras", "points": POINTS, "sigma_max": 20.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4},
        "preconditioner": {"kind": "edm"},
        "experts": {"count": 3},
        "sampler": {"kind": "heun"},
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(content))
    recipe = load(directory / "config.yaml")
    grid = recipe.schedule.grid()
    torch.manual_seed(0)
    records = []
    for index, span in enumerate(tile(grid, 3)):
        module = recipe.network.build(inputs=1)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        path = directory / "experts" / str(index) / "weights.safetensors"
        path.parent.mkdir(parents=True)
        save_file(module.state_dict(), path)
        name = path.relative_to(directory).as_posix()
        records.append(ExpertRecord(index, span.low, span.high, name, sha256(path), 1, 1, 0.5))
    write(directory / "ensemble.json", Ensemble(tuple(records), grid[-1], grid[0], tuple(grid)))
    save_file({}, directory / "preconditioner.safetensors")
    Geometry(SHAPE, VOXEL_SIZE, WINDOW, skull_stripped=True).write(directory)
    write_json(directory / "privacy_ledger.json", NOTHING)
    return directory


def voxels(path: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    return nib.load(path).get_fdata()  # type: ignore[no-any-return, attr-defined]


def image(number: int) -> str:
    return f"sub-{number:04d}/anat/sub-{number:04d}_desc-synthetic_T1w.nii.gz"


def sidecar(number: int) -> str:
    return image(number).replace(".nii.gz", ".json")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("sub-*") if path.is_file()}


def test_volumes_are_in_the_units_and_the_space_of_the_cohort(run: Path, tmp_path: Path) -> None:
    out = sample(run, tmp_path / "out", count=2, seed=4)
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        image(1), sidecar(1), image(2), sidecar(2), "dataset_description.json", "manifest.json", "README.md",
        ".bidsignore", "statement.html", "statement.json", "overview.png",
    }  # fmt: skip
    first = nib.load(out / image(1))
    assert first.shape == SHAPE  # type: ignore[attr-defined]
    assert nib.aff2axcodes(first.affine) == ("R", "A", "S")  # type: ignore[attr-defined]
    np.testing.assert_allclose(first.header.get_zooms(), VOXEL_SIZE)  # type: ignore[attr-defined]
    assert bytes(first.header["descrip"].tobytes()).startswith(b"synthetic: no scan of a person, volgen ")  # type: ignore[attr-defined]
    centre = first.affine @ [*((np.array(SHAPE) - 1) / 2), 1]  # type: ignore[attr-defined]
    np.testing.assert_allclose(centre[:3], 0, atol=1e-5)
    data = voxels(out / image(1))
    assert WINDOW.low <= data.min() < data.max() <= WINDOW.high
    assert data.std() > 1.0


def test_the_seed_is_said_and_what_to_do_next(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = sample(run, tmp_path / "a b", count=1)
    said = capfd.readouterr().err
    assert f"1 volumes of seed 0 in {out}" in said
    assert f"Next: volgen report '{out}' --reference nowhere.zarr --out '{out}-report'" in said
    stamp = (out / "overview.png").stat().st_mtime_ns
    sample(run, out, count=1)
    assert (out / "overview.png").stat().st_mtime_ns == stamp, "nothing new, nothing drawn"
    sample(run, out, count=2)
    assert (out / "overview.png").stat().st_mtime_ns > stamp


def test_sidecar_says_how_it_was_made(run: Path, tmp_path: Path) -> None:
    out = sample(run, tmp_path / "out", count=1, seed=4, steps=4, sampler={"kind": "ddim", "eta": 0.5})
    beside = json.loads((out / sidecar(1)).read_text())
    grid = load(run / "config.yaml").schedule.grid(4)
    assert beside["SkullStripped"] is True
    assert beside["Seed"] == 4
    assert beside["SampleIndex"] == 0
    assert beside["Sampler"] == {"kind": "ddim", "eta": 0.5}
    assert beside["SigmaGrid"] == grid
    assert len(beside["RunFingerprint"]) == 64
    assert "without differential privacy" in beside["PrivacyStatement"]
    assert str(run) not in json.dumps(beside)
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "volgen"
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["stage"], manifest["seed"], manifest["complete"]) == ("sample", 4, True)
    assert manifest["volumes"] == [image(1)]


def test_the_bids_validator_accepts_samples(run: Path, tmp_path: Path, bids_errors: Callable[[Path], list[str]]) -> None:
    assert bids_errors(sample(run, tmp_path / "out", count=2, seed=4)) == []


def test_a_flat_directory_of_0_1_0_is_continued_and_read(run: Path, tmp_path: Path) -> None:
    out = sample(run, tmp_path / "out", count=1, seed=4)
    for name in (image(1), sidecar(1)):
        (out / name).rename(out / Path(name).name.replace("_desc-synthetic", ""))
    shutil.rmtree(out / "sub-0001")
    before = contents(out)
    sample(run, out, count=2, seed=4)
    assert {name: contents(out)[name] for name in before} == before, "what was there is kept"
    flat = ["sub-0001_T1w.nii.gz", "sub-0002_T1w.nii.gz"]
    assert sorted(path.name for path in out.glob("sub-*")) == sorted([*flat, "sub-0001_T1w.json", "sub-0002_T1w.json"])
    assert json.loads((out / "manifest.json").read_text())["volumes"] == flat
    assert [source.file for source in sources_of(out)] == flat


def test_volume_depends_on_seed_and_index_alone(run: Path, tmp_path: Path) -> None:
    three = sample(run, tmp_path / "three", count=3, seed=1, batch_size=2)
    last = sample(run, tmp_path / "last", count=1, seed=1, start_index=2)
    assert contents(last)[image(3)] == contents(three)[image(3)]
    assert np.abs(voxels(three / image(1)) - voxels(three / image(2))).max() > 1.0
    other = sample(run, tmp_path / "other", count=1, seed=2)
    assert np.abs(voxels(three / image(1)) - voxels(other / image(1))).max() > 1.0


def test_waves_do_not_change_the_volumes(run: Path, tmp_path: Path) -> None:
    one = sample(run, tmp_path / "one", count=3, seed=1)
    waves = sample(run, tmp_path / "waves", count=3, seed=1, memory_gib=1e-9)
    assert contents(one) == contents(waves)


def test_stopped_command_continues_and_count_can_grow(run: Path, tmp_path: Path) -> None:
    out = sample(run, tmp_path / "out", count=2, seed=1)
    before = contents(out)
    stamp = (out / image(1)).stat().st_mtime_ns
    (out / sidecar(2)).unlink()  # as if stopped between an image and its sidecar
    sample(run, out, count=3, seed=1)
    after = contents(out)
    assert {name: after[name] for name in before} == before
    assert image(3) in after
    assert (out / image(1)).stat().st_mtime_ns == stamp
    assert len(json.loads((out / "manifest.json").read_text())["volumes"]) == 3


@pytest.mark.parametrize("name", [image(1), sidecar(2)])
def test_a_volume_that_was_changed_is_not_continued_beside(run: Path, tmp_path: Path, name: str) -> None:
    out = sample(run, tmp_path / "out", count=2, seed=4)
    before = (out / name).read_bytes()
    (out / name).write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(UserError, match=rf"{name}: has SHA-256 .*it was changed. Delete it to have it drawn again"):
        sample(run, out, count=3, seed=4)
    (out / name).unlink()
    sample(run, out, count=3, seed=4)
    assert (out / name).read_bytes() == before


def test_a_manifest_that_was_changed_is_not_continued(run: Path, tmp_path: Path) -> None:
    out = sample(run, tmp_path / "out", count=1, seed=4)
    content = read_json(out / "manifest.json", "manifest")
    content["files"]["statement.html"] = "0" * 64
    write_json(out / "manifest.json", content)
    with pytest.raises(UserError, match=r"manifest\.json: was changed after it was written"):
        sample(run, out, count=2, seed=4)


def test_default_sampler_is_the_recipes(run: Path, tmp_path: Path) -> None:
    default = sample(run, tmp_path / "default", count=1, seed=1)
    named = sample(run, tmp_path / "named", count=1, seed=1, sampler="heun")
    euler = sample(run, tmp_path / "euler", count=1, seed=1, sampler="euler")
    assert contents(default) == contents(named)
    assert contents(default) != contents(euler)


def test_an_option_of_the_runs_sampler_leaves_its_other_settings_alone() -> None:
    class Config(BaseConfig):
        kind: Literal["ddim"] = "ddim"
        eta: float = 0.0
        order: int = 1

    mine = Config(eta=0.5, order=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choices, "config_class", lambda package, kind: Config)
        for asked in ({"eta": 0.25}, {"kind": "ddim", "eta": 0.25}):
            assert component("--sampler", sample_stage.SAMPLERS, asked, mine) == Config(eta=0.25, order=3)
        heun = config_class("volgen.sampling.samplers", "heun")()
        assert component("--sampler", sample_stage.SAMPLERS, {"kind": "ddim"}, heun) == Config()


def test_an_option_that_comes_later_leaves_samples_to_be_continued(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = sample(run, tmp_path / "out", count=1, seed=1, steps=2, sampler="heun")

    class Newer(config_class("volgen.sampling.samplers", "heun")):  # type: ignore[misc]
        corrections: int = 1

    for corrections, same in ((1, True), (2, False)):
        newer = Newer(corrections=corrections)
        monkeypatch.setattr(
            sample_stage,
            "component",
            lambda option, *rest, newer=newer: newer if option == "--sampler" else component(option, *rest),
        )
        if same:
            assert sample(run, out, count=1, seed=1, steps=2) == out
        else:
            with pytest.raises(UserError, match="has another 'config'"):
                sample(run, out, count=1, seed=1, steps=2)


def test_int16_holds_the_same_values_to_its_step(run: Path, tmp_path: Path) -> None:
    exact = voxels(sample(run, tmp_path / "float", count=1, seed=1) / image(1))
    packed = sample(run, tmp_path / "int", count=1, seed=1, dtype="int16") / image(1)
    assert nib.load(packed).get_data_dtype() == np.int16  # type: ignore[attr-defined]
    np.testing.assert_allclose(voxels(packed), exact, atol=(WINDOW.high - WINDOW.low) / 65535)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"seed": 2}, "'seed'"), ({"steps": 3}, "'config'"), ({"sampler": "euler"}, "'config'"), ({"dtype": "int16"}, "'config'")],
)
def test_directory_of_other_samples_is_not_mixed(run: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    out = sample(run, tmp_path / "out", count=1, seed=1, steps=2)
    before = contents(out)
    with pytest.raises(UserError, match=message):
        sample(run, out, **{"count": 2, "seed": 1, "steps": 2, **change})
    assert contents(out) == before


def test_directory_with_other_files_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not touch")
    with pytest.raises(UserError, match="holds other files"):
        sample(run, tmp_path, count=1, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": POINTS + 1}, rf"--steps: {POINTS + 1} steps cannot be chosen from a grid of {POINTS} points"),
        ({"steps": 1}, "--steps"),
        ({"sampler": "huen"}, "Did you mean 'heun'"),
        ({"sampler": {"kind": "ddim", "etta": 0.1}}, "Did you mean 'eta'"),
        ({"count": 0}, "--count: 0; expected at least 1"),
        ({"seed": -1}, "--seed"),
        ({"batch_size": 0}, "--batch-size"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_written(
    run: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        sample(run, tmp_path / "out", **{"count": 1, "seed": 1, **options})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["config.yaml", "ensemble.json", "geometry.json", "privacy_ledger.json", "preconditioner.safetensors"])
def test_missing_part_of_the_run_is_named(run: Path, tmp_path: Path, name: str) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in run.iterdir():
        if path.name != name:
            (broken / path.name).write_bytes(path.read_bytes()) if path.is_file() else None
    for path in run.glob("experts/*/*"):
        copy = broken / path.relative_to(run)
        copy.parent.mkdir(parents=True)
        copy.write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=name):
        sample(broken, tmp_path / "out", count=1, seed=1)


def test_run_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: there is no such directory"):
        sample(tmp_path / "nowhere", tmp_path / "out", count=1, seed=1)


@pytest.mark.parametrize(
    ("option", "value"),
    [("device", "foo"), ("device", "meta"), ("device", "cuda:999"), ("device", "mps:7")]
    + [("memory_gib", value) for value in (float("nan"), float("inf"), -1.0)],
)
def test_a_device_or_memory_that_cannot_be_is_refused_before_anything_is_written(
    option: str, value: Any, run: Path, tmp_path: Path
) -> None:
    settings = {"device": "cpu", option: value}
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')}: .*{value}"):
        sample(run, tmp_path / "out", count=1, seed=0, **settings)
    assert not (tmp_path / "out").exists()


def test_no_amount_of_memory_is_too_much(run: Path, tmp_path: Path) -> None:
    assert len(contents(sample(run, tmp_path / "out", count=1, seed=0, device="cpu", memory_gib=1e308))) == 2


def test_noise_is_chosen_recorded_and_does_not_mix(run: Path, tmp_path: Path) -> None:
    plain = sample(run, tmp_path / "plain", count=1, seed=1, device="cpu")
    shared = sample(run, tmp_path / "shared", count=1, seed=1, noise={"kind": "slerp", "axis": "A", "spacing": 2}, device="cpu")
    noises = [json.loads((out / sidecar(1)).read_text())["Noise"] for out in (plain, shared)]
    assert noises == [{"kind": "white"}, {"kind": "slerp", "axis": "A", "spacing": 2}]
    assert not np.allclose(voxels(plain / image(1)), voxels(shared / image(1)))
    assert "noise" not in json.loads((plain / "manifest.json").read_text())["config"], "older directories can be continued"
    with pytest.raises(UserError, match="another 'config'"):
        sample(run, tmp_path / "plain", count=2, seed=1, noise="slerp", device="cpu")
    for wrong, message in (("sler", "there is no noise 'sler'"), ({"kind": "slerp", "spacng": 2}, "spacing")):
        with pytest.raises(UserError, match=message):
            sample(run, tmp_path / "new", count=1, seed=1, noise=wrong, device="cpu")
    assert not (tmp_path / "new").exists()


def drawn_of(folder: Path) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    return [voxels(path) for path in sorted(folder.rglob("sub-*.nii.gz"))]


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "ddpm"])
def test_a_row_leads_from_the_volume_of_one_seed_to_that_of_another(run: Path, tmp_path: Path, sampler: str) -> None:
    first, last = (drawn_of(sample(run, tmp_path / str(seed), count=1, seed=seed, sampler=sampler))[0] for seed in (3, 8))
    row = drawn_of(sample(run, tmp_path / "row", count=4, between=(3, 8), sampler=sampler))
    assert np.array_equal(row[0], first) and np.array_equal(row[-1], last)
    steps = [float(np.abs(one - other).mean()) for one, other in itertools.pairwise(row)]
    assert max(steps) < np.abs(first - last).mean()
    said = [json.loads(path.read_text()) for path in sorted((tmp_path / "row").rglob("sub-*.json"))]
    assert [one["AskedFor"]["between"] for one in said] == [{"seeds": [3, 8], "fraction": part / 3} for part in range(4)]
    # A volume of the row is a function of its seeds, its place and the length of the row, so a stopped command goes on, and no other does.
    (tmp_path / "row" / image(2)).unlink()
    assert np.array_equal(drawn_of(sample(run, tmp_path / "row", count=4, between=(3, 8), sampler=sampler))[1], row[1])
    for other in ({"count": 5, "between": (3, 8)}, {"count": 4, "between": (3, 9)}, {"count": 4, "seed": 3}):
        with pytest.raises(UserError, match="holds the output of another"):
            sample(run, tmp_path / "row", sampler=sampler, **other)  # type: ignore[arg-type]


def test_a_sketch_is_returned_after_little_noise_and_forgotten_after_much(run: Path, tmp_path: Path) -> None:
    (path,) = sample(run, tmp_path / "scan", count=1, seed=1).rglob("sub-*.nii.gz")
    scan, width = voxels(path), WINDOW.high - WINDOW.low
    lowest = min(load(run / "config.yaml").schedule.grid())
    same, anew = (sample(run, tmp_path / str(sigma), count=2, sketch=path, sketch_sigma=sigma) for sigma in (lowest, 20.0))
    (one, other), far = drawn_of(same), drawn_of(anew)[0]
    assert np.abs(one - scan).mean() < 0.02 * width < np.abs(far - scan).mean()
    assert not np.array_equal(one, other), "each volume has noise of its own"
    said = json.loads(next(same.rglob("sub-0001*.json")).read_text())
    assert said["AskedFor"]["sketch"] == {"sha256": sha256(path), "sigma": pytest.approx(lowest)}
    assert len(said["SigmaGrid"]) == 1 and "no person" not in said["Description"]
    assert "None shows a person" not in (same / "README.md").read_text()
    assert str(tmp_path) not in (same / "manifest.json").read_text()
    between = json.loads(next(sample(run, tmp_path / "b", count=1, sketch=path, sketch_sigma=3.0, steps=2).rglob("sub-*.json")).read_text())
    grid = load(run / "config.yaml").schedule.grid()
    assert between["SigmaGrid"] == [max(sigma for sigma in grid if sigma <= 3.0), grid[-1]]


def test_a_sketch_may_have_larger_voxels(run: Path, tmp_path: Path) -> None:
    coarse = Geometry.read(run).coarser(1)
    painted = np.full(coarse.shape, 100.0, np.float32)
    painted[:2] = 400.0
    nifti.write(tmp_path / "painted.nii.gz", Volume(painted, coarse.affine))
    lowest = min(load(run / "config.yaml").schedule.grid())
    (volume,) = drawn_of(sample(run, tmp_path / "out", count=1, sketch=tmp_path / "painted.nii.gz", sketch_sigma=lowest))
    fine = painted.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    assert np.abs(volume - fine).mean() < 10.0 < 50.0 < np.abs(volume - fine[::-1]).mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"between": (3, 3)}, "two different seeds"), ({"between": (3, -1)}, "two different seeds"),
        ({"between": (3, 8), "count": 1}, "--count of 2 or more"), ({"between": (3, 8), "start_index": 1}, "no --start-index"),
        ({"between": (3, 8), "seed": 8}, "Leave --seed out"),
        ({"sketch": "scan.nii.gz"}, "--sketch-sigma is not"), ({"sketch_sigma": 1.0}, "--sketch is not"),
        ({"sketch": "nothing.nii.gz", "sketch_sigma": 1.0}, "there is no such file"),
        ({"sketch": "scan.nii.gz", "sketch_sigma": 1e-6}, "lowest noise level"),
        ({"sketch": "scan.nii.gz", "sketch_sigma": math.nan}, "nan"),
        ({"sketch": "scan.nii.gz", "sketch_sigma": 1.0}, r"has \[3, 3, 3\] voxels"),
        (
            {"sketch": "scan.nii.gz", "sketch_sigma": 1.0, "data": "scan.nii.gz", "operator": "inpaint", "guidance": "energy"},
            "and so is --data",
        ),
    ],
)  # fmt: skip
def test_rows_and_sketches_that_cannot_be_are_refused(run: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    nifti.write(tmp_path / "scan.nii.gz", Volume(np.ones((3, 3, 3), np.float32), np.eye(4)))
    named = {key: tmp_path / value if key in ("sketch", "data") else value for key, value in options.items()}
    with pytest.raises(UserError, match=message):
        sample(run, tmp_path / "out", **{"count": 4, **named})
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("sub-*"))
