"""A run of slabs, from training to volumes: resumed, sampled in any order, and refused where a file of it is missing or changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from volgen.commands.anonymise.anonymise import anonymise
from volgen.commands.sample.sample import sample
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.files import sha256
from volgen.core.run_files import FOR_TRAINING
from volgen.recipe import Recipe
from volgen.runs.trained import open_run


def recipe(store: Path, runs: Path) -> Recipe:
    content: dict[str, Any] = {
        "name": "slabs", "runs": str(runs), "seed": 5,
        "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 4},
        "schedule": {"kind": "log_snr", "points": 4, "sigma_max": 20.0},
        "network": {"kind": "slice_unet2d", "axis": "A", "channels": [8, 8], "norm_groups": 4, "neighbours": 1},
        "preconditioner": {"kind": "edm"},
        "assembly": {"kind": "autoregressive", "axis": "A", "thickness": 4, "context": 2, "coarse_levels": 2, "coarse_folds": 2},
        "experts": {"count": 2},
        "stopping": {"max_steps": 3, "validate_every": 2, "validation_volumes": 2, "validation_draws": 2},
    }  # fmt: skip
    return validate(Recipe, content, "test")


@pytest.fixture(scope="module")
def run(blob_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe(blob_store, tmp_path_factory.mktemp("runs")))


def voxels(path: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    return nib.load(path).get_fdata()  # type: ignore[no-any-return, attr-defined]


def test_the_run_holds_what_coarse_views_are_drawn_from_and_no_single_person(run: Path) -> None:
    state = load_file(run / "assembly.safetensors")
    assert state["mean"].shape == (1, 4, 4, 4)
    assert not any(name.startswith("fold_") for name in state)
    checksums = json.loads((run / "preconditioner.json").read_text())["sha256"]
    assert checksums["assembly.safetensors"] == sha256(run / "assembly.safetensors")


@pytest.mark.parametrize("sampler", ["heun", "ddpm"])
def test_volume_depends_on_seed_and_index_alone(run: Path, tmp_path: Path, sampler: str) -> None:
    kept = {"seed": 3, "sampler": sampler, "device": "cpu"}
    alone = sample(run, tmp_path / "alone", count=1, start_index=2, **kept)  # type: ignore[arg-type]
    together = sample(run, tmp_path / "together", count=3, batch_size=1, memory_gib=0, **kept)  # type: ignore[arg-type]
    batched = sample(run, tmp_path / "batched", count=3, batch_size=3, **kept)  # type: ignore[arg-type]
    (name,) = [path.relative_to(alone) for path in alone.rglob("*.nii.gz")]
    expected = voxels(alone / name)
    assert expected.std() > 0 and expected.shape == (16, 16, 16)
    assert np.array_equal(voxels(together / name), expected), "waves of one, two experts in memory"
    assert np.abs(voxels(batched / name) - expected).max() < 1e-3 * np.abs(expected).max()
    others = [voxels(path) for path in together.rglob("*.nii.gz") if path.name != name.name]
    assert len(others) == 2 and not any(np.allclose(other, expected) for other in others)


def test_noise_is_that_of_the_place(run: Path, tmp_path: Path) -> None:
    # Slabs are cut out of one volume of noise: keys of slerp go through them.
    plain = sample(run, tmp_path / "plain", count=1, seed=0, device="cpu")
    shared = sample(run, tmp_path / "shared", count=1, seed=0, noise={"kind": "slerp", "axis": "A", "spacing": 8}, device="cpu")
    assert not np.allclose(*(voxels(next(out.rglob("*.nii.gz"))) for out in (plain, shared)))


def test_a_changed_or_missing_file_of_the_assembly_is_named(run: Path, tmp_path: Path) -> None:
    path = run / "assembly.safetensors"
    content = path.read_bytes()
    state = load_file(path)
    try:
        for damage in (state["mean"] + 0.1, torch.full_like(state["mean"], float("nan"))):
            save_file({**state, "mean": damage}, path)
            with pytest.raises(UserError, match=r"assembly\.safetensors: .*it was changed"):
                open_run(run)
        path.write_bytes(content[:40])
        with pytest.raises(UserError, match=r"assembly\.safetensors: .*it was changed"):
            open_run(run)
        path.unlink()
        with pytest.raises(UserError, match="there is no such file"):
            sample(run, tmp_path / "out", count=1, seed=0, device="cpu")
    finally:
        path.write_bytes(content)
    assert not (tmp_path / "out").exists()


def test_a_scan_is_not_anonymised_by_pieces(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="draws volumes in pieces"):
        anonymise(tmp_path / "scan.nii.gz", run, tmp_path / "out", epsilon=1.0, delta=1e-5)
    assert not (tmp_path / "out").exists()


def test_training_does_not_go_on_without_what_samples_will_need(blob_store: Path, tmp_path: Path) -> None:
    asked = recipe(blob_store, tmp_path)
    run = train(asked)
    for name in ("ensemble.json", "assembly.safetensors"):
        (run / name).unlink()
    save_file({}, run / FOR_TRAINING)
    (run / "preconditioner.json").unlink()
    with pytest.raises(UserError, match=r"assembly.safetensors: there is no such file.*both will be fitted again"):
        train(asked)
    (run / FOR_TRAINING).unlink()
    train(asked)
    assert (run / "assembly.safetensors").is_file()


def test_too_few_people_for_coarse_views_are_named(blob_store: Path, tmp_path: Path) -> None:
    asked = recipe(blob_store, tmp_path)
    few = asked.model_copy(update={"assembly": asked.assembly.model_copy(update={"coarse_folds": 500})})
    with pytest.raises(UserError, match=r"assembly\.coarse_folds is 500, but there are .* lower it, or coarse_levels 0"):
        train(few)


def test_the_benchmark_of_experts_refuses_pieces(run: Path, blob_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from volgen.cli import main

    assert main(["bench", "experts", str(run), "--store", str(blob_store), "--device", "cpu"]) == 2
    assert "draws volumes in pieces (assembly.kind 'autoregressive')" in capsys.readouterr().err
