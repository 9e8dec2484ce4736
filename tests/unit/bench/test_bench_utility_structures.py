"""Structures as a target of `volgen bench utility`: sums against loops, labels on another grid, arms whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from volgen.bench._shared.learner import Learner, folds
from volgen.bench.utility.downstream import OTHERS, PROTECTED, Study, cohort_places
from volgen.bench.utility.segmentation import SETTINGS, Atlas, LabelledHead, classes_on
from volgen.cli import main
from volgen.commands.train.train import train
from volgen.data.store import Store
from volgen.images.volume import Volume
from volgen.recipe import load

SHAPE = (14, 14, 14)


def heads(count: int, seed: int) -> list[LabelledHead]:
    """Balls with a bright core (2) in a shell (1) of another brightness for everybody; where the core is depends on the person."""
    rng, found = np.random.default_rng(seed), []
    axes = np.stack(np.meshgrid(*[np.arange(14) - 6.5] * 3, indexing="ij"))
    for _ in range(count):
        shell, at = (axes**2).sum(axis=0) < 36, rng.uniform(-2, 2, 3)
        core = ((axes - at[:, None, None, None]) ** 2).sum(axis=0) < 5
        unit = (0.3 * shell + 0.2 * core + 0.08 * rng.normal(size=SHAPE)).clip(0, 1) * (shell | core) * rng.uniform(0.7, 1.3)
        found.append(LabelledHead.of(unit.astype(np.float32), (shell + 1 * core).astype(np.uint8)))
    return found


def test_sums_are_those_of_a_loop_over_voxels() -> None:
    some = heads(6, 0)
    atlas, setting = Atlas.of(some, 3), Learner(48, 1e-4)
    rows = [(head.features.astype(float), np.eye(3)[head.labels[head.inside]]) for head in some]
    weight = [1 / np.sqrt(one_hot.sum(axis=0))[one_hot.argmax(axis=1)] for _, one_hot in rows]
    products = [((w / w.sum())[:, None] * X[:, :48]).T @ X[:, :48] for (X, _), w in zip(rows, weight, strict=True)]
    across = [((w / w.sum())[:, None] * X[:, :48]).T @ Y for (X, Y), w in zip(rows, weight, strict=True)]

    def solved(places: Sequence[int]) -> NDArray[np.float64]:
        A = np.mean([products[place] for place in places], axis=0)
        B = np.mean([across[place] for place in places], axis=0)
        return np.asarray(np.linalg.solve(A + 1e-4 * np.trace(A) / 48 * np.eye(48), B))

    assert atlas.learnt([0, 2, 3], setting) == pytest.approx(solved([0, 2, 3]), rel=1e-2, abs=1e-3)
    wrong = 0.0
    for fold in folds(range(6), 3, "x"):
        weights = solved([place for place in range(6) if place not in fold])
        for place in fold:
            X, Y = rows[place]
            wrong += float((weight[place] / weight[place].sum() * ((X[:, :48] @ weights - Y) ** 2).sum(axis=1)).sum()) / 6
    assert atlas.losses(range(6), 3, "x")[SETTINGS.index(setting)] == pytest.approx(wrong, rel=1e-2)


def test_overlap_is_dice_over_the_structures_that_there_are() -> None:
    head = LabelledHead.of(np.full((4, 4, 4), 0.5, dtype=np.float32))
    labels = np.zeros(64, dtype=np.uint8)
    labels[:10], labels[10:20] = 1, 3
    weights = np.zeros((1, 4))
    weights[0, 1] = 1.0  # every voxel is said to be 1
    assert replace(head, labels=labels).overlap(weights) == pytest.approx((2 * 10 / (64 + 10) + 0) / 2)
    assert np.isnan(head.overlap(weights))
    outside = LabelledHead.of(
        np.where(np.arange(64).reshape(4, 4, 4) < 32, 0.5, 0.0).astype(np.float32), np.ones((4, 4, 4), dtype=np.uint8)
    )
    assert outside.overlap(weights) == pytest.approx(2 * 32 / (32 + 64))  # what is true outside of the head is missed, not forgotten


def test_what_follows_of_a_head_follows_from_nobody_else() -> None:
    some = heads(3, 1)
    one, three = Atlas.of(some[:1], 3), Atlas.of(some, 3)
    assert np.array_equal(one.of_features[0], three.of_features[0]) and np.array_equal(one.of_classes[0], three.of_classes[0])
    turned = three.shuffled([0, 1, 2], [1, 2, 0])
    assert np.array_equal(turned.heads[0].labels, some[1].labels) and np.array_equal(three.heads[0].labels, some[0].labels)
    again = Atlas.of(turned.heads, 3)
    assert np.array_equal(again.of_classes, turned.of_classes) and np.array_equal(again.of_features, turned.of_features)


def test_labels_come_to_the_grid_of_the_scan(blob_store: Path) -> None:
    record = Store.open(blob_store).records[0]
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 3, size=record.shape)
    fine = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    affine = record.affine.copy()
    affine[:3, :3] /= 2
    affine[:3, 3] -= 0.25 * record.affine[:3, :3].sum(axis=1)
    classes = {5: 1, 7: 2}
    labels = Volume(np.array([0, 5, 7])[fine].astype(np.float32), affine)
    assert np.array_equal(classes_on(labels, record, classes), coarse)
    assert np.array_equal(classes_on(labels.reoriented("LIA"), record, classes), coarse)
    moved = replace(record, source_affine=record.affine + np.array([0.0, 0, 0, 8.0])[None] * np.eye(4)[:, :1])  # one voxel to the right
    assert np.array_equal(classes_on(labels, moved, classes)[:-1], coarse[1:]) and not classes_on(labels, moved, classes)[-1].any()
    half = np.where(np.arange(fine.size).reshape(fine.shape) % 2, 1, fine)  # half of every voxel is unknown to the table
    assert not classes_on(Volume(np.array([0, 5, 7, 9])[half], affine), record, {7: 1}).any(), (
        "of two that are as frequent the lower counts"
    )


def test_heads_with_labels_help_and_shuffled_ones_do_not() -> None:
    cohorts = {PROTECTED: heads(12, 2), OTHERS: heads(16, 3)}
    known = Atlas.of([head for each in cohorts.values() for head in each], 3)
    cohorts["run"] = known.taught([replace(head, labels=np.zeros_like(head.labels)) for head in heads(12, 4)], range(12), 0)
    assert np.mean([(head.labels == true.labels).mean() for head, true in zip(cohorts["run"], heads(12, 4), strict=True)]) > 0.95
    atlas = Atlas.of([head for each in cohorts.values() for head in each], 3)
    places = cohort_places({name: len(each) for name, each in cohorts.items()})
    study = Study("structures", atlas, places, np.full(16, np.nan), np.zeros(16), 5, 3, 0)
    rows = {row.name: row for row in study.rows()}
    assert rows["structures: public"].value > rows["structures: shuffled"].value + 0.1
    assert rows["structures: public + run"].value > 0.8 and rows["structures: run"].unit == "mean overlap (Dice)"
    low, high = rows["structures: public + real"].interval or (0, 0)
    assert low < rows["structures: public + real"].value < high <= 1
    same = Study("structures", atlas, {**places, "run": places[PROTECTED]}, np.full(16, np.nan), np.zeros(16), 5, 2, 0)
    twin = {row.name: row.value for row in same.rows()}
    assert twin["structures: public + run"] == pytest.approx(twin["structures: public + real"], abs=0.01), "they are the same people"


def test_the_command_studies_structures(blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {
        "name": "run", "runs": str(tmp_path), "data": {"store": str(blob_store), "shape": [16, 16, 16], "batch_size": 2, "workers": 1},
        "schedule": {"kind": "karras", "points": 2, "sigma_min": 0.1, "sigma_max": 10.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4}, "preconditioner": {"kind": "edm"},
        "stopping": {"max_steps": 2, "min_steps": 2, "validation_volumes": 1, "validation_draws": 1},
    }  # fmt: skip
    run, store = train(load(content)), Store.open(blob_store)
    (tmp_path / "labels").mkdir()
    for record in store.records:
        unit = store.read_unit(record)
        labels = ((unit > 0.1).astype(np.int16) + (unit > 0.5)) * 4
        nib.save(nib.Nifti1Image(labels, record.affine), tmp_path / "labels" / f"{record.id}_dseg.nii.gz")
    (tmp_path / "names.tsv").write_text("index\tname\n4\trim\n8\tcore\n9\tcore\n")
    words = ["bench", "utility", str(run), "--store", str(blob_store), "--split", "train", "--volumes", "1", "--samples", "4"]
    words += ["--public", "4", "--draws", "2", "--device", "cpu", "--labels", str(tmp_path / "labels")]
    assert main([*words, "--structures", str(tmp_path / "names.tsv"), "--out", str(tmp_path / "u.json")]) == 0
    rows = {row["name"]: row["value"] for row in json.loads((tmp_path / "u.json").read_text())["rows"]}
    assert rows["structures: public + real"] > 0.7 and {"structures: public + run closes", "structures: gaussian"} <= set(rows)
    capsys.readouterr()
    assert main(words) == 2
    assert "labels and structures go together" in capsys.readouterr().err
    (tmp_path / "labels" / f"{store.split('train')[0].id}_dseg.nii.gz").unlink()
    assert main([*words, "--structures", str(tmp_path / "names.tsv")]) == 2
    assert "holds no image of labels for" in capsys.readouterr().err
