"""Every method is trained, resumed, planned, sampled and reported by the same commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from volgen.cli import main
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.registry import kinds
from volgen.experts import ensemble
from volgen.images import nifti
from volgen.recipe import Recipe

PowerCut = Callable[[int], AbstractContextManager[None]]
GAUSSIAN = {"kind": "gaussian", "rank": 2, "levels": 1, "folds": 3}
OWN: dict[str, dict[str, Any]] = {
    "diffusion": {},
    "gaussian": {"preconditioner": GAUSSIAN, "experts": {"count": 2}},
    "gan": {"method": {"kind": "gan", "latent": 8, "width": 8, "critic_width": 4, "norm_groups": 2, "slab": 2}},
    "latent": {
        "method": {"kind": "latent", "channels": [4, 8], "norm_groups": 4, "latent_channels": 2, "steps": 4, "gate": 0.0},
        "preconditioner": GAUSSIAN,
        "experts": {"count": 2},
    },
    "vae": {"method": {"kind": "vae", "channels": [4, 8], "norm_groups": 4, "latent_channels": 2, "rank": 3}},
}
"""What the recipe of a method has beside the usual."""
BOTH_SIDES = {"mirrored": True, "data": {"store": "x", "shape": [16, 16, 16], "batch_size": 2, "augment": {"flip_left_right": True}}}


def recipe(kind: str, store: Path, runs: Path, **sections: Any) -> dict[str, Any]:
    return {
        "name": "run", "runs": str(runs), "seed": 5, "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 2},
        "method": {"kind": kind}, "schedule": {"kind": "log_snr", "points": 4, "sigma_max": 3.0}, "preconditioner": {"kind": "edm"},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4}, "sampler": {"kind": "euler"},
        "optimiser": {"warmup_steps": 1}, "engine": {"checkpoint_every": 2},
        "stopping": {"max_steps": 4, "validate_every": 2, "validation_volumes": 2, "validation_draws": 2}, **OWN[kind], **sections,
    }  # fmt: skip


def trained(content: dict[str, Any]) -> Path:
    return train(validate(Recipe, content, "test"))


def test_every_method_is_looked_at() -> None:
    elsewhere = {"jump"}  # whose students have tests of their own
    assert set(OWN) == set(kinds("volgen.methods")) - elsewhere


@pytest.mark.parametrize("kind", OWN)
def test_a_method_goes_through_all_commands(kind: str, blob_store: Path, tmp_path: Path, power_cut: PowerCut) -> None:
    whole = trained(recipe(kind, blob_store, tmp_path / "whole"))
    with power_cut(4):
        trained(recipe(kind, blob_store, tmp_path / "cut"))
    resumed = trained(recipe(kind, blob_store, tmp_path / "cut"))
    (same, again) = ([expert.sha256 for expert in ensemble.read(run / "ensemble.json").experts] for run in (whole, resumed))
    assert same == again, "a crashed run goes on and equals an uninterrupted one"

    config = tmp_path / "recipe.yaml"
    config.write_text(yaml.safe_dump(recipe(kind, blob_store, tmp_path / "other")))
    assert main(["train", "--config", str(config), "--dry-run"]) == 0
    assert (
        main(["plan", "--config", str(config), "--nodes", "1", "--gpus-per-node", "1", "--gpu-memory", "16", "--out", str(tmp_path / "p")])
        == 0
    )
    assert json.loads((tmp_path / "p" / "plan.json").read_text())["chosen"]

    for name, first, count in (("two", 0, 2), ("second", 1, 1)):
        words = ["sample", whole, "--out", tmp_path / name, "--count", count, "--start-index", first, "--seed", 3]
        assert main([str(word) for word in words]) == 0
    two, (second,) = (sorted((tmp_path / name).rglob("*.nii.gz")) for name in ("two", "second"))
    drawn = [nifti.read(path).voxels for path in two]
    assert (drawn[1] == nifti.read(second).voxels).all(), "volume i depends on the seed and i alone"
    assert (drawn[0] != drawn[1]).any() and all(volume.shape == (16, 16, 16) for volume in drawn)
    assert main(["report", str(tmp_path / "two"), "--reference", str(blob_store), "--out", str(tmp_path / "report")]) == 0
    assert main(["release", str(whole), str(tmp_path / "release"), "--people-agreed"]) == 0
    assert main(["sample", str(tmp_path / "release"), "--out", str(tmp_path / "released"), "--count", "1", "--seed", "3"]) == 0
    (released,) = (tmp_path / "released").rglob("*.nii.gz")
    assert (nifti.read(released).voxels == drawn[0]).all()


def test_a_gaussian_learns_one_number_and_needs_a_fit(blob_store: Path, tmp_path: Path) -> None:
    run = trained(recipe("gaussian", blob_store, tmp_path, experts={"count": 1}, optimiser={"learning_rate": 0.05, "warmup_steps": 1}))
    (expert,) = ensemble.read(run / "ensemble.json").experts
    (number,) = load_file(run / expert.weights).values()
    assert expert.parameters == number.numel() == 1 and 0 < abs(float(number)) <= 0.2


@pytest.mark.parametrize(
    ("kind", "sections", "message"),
    [
        ("gaussian", {"preconditioner": {"kind": "edm"}}, "fitted to nobody"),
        ("gaussian", {"level": 1}, "of whole volumes"),
        ("vae", {"preconditioner": GAUSSIAN}, "no use for the fit"),
        ("gan", {"experts": {"count": 2}}, "is one network"),
        ("gan", {"data": {"store": "x", "shape": [16, 16, 12], "batch_size": 2}}, "multiples of 8"),
        ("gan", {"data": {"store": "x", "shape": [8, 8, 8], "batch_size": 2}, "method": {"kind": "gan", "latent": 513}}, "513 numbers"),
        ("gan", BOTH_SIDES, "leave mirrored out"),
        ("gaussian", BOTH_SIDES, "leave mirrored out"),
        ("vae", {"privacy": {"kind": "dp_sgd", "epsilon": 1.0, "delta": 1e-5, "clip_norm": 1.0}}, "method.kind 'vae'"),
    ],
)
def test_what_a_method_is_not_for_is_refused(kind: str, sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        validate(Recipe, recipe(kind, tmp_path, tmp_path, **sections), "test")


def test_a_generator_of_one_step_takes_no_other_number_of_steps_and_no_guidance(blob_store: Path, tmp_path: Path) -> None:
    run = trained(recipe("vae", blob_store, tmp_path))
    for words in (["--steps", "2"], ["--guidance", "auto"]):
        assert main(["sample", str(run), "--out", str(tmp_path / "drawn"), *words]) == 2
