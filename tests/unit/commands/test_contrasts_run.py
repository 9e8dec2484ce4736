"""A store of several contrasts, end to end: one model is told which one a scan is, and draws the one that is asked for."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import volgen
from volgen.cli import main
from volgen.commands.export.export import export
from volgen.commands.train.train import train
from volgen.core.errors import UserError
from volgen.data.record import SubjectRecord, cohort_fingerprint
from volgen.data.sources import sources_of
from volgen.data.store import Store
from volgen.images.geometry import Geometry
from volgen.recipe import load
from volgen.runs.contrast import contrast_of
from volgen.runs.trained import TrainedRun, open_run

CONTRASTS = {"T1w": (300.0, 900.0), "T2w": (900.0, 300.0), "FLAIR": (600.0, 600.0)}
"""Brightness of heads and of what is in their middle."""
PEOPLE, FEW = 30, 5


@pytest.fixture(scope="module")
def contrasts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many people as it takes to learn from."""
    return ingested(tmp_path_factory.mktemp("contrasts"), PEOPLE, "0.15")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ingested(tmp_path_factory.mktemp("few"), FEW, "0.7")


@pytest.fixture(scope="module")
def generalist(few: Path) -> Path:
    """A small run of one step that is told the contrast."""
    return train(load(recipe(few, few.parent)))


def ingested(root: Path, people: int, validation: str) -> Path:
    """A store of a BIDS tree whose people have three images each, and a table of scans that says which is which."""
    generator = np.random.default_rng(0)
    axes = np.meshgrid(*[np.arange(16) - 7.5] * 3, indexing="ij")
    rows = ["scan_id\tcontrast\tsex"]
    for number in range(people):
        folder = root / "bids" / f"sub-{number:02d}" / "anat"
        folder.mkdir(parents=True)
        head = sum((axis / r) ** 2 for axis, r in zip(axes, generator.uniform(5.5, 6.5, 3), strict=True)) < 1
        middle = sum(axis**2 for axis in axes) < generator.uniform(3.0, 4.0) ** 2
        for contrast, (outer, inner) in CONTRASTS.items():
            voxels = outer * (head & ~middle) + inner * (head & middle) + generator.uniform(0, 30, (16, 16, 16))
            image = nib.Nifti1Image(voxels.astype(np.float32), np.diag([8.0, 8.0, 8.0, 1.0]))
            nib.save(image, folder / f"sub-{number:02d}_{contrast}.nii.gz")
            rows.append(f"sub-{number:02d}_{contrast}\t{contrast}\t{'FM'[number % 2]}")
    (root / "scans.tsv").write_text("\n".join(rows))
    words = ["ingest", str(root / "bids"), str(root / "store"), "--shape", "16", "16", "16", "--voxel-size", "8", "--centre", "grid"]
    assert main([*words, "--suffix", ",".join(CONTRASTS), "--validation", validation, "--test", "0.05"]) == 0
    volgen.participants(root / "store", root / "scans.tsv", columns=["contrast", "sex"])
    return root / "store"


def test_every_contrast_of_a_person_is_a_scan_of_the_same_patient(few: Path) -> None:
    store = Store.open(few)
    assert len(store.records) == 3 * FEW and len({record.patient for record in store.records}) == FEW
    for _, scans in itertools.groupby(sorted(store.records, key=lambda record: record.patient), key=lambda record: record.patient):
        together = list(scans)
        assert {record.covariates["contrast"] for record in together} == set(CONTRASTS)
        assert len({(record.split, record.covariates["sex"]) for record in together}) == 1
    assert set(store.covariates.columns["contrast"].levels or ()) == set(CONTRASTS)


def recipe(store: Path, runs: Path, **settings: Any) -> dict[str, Any]:
    """A small model that is told the contrast, of one step unless ``settings`` say otherwise."""
    stopping = {"max_steps": 1, "min_steps": 1, "validate_every": 1, "validation_volumes": 1, "validation_draws": 1}
    return {
        "name": "generalist", "runs": str(runs), "data": {"store": str(store), "batch_size": 2, "workers": 1},
        "schedule": {"kind": "karras", "points": 3, "sigma_min": 0.05, "sigma_max": 20.0}, "preconditioner": {"kind": "edm"},
        "network": {"kind": "wavelet_unet3d", "channels": [8, 8]}, "conditions": [{"kind": "categorical", "column": "contrast"}],
        "stopping": stopping, **settings,
    }  # fmt: skip


def test_files_are_called_by_their_contrast(few: Path, generalist: Path, tmp_path: Path, bids_errors: Callable[[Path], list[str]]) -> None:
    run = generalist
    assert json.loads((run / "geometry.json").read_text())["contrasts"] == ["FLAIR", "T1w", "T2w"]
    (tmp_path / "asked.tsv").write_text("contrast\nFLAIR\nT2w\nn/a\nT1w")
    images = volgen.sample(run, tmp_path / "samples", given=tmp_path / "asked.tsv")
    names = [Path(str(image.get_filename())).name for image in images]
    assert names == [f"sub-000{i + 1}_desc-synthetic_{shown}.nii.gz" for i, shown in enumerate(["FLAIR", "T2w", "T1w", "T1w"])]
    said = [
        json.loads(path.read_text())["Description"].partition(" drawn")[0] for path in sorted((tmp_path / "samples").rglob("sub-*.json"))
    ]
    unknown = "Synthetic volume, of no contrast that was asked for,"
    assert said == ["Synthetic FLAIR volume", "Synthetic T2-weighted volume", unknown, "Synthetic T1-weighted volume"]
    assert [source.name for source in sources_of(tmp_path / "samples")] == [name.removesuffix(".nii.gz") for name in names]
    assert len(sources_of(few.parent / "bids")) == FEW, "of scans T1w, as ever"
    before = (tmp_path / "samples/manifest.json").read_bytes()
    assert main(["sample", str(run), "--out", str(tmp_path / "samples"), "--given", str(tmp_path / "asked.tsv")]) == 0
    assert json.loads(before)["files"] == json.loads((tmp_path / "samples/manifest.json").read_text())["files"], "all is there already"

    scan = next(few.parent.rglob("sub-00_T1w.nii.gz"))
    volgen.translate(scan, run, tmp_path / "other", origin={"contrast": "T1w"}, aim={"contrast": "T2w"}, strength=[0, 1], steps=2)
    made = {path.name.partition("desc-")[2] for path in (tmp_path / "other").rglob("*.nii.gz")}
    assert made == {"scan_T1w.nii.gz", "strength000_T1w.nii.gz", "change000_T1w.nii.gz", "strength100_T2w.nii.gz", "change100_T2w.nii.gz"}
    for folder in ("samples", "other"):
        assert bids_errors(tmp_path / folder) == []


def test_a_cohort_of_one_contrast_gives_its_name_to_every_file(few: Path, tmp_path: Path, bids_errors: Callable[[Path], list[str]]) -> None:
    words = ["--shape", "16", "16", "16", "--voxel-size", "8", "--centre", "grid", "--validation", "0.7", "--suffix", "T2w"]
    assert main(["ingest", str(few.parent / "bids"), str(tmp_path / "store"), *words]) == 0
    run = train(load(recipe(tmp_path / "store", tmp_path, conditions=[])))
    out, hole = tmp_path / "samples", ["--operator", "inpaint", "--operator.share", "0.5"]
    assert main(["sample", str(run), "--out", str(out), "--count", "1"]) == 0
    data = out / "sub-0001/anat/sub-0001_desc-synthetic_T2w.nii.gz"
    assert [source.file for source in sources_of(out)] == [data.relative_to(out).as_posix()], "what reports and evaluations look at"
    budget = ["--epsilon", "1e6", "--delta", "1e-5", "--accept-vacuous"]
    assert main(["reconstruct", str(run), "--data", str(data), *hole, "--out", str(tmp_path / "filled"), "--count", "1"]) == 0
    assert main(["anonymise", str(data), str(run), "--out", str(tmp_path / "hidden"), *budget]) == 0
    assert main(["export", str(tmp_path / "store"), "--out", str(tmp_path / "export")]) == 0
    for folder in ("samples", "filled", "hidden", "export"):
        found = {path.name.rpartition("_")[2] for end in ("nii.gz", "json") for path in (tmp_path / folder).rglob(f"anat/*.{end}")}
        assert found == {"T2w.nii.gz", "T2w.json"}, folder
        assert bids_errors(tmp_path / folder) == []
    assert "brains without skull, T2-weighted" in (run / "README.md").read_text()


def test_an_export_says_each_scans_contrast_once(few: Path, tmp_path: Path, bids_errors: Callable[[Path], list[str]]) -> None:
    ids = [f"sub-00_{contrast}" for contrast in CONTRASTS]
    names = [path.name for path in export(few, tmp_path / "out", ids=ids)]
    assert names == [f"{identity}.nii.gz" for identity in ids] and bids_errors(tmp_path / "out") == []


def test_a_word_that_calls_a_contrast_by_chance_names_no_file(few: Path, generalist: Path) -> None:
    def told(column: str, *levels: str) -> TrainedRun:
        content = recipe(few, few.parent, conditions=[{"kind": "categorical", "column": column, "levels": levels}])
        return replace(open_run(generalist), recipe=load(content))

    assert contrast_of(told("sex", "F", "M", "FLAIR"), {"sex": "FLAIR"}) == "", "these words do not call all contrasts of the cohort"
    words = told("modality", "t1", "mprage", "T2", "flair")
    assert [contrast_of(words, {"modality": word}) for word in ("t1", "T2", "flair")] == ["T1w", "T2w", "FLAIR"]


def test_a_private_run_has_the_contrasts_that_ingest_was_asked_for(few: Path) -> None:
    store = Store.open(few)
    told = [Store(store.path, store.records, store.settings | {"suffix": suffix}) for suffix in (None, "t2", "T1w,FLAIR", "anat")]
    privacy = {"kind": "dp_sgd", "epsilon": 1e4, "delta": 1e-5, "intensity": [0, 1]}
    private = load(recipe(few, Path("runs"), conditions=[], privacy=privacy, optimiser={"gradient_clip": 0}))
    regime = private.privacy.build(private)
    assert [regime.geometry(each).contrasts for each in told] == [("T1w",), ("T2w",), ("FLAIR", "T1w"), ("T1w",)]


def test_what_older_versions_wrote_is_called_as_it_was(few: Path, generalist: Path, tmp_path: Path) -> None:
    store = Store.open(few)
    older = [
        SubjectRecord.from_dict({key: value for key, value in record.to_dict().items() if key != "contrast"}) for record in store.records
    ]
    assert cohort_fingerprint(older) == store.fingerprint and {record.contrast for record in older} == {""}
    run = generalist
    content = json.loads((run / "geometry.json").read_text())
    del content["contrasts"]
    (tmp_path / "geometry.json").write_text(json.dumps(content))
    told = replace(open_run(run), geometry=Geometry.read(tmp_path))
    assert contrast_of(told, {"contrast": "FLAIR"}) == "T1w"
    content["contrasts"] = ["T1w", "T3w"]
    (tmp_path / "geometry.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="contrasts are of"):
        Geometry.read(tmp_path)


@pytest.mark.slow
def test_the_contrast_that_is_asked_for_is_drawn(contrasts: Path, tmp_path: Path) -> None:
    content = recipe(
        contrasts, tmp_path, seed=5, data={"store": str(contrasts), "batch_size": 8, "workers": 1},
        schedule={"kind": "karras", "points": 10, "sigma_min": 0.05, "sigma_max": 20.0},
        network={"kind": "wavelet_unet3d", "channels": [32, 32]}, optimiser={"learning_rate": 2e-3, "warmup_steps": 10},
        stopping={"max_steps": 200, "min_steps": 200, "validate_every": 100, "validation_volumes": 4, "validation_draws": 1},
    )  # fmt: skip
    run = train(load(content))
    (tmp_path / "asked.tsv").write_text("\n".join(["contrast", *list(CONTRASTS) * 2]))
    volgen.sample(run, tmp_path / "samples", given=tmp_path / "asked.tsv", seed=1)
    volumes = [np.asarray(nib.load(path).dataobj) for path in sorted((tmp_path / "samples").rglob("*.nii.gz"))]  # type: ignore[attr-defined]
    distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*[np.arange(16) - 7.5] * 3, indexing="ij")))
    ratios = {contrast: np.log(inner / outer) for contrast, (outer, inner) in CONTRASTS.items()}
    for volume, asked in zip(volumes, list(CONTRASTS) * 2, strict=True):
        seen = np.log(volume[distance < 2.5].mean() / volume[(distance > 4.3) & (distance < 5.2)].mean())
        assert min(ratios, key=lambda contrast: abs(ratios[contrast] - seen)) == asked, (asked, seen, ratios)


def test_a_folder_is_no_contrast(tmp_path: Path) -> None:
    box = np.zeros((16, 16, 16), np.float32)
    box[4:12, 4:12, 4:12] = 100.0 + np.arange(512).reshape(8, 8, 8)
    for number, name in enumerate(("PD/P01_brain.nii.gz", "PD/P02_brain.nii.gz", "control/C01_brain.nii.gz")):
        (tmp_path / "scans" / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(box * (1.0 + 0.1 * number), np.eye(4)), tmp_path / "scans" / name)
    volgen.ingest(tmp_path / "scans", tmp_path / "store", shape=(16, 16, 16), voxel_size=1)
    assert {record.contrast for record in Store.open(tmp_path / "store").records} == {""}
