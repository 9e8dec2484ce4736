"""A run that computes in a box is the run of a store that was cropped to it, in less time and memory; its volumes are whole."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from volgen import cli, load
from volgen.commands.anonymise.anonymise import anonymise
from volgen.commands.audit import samples as audit_samples
from volgen.commands.ingest.ingest import ingest
from volgen.commands.plan.measure import made_up
from volgen.commands.plan.memory import memory
from volgen.commands.sample.sample import sample
from volgen.commands.train.train import train
from volgen.core.errors import UserError
from volgen.core.protocols import Operator, Proximal
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.store import Store
from volgen.images.box import BoxConfig
from volgen.images.geometry import Geometry
from volgen.images.intensity import IntensityMap
from volgen.operators.cartesian import Config as Cartesian
from volgen.operators.inpaint import Inpaint
from volgen.planning.step import trace
from volgen.recipe import Recipe
from volgen.recipe import load as load_recipe
from volgen.runs.observed import Field, Seen, measured
from volgen.runs.simulated import MeasuredHead, SimulatedScans
from volgen.runs.trained import open_run
from volgen.training.draws import StepDraws

SHAPE, VOXEL = (22, 18, 26), 8.0
HEAD = BoxConfig(start=(5, 3, 8), size=(10, 8, 12))
"""Where the heads are; one voxel is in nobody's head but for validation people."""
BOX = BoxConfig(start=(4, 2, 6), size=(12, 12, 16))
PEOPLE = 14


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _store(tmp_path_factory.mktemp("box"), lambda voxels: voxels)


@pytest.fixture(scope="module")
def cropped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same scans, of which nothing but the box has ever been there."""
    return _store(tmp_path_factory.mktemp("cropped"), BOX.crop)


def _store(folder: Path, kept: Callable[[Any], Any]) -> Path:
    (folder / "in").mkdir()
    for person in range(PEOPLE):
        random, voxels = np.random.default_rng(person), np.zeros(SHAPE, np.int16)
        smooth = np.add.outer(np.add.outer(np.arange(10), np.arange(8)), np.arange(12)) * random.uniform(10, 25)
        HEAD.crop(voxels)[:] = smooth + random.uniform(100, 200, HEAD.size)
        nib.save(nib.Nifti1Image(kept(voxels), np.diag([VOXEL] * 3 + [1.0])), folder / "in" / f"sub-{person}_T1w.nii")
    with pytest.MonkeyPatch.context() as patch:  # a window depends on how much air there is
        patch.setattr(IntensityMap, "robust", classmethod(lambda cls, voxels: cls(0.0, 800.0)))
        ingest(folder / "in", folder / "store", IngestConfig(shape=None, voxel_size=None, validation=0.3, test=0.0))
    return folder / "store"


def content(store: Path | str, runs: Path, **data: Any) -> dict[str, Any]:
    return {
        "name": "run", "runs": str(runs), "seed": 5, "data": {"store": str(store), "batch_size": 2, **data},
        "schedule": {"kind": "log_snr", "points": 6, "sigma_max": 20.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4},
        "preconditioner": {"kind": "gaussian", "rank": 2, "levels": 1, "folds": 3},
        "experts": {"models": [{"points": 3}, {"points": 3, "level": 1}]}, "sampler": {"kind": "euler"},
        "stopping": {"max_steps": 3, "validate_every": 2, "validation_volumes": 2, "validation_draws": 2},
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(load_recipe(content(store, tmp_path_factory.mktemp("runs"), box=BOX.model_dump())))


def test_a_boxed_run_is_bit_for_bit_that_of_the_cropped_store(run: Path, cropped: Path, tmp_path: Path) -> None:
    other = train(load_recipe(content(cropped, tmp_path)))
    for name in ("experts/0/weights.safetensors", "experts/1/weights.safetensors", "preconditioner.safetensors"):
        mine, theirs = load_file(run / name), load_file(other / name)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine), name
    volumes = [
        nib.load(next(sample(each, tmp_path / f"out{number}", count=1, seed=2).rglob("sub-0001*.nii.gz")))
        for number, each in enumerate((run, other))
    ]
    mine, theirs = (volume.get_fdata() for volume in volumes)
    assert mine.shape == SHAPE and np.array_equal(BOX.crop(mine), theirs)
    outside = np.ones(SHAPE, bool)
    BOX.crop(outside)[:] = False
    assert (mine[outside] == 0.0).all(), "background as real scans have it"
    assert np.ptp(theirs) > 0.0
    assert json.loads((run / "geometry.json").read_text())["box"] == BOX.model_dump(mode="json")
    assert open_run(run).fingerprint != open_run(other).fingerprint


def test_the_box_of_the_heads_becomes_numbers_and_stays(store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe(content(store, tmp_path, box="foreground"))
    # One voxel of margin; multiples of 4, because level 1 takes halves and its network takes halves of these; from an even voxel.
    assert recipe.data.box == BoxConfig(start=(4, 0, 6), size=(12, 12, 16))
    assert recipe.data.grid == recipe.variants[0].piece == (12, 12, 16) and recipe.variants[1].piece == (6, 6, 8)
    directory = train(recipe)
    said = capfd.readouterr().err
    assert "reach out of data.box" not in said
    assert yaml.safe_load((directory / "config.yaml").read_text())["data"]["box"] == {"start": [4, 0, 6], "size": [12, 12, 16]}
    assert train(load_recipe(content(store, tmp_path, box=recipe.data.box.model_dump()))) == directory, "numbers are as good"
    with pytest.raises(UserError, match=r"data\.box\.start was \[4, 0, 6\] and is now \[2, 2, 6\]"):
        train(load_recipe(content(store, tmp_path, box={"start": [2, 2, 6], "size": [12, 12, 16]})))


def test_mirrored_heads_fit_too(store: Path, tmp_path: Path) -> None:
    box = load_recipe(content(store, tmp_path, box="foreground", augment={"flip_left_right": True})).data.box
    assert box is not None and box.holds(HEAD.mirrored(SHAPE)) and box.holds(HEAD) and box.size[0] == 16


def test_numbers_need_no_store_and_boxes_fit_the_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stated = content("nowhere", tmp_path, shape=[23, 19, 27], box=BOX.model_dump())
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(stated))
    assert cli.main(["train", "--config", str(path), "--dry-run"]) == 0
    assert "volumes of 23 x 19 x 27 (12 x 12 x 16 of it computed, from voxel 4, 2, 6)" in capsys.readouterr().out
    for box, said in (
        ({"start": [3, 2, 6], "size": [12, 12, 16]}, r"models\.1: data\.box\.start is \[3, 2, 6\], but level 1 needs multiples of 2"),
        ({"start": [4, 2, 6], "size": [12, 12, 14]}, r"level 1 is \[6, 6, 7\], but this network needs multiples of \[2, 2, 2\]"),
        ({"start": [4, 2, 6], "size": [12, 12, 24]}, "not all in volumes of"),
        ("brain", "it is foreground"),
    ):
        with pytest.raises(UserError, match=said):
            load_recipe(content("nowhere", tmp_path, shape=[23, 19, 27], box=box))
    with pytest.raises(UserError, match=r"data\.box: is foreground, which cannot be taken from the store"):
        load_recipe(content("nowhere", tmp_path, shape=[23, 19, 27], box="foreground"))


def test_a_shape_that_no_model_could_take_is_fine_behind_a_box(store: Path, tmp_path: Path) -> None:
    deep = content(store, tmp_path)
    deep["network"] = {**deep["network"], "haar_levels": 2}
    with pytest.raises(UserError, match="needs multiples"):
        load_recipe(deep)
    assert load_recipe({**deep, "data": {**deep["data"], "box": "foreground"}}).data.grid == (16, 16, 16)
    deep["network"]["haar_levels"] = 4
    with pytest.raises(UserError, match=r"data\.box\.size is|sees at level 1|level 1 needs edges"):
        load_recipe({**deep, "data": {**deep["data"], "box": "foreground"}})
    deep["stepping"] = {}
    with pytest.raises(UserError, match=r"unknown key 'stepping'.*stopping"):
        load_recipe({**deep, "data": {**deep["data"], "box": "foreground"}})


def test_who_is_cut_is_counted_and_said_once(store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small = content(store, tmp_path, box={"start": [6, 4, 8], "size": [8, 8, 12]})
    train(load_recipe(small))
    said = capfd.readouterr().err
    opened = Store.open(store)
    for split in ("train", "validation"):
        count = len(opened.split(split))
        assert said.count(f"{count} of {count} scans of the {split} split reach out of data.box") == 1


def test_people_who_are_protected_decide_no_box(store: Path, tmp_path: Path) -> None:
    private = content(store, tmp_path, box="foreground")
    private["preconditioner"] = {"kind": "edm"}
    private["experts"] = {"count": 1}
    private["optimiser"] = {"gradient_clip": 0.0}
    private["stopping"] = {"max_steps": 3, "min_steps": 3}
    private["privacy"] = {"kind": "dp_sgd", "epsilon": 6.0, "delta": 1e-3}
    with pytest.raises(UserError, match="a function of people whom"):
        load_recipe(private)
    private["data"]["box"] = BOX.model_dump()
    recipe = load_recipe(private)
    assert recipe.data.box == BOX
    assert not recipe.privacy.looks


def test_planning_and_a_real_step_take_as_much_less_as_there_are_fewer_voxels(tmp_path: Path) -> None:
    def recipe(**data: Any) -> Recipe:
        made = content("nowhere", tmp_path, shape=[48, 48, 48], cache_gib=0.0, **data)
        return load_recipe({**made, "experts": {"count": 1}, "network": {**made["network"], "channels": [8, 16]}})

    whole, boxed = recipe(), recipe(box={"start": [8, 8, 8], "size": [24, 24, 24]})
    traces = [trace(each, 1, 6, gpu=False) for each in (whole, boxed)]
    assert traces[0].flops / traces[1].flops == pytest.approx(8, rel=0.05)
    assert traces[0].peak / traces[1].peak > 5, "weights do not shrink"
    assert traces[0].preconditioner / traces[1].preconditioner == pytest.approx(8, rel=0.02)
    totals = [memory(each, one, 1, 6, 0).total for each, one in zip((whole, boxed), traces, strict=True)]
    assert totals[0] / totals[1] > 3
    seconds = [min(_step(each) for _ in range(3)) for each in (whole, boxed)]
    assert seconds[0] / seconds[1] > 2.5


def _step(recipe: Recipe) -> float:
    """Processor seconds of a forward and a backward pass."""
    method, phase = recipe.build(), recipe.trained()[-1]
    network = method.network(phase)
    objective = method.objective(phase, made_up(recipe, 6, torch.device("cpu")))
    examples, draws = method.examples(1, torch.rand), StepDraws(0, "test", 1, 1, range(1))
    began = time.process_time()
    objective.loss(method.forward(network), examples, draws, ["somebody"]).mean().backward()
    return time.process_time() - began


def test_a_denoiser_for_loops_of_ones_own_knows_where_its_voxels_are(run: Path) -> None:
    with load(run) as model:
        assert model.shape == BOX.size
        corner = model.affine @ [0, 0, 0, 1]
        np.testing.assert_allclose(corner, Geometry.read(run).affine @ [*BOX.start, 1])
        assert model.image(torch.zeros(BOX.size)).shape == SHAPE
        assert model(torch.zeros(1, 1, *BOX.size), 1.0).shape == (1, 1, *BOX.size)


def test_an_audit_sees_whole_volumes(run: Path) -> None:
    (drawn,) = audit_samples.drawn(open_run(run), 1, 3, torch.device("cpu"))
    assert drawn.shape == SHAPE and (drawn[:4] == 0.0).all()


def test_a_scan_is_noised_in_the_box_alone(run: Path, store: Path, tmp_path: Path) -> None:
    scan = store.parent / "in/sub-3_T1w.nii"
    for centre in (None, "run"):
        out = anonymise(scan, run, tmp_path / f"{centre}", epsilon=1e6, delta=1e-5, accept_vacuous=True, centre=centre)
        assert json.loads((out / "certificate.json").read_text())["d"] == int(np.prod(BOX.size))
        image = nib.load(next(out.rglob("*.nii.gz"))).get_fdata()
        assert image.shape == SHAPE and (image[:4] == image.min()).all()


class Blur(Operator):
    """Means of neighbours along X: voxels meet in it."""

    def apply(self, x_BCXYZ: torch.Tensor) -> torch.Tensor:
        return (x_BCXYZ + x_BCXYZ.roll(1, 2)) / 2

    def adjoint(self, data: torch.Tensor) -> torch.Tensor:
        return (data + data.roll(-1, 2)) / 2

    def closed(self, gamma: float) -> Proximal:
        return lambda z_BCXYZ, data: z_BCXYZ


def test_what_was_measured_of_a_whole_volume_is_a_measurement_of_the_box() -> None:
    frame = Geometry(SHAPE, (8.0, 8.0, 8.0), IntensityMap(0.0, 1.0), skull_stripped=True, box=BOX)
    random = torch.Generator().manual_seed(0)
    box = torch.rand(1, 1, *BOX.size, generator=random) * 2 - 1
    mask = torch.rand(SHAPE, generator=random) > 0.5
    for operator in (Blur(), Inpaint(mask)):
        measurement = measured(operator, frame.whole(box), frame)
        torch.testing.assert_close(measurement.operator.apply(box), measurement.data)
        d = torch.randn(measurement.data.shape, generator=random)
        torch.testing.assert_close((measurement.operator.apply(box) * d).sum(), (box * measurement.operator.adjoint(d)).sum())
        assert torch.equal(measured(operator, frame.whole(box), Geometry(SHAPE, (8.0,) * 3, frame.intensity, True)).data,
                           operator.apply(frame.whole(box)))  # fmt: skip
    assert Seen(Blur(), Field.of_run(frame), frame).closed(1.0) is None
    nearest = Seen(Inpaint(mask), Field.of_run(frame), frame).closed(2.0)
    assert nearest is not None
    z = torch.randn(1, 1, *BOX.size, generator=random)
    expected = torch.where(BOX.crop(mask), (z + 2 * box) / 3, z)
    torch.testing.assert_close(nearest(z, measured(Inpaint(mask), frame.whole(box), frame).data), expected)


def test_scans_that_are_measured_in_the_box_are_those_of_a_cropped_store(store: Path, cropped: Path) -> None:
    def head(folder: Path, frame: Geometry, field: Literal["grid", "box"]) -> MeasuredHead:
        scans = SimulatedScans(str(folder), "validation", 1, Cartesian(), 0.0, 0, 0, field)
        return scans.read(scans.labels[0], frame, torch.device("cpu"))

    boxed = Geometry(SHAPE, (VOXEL,) * 3, IntensityMap(0.0, 1.0), skull_stripped=True, box=BOX)
    found, whole = head(store, boxed, "box"), head(store, boxed, "grid")
    same = head(cropped, Geometry(BOX.size, (VOXEL,) * 3, IntensityMap(0.0, 1.0), skull_stripped=True), "grid")
    assert torch.equal(found.seen.measurement.data, same.seen.measurement.data) and found.truth is not None and same.truth is not None
    assert found.truth.shape == SHAPE and np.array_equal(BOX.crop(found.truth), same.truth)
    assert found.seen.measurement.operator.closed(2.0) is not None and whole.seen.measurement.operator.closed(2.0) is None
    assert found.seen.measurement.data.numel() < whole.seen.measurement.data.numel()
    np.testing.assert_array_equal(found.seen.field.affine, whole.seen.field.affine)


def test_a_box_of_another_run_is_not_this_ones(run: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    content = json.loads((copy / "geometry.json").read_text())
    for box, said in (({"start": [0, 0, 0], "size": [12, 12, 16]}, "geometry.json"), ({"start": [20, 0, 0], "size": [12, 12, 16]}, "form")):
        (copy / "geometry.json").write_text(json.dumps({**content, "box": box}))
        with pytest.raises(UserError, match=said):
            Geometry.read(copy) if said == "form" else open_run(copy)
