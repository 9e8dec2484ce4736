"""Training that begins from a public run: what is taken over, what is trained, what the ledger says, and which runs are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from volgen.cli import main
from volgen.commands.anonymise.anonymise import anonymise
from volgen.commands.ingest.ingest import ingest
from volgen.commands.sample.sample import sample
from volgen.commands.train.train import train
from volgen.core.config import dump_yaml, validate
from volgen.core.errors import UserError
from volgen.core.files import sha256
from volgen.core.seal import sealed
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.store import Store
from volgen.recipe import Recipe

PowerCut = Callable[[int], AbstractContextManager[None]]
DP = {"kind": "dp_sgd", "epsilon": 6.0, "delta": 1e-3, "views": 2, "accountant": "rdp", "spare": 0.5}


def recipe(store: Path, runs: Path, public: Path | None = None, **sections: dict[str, Any]) -> Recipe:
    content: dict[str, Any] = {
        "name": "run", "runs": str(runs), "seed": 3,
        "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 3, "workers": 1},
        "schedule": {"kind": "log_snr", "points": 4, "sigma_max": 20.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4},
        "preconditioner": {"kind": "gaussian", "rank": 2}, "experts": {"count": 2, "warm_start": "none"},
        "optimiser": {"warmup_steps": 2, "gradient_clip": 0.0},
        "stopping": {"max_steps": 3, "min_steps": 3, "validate_every": 2, "validation_volumes": 2},
    }  # fmt: skip
    if public:
        content["start"] = {"kind": "public", "run": str(public)}
    for section, values in sections.items():
        before = content.get(section, {})
        content[section] = values if values.get("kind", before.get("kind")) != before.get("kind") else {**before, **values}
    return validate(Recipe, content, "test")


@pytest.fixture(scope="module")
def public(blob_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe(blob_store, tmp_path_factory.mktemp("public"), stopping={"max_steps": 6, "min_steps": 6}))


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 12 other synthetic heads."""
    return _heads(tmp_path_factory.mktemp("patients"), 100)


def _heads(folder: Path, first: int, voxel_size: float = 8.0) -> Path:
    generator = np.random.default_rng(first)
    axes = np.meshgrid(*[np.arange(16) - 7.5] * 3, indexing="ij")
    (folder / "scans").mkdir(parents=True)
    for person in range(first, first + 12):
        radii = generator.uniform(2, 4, 3)
        voxels = 300.0 * np.exp(-sum((axis / r) ** 2 for axis, r in zip(axes, radii, strict=True)))
        image = nib.Nifti1Image(voxels.astype(np.float32), np.diag([8.0, 8.0, 8.0, 1.0]))
        nib.save(image, folder / "scans" / f"sub-{person:02d}_T1w.nii.gz")
    ingest(folder / "scans", folder / "store", IngestConfig(shape=(16, 16, 16), voxel_size=voxel_size, validation=0.2, test=0.1))
    return folder / "store"


def weights(run: Path, expert: int) -> dict[str, torch.Tensor]:
    return load_file(run / f"experts/{expert}/weights.safetensors")


def test_a_private_run_takes_the_public_fit_and_its_samples_need_no_adapter(public: Path, patients: Path, tmp_path: Path) -> None:
    run = train(recipe(patients, tmp_path, public, privacy=DP, adapter={"kind": "lora", "rank": 2}))
    assert sha256(run / "preconditioner.safetensors") == sha256(public / "preconditioner.safetensors")
    ledger = json.loads((run / "privacy_ledger.json").read_text())
    assert [(entry["scope"], entry["steps"]) for entry in ledger["entries"]] == [("0", 3), ("1", 3)] and ledger["epsilon"] <= 6.0
    said = ledger["assumed"]["public"]
    assert said["run"] == "run" and said["manifest"] == sha256(public / "manifest.json")
    assert said["people"].endswith("no patient id is in both") and str(public) not in (run / "privacy_ledger.json").read_text()
    before, after = weights(public, 1), weights(run, 1)
    assert before.keys() == after.keys()
    moved = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert moved and all(name.endswith(".weight") and before[name].dim() > 1 for name in moved), "biases and norms are frozen"
    out = sample(run, tmp_path / "out", count=1, seed=0)
    assert "differentially private" in json.loads((out / "sub-0001/anat/sub-0001_desc-synthetic_T1w.json").read_text())["PrivacyStatement"]
    scan = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((16, 16, 16), np.float32), np.diag([8.0, 8.0, 8.0, 1.0])), scan)
    anonymise(scan, run, tmp_path / "anon", epsilon=60.0, delta=1e-5, accept_vacuous=True)
    certificate = json.loads((tmp_path / "anon" / "certificate.json").read_text())
    assert "not in the cohort of the run that it began from" in certificate["denoiser"]["assumed"]


def test_private_denoisers_learn_latents_of_a_public_autoencoder_which_costs_nothing(
    blob_store: Path, patients: Path, tmp_path: Path
) -> None:
    latent = {"kind": "latent", "channels": [4, 8], "norm_groups": 4, "latent_channels": 1, "steps": 2, "gate": 0.0}
    own = {"method": latent, "preconditioner": {"levels": 1, "folds": 3}}
    public = train(recipe(blob_store, tmp_path / "public", **own))
    run = train(recipe(patients, tmp_path / "private", public, privacy=DP, **own))
    same = [sha256(run / f"experts/{name}/weights.safetensors") == sha256(public / f"experts/{name}/weights.safetensors")
            for name in ("autoencoder", "0", "1")]  # fmt: skip
    ledger = json.loads((run / "privacy_ledger.json").read_text())
    assert same == [True, False, False] and [(entry["scope"], entry["steps"]) for entry in ledger["entries"]] == [("0", 3), ("1", 3)]
    assert sample(run, tmp_path / "out", count=1, seed=0).is_dir()


def test_experts_outside_of_the_range_are_the_public_ones_and_cost_nothing(public: Path, patients: Path, tmp_path: Path) -> None:
    start = {"kind": "public", "run": str(public), "sigma": [1.0, 30.0]}
    run = train(recipe(patients, tmp_path, public, start=start, privacy=DP))
    assert sha256(run / "experts/0/weights.safetensors") == sha256(public / "experts/0/weights.safetensors")
    assert sha256(run / "experts/1/weights.safetensors") != sha256(public / "experts/1/weights.safetensors")
    ledger = json.loads((run / "privacy_ledger.json").read_text())
    assert [(entry["scope"], entry["steps"]) for entry in ledger["entries"]] == [("1", 3)]
    assert ledger["assumed"]["public"]["unchanged_experts"] == ["0"]
    both = train(recipe(patients, tmp_path / "both", public, privacy=DP))
    noise = [json.loads((each / "privacy_ledger.json").read_text())["entries"][0]["noise_multiplier"] for each in (run, both)]
    assert noise[0] < noise[1], "half the steps need less noise"
    assert [expert["steps"] for expert in json.loads((run / "ensemble.json").read_text())["experts"]] == [0, 3]


def test_plain_fine_tuning_is_never_worse_than_its_start_and_can_be_resumed(
    public: Path, patients: Path, tmp_path: Path, power_cut: PowerCut
) -> None:  # fmt: skip
    asked = recipe(patients, tmp_path, public, adapter={"kind": "lora", "rank": 2}, engine={"checkpoint_every": 2}, experts={"count": 4})
    with power_cut(3):
        train(asked)
    run, undisturbed = train(asked), train(recipe(patients, tmp_path / "again", public, **_sections(asked)))
    for expert in range(4):
        assert sha256(run / f"experts/{expert}/weights.safetensors") == sha256(undisturbed / f"experts/{expert}/weights.safetensors")
    assert json.loads((run / "privacy_ledger.json").read_text())["epsilon"] is None
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["inputs"]["public"]["run"] == "run"


@pytest.mark.parametrize(("points", "owners"), [([3, 1], [0, 1]), ([1, 3], [0, 1]), ([4], [1])])
def test_an_expert_begins_from_the_one_that_owns_most_of_its_levels(
    points: list[int], owners: list[int], public: Path, patients: Path, tmp_path: Path
) -> None:
    """The public experts own two levels each."""
    experts = {"count": len(points), "points": points}
    one, still = {"max_steps": 1, "min_steps": 1}, {"learning_rate": 1e-9}
    run = train(recipe(patients, tmp_path, public, experts=experts, stopping=one, optimiser=still))
    for expert, owner in enumerate(owners):
        for name, tensor in weights(public, owner).items():
            torch.testing.assert_close(weights(run, expert)[name], tensor, rtol=0, atol=1e-4)
        assert any(not torch.allclose(weights(run, expert)[name], tensor, atol=1e-3) for name, tensor in weights(public, 1 - owner).items())
    # The public weights of one are not the network of levels that two of them own.
    kept = {"kind": "public", "run": str(public), "sigma": [10.0, 30.0]}
    if points == [3, 1]:
        with pytest.raises(UserError, match="between its experts 0 to 1"):
            train(recipe(patients, tmp_path / "kept", public, experts=experts, start=kept))


def _sections(asked: Recipe) -> dict[str, Any]:
    return {name: getattr(asked, name).model_dump() for name in ("adapter", "engine", "experts")}


def test_people_of_a_public_cohort_belong_to_no_fold(public: Path, patients: Path, tmp_path: Path) -> None:
    """The private cohort is smaller than the number of folds' people, and its numbers mean nothing to the public fit."""
    run = train(recipe(patients, tmp_path, public, stopping={"max_steps": 1, "min_steps": 1}))
    assert "fold_number" not in load_file(run / "preconditioner.safetensors")
    assert len(Store.open(patients).split("train")) > 0


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"network": {"channels": [16]}}, "network.channels is .16,. here and .8,. there"),
        ({"preconditioner": {"rank": 3}}, "preconditioner.rank is 3 here and 2 there"),
        ({"experts": {"models": [{"points": 2}, {"points": 2, "level": 1}]}}, "level is 1 here and 0 there"),
        ({"schedule": {"sigma_max": 40.0}}, "knows noise levels 0.02 to 20"),
        ({"adapter": {"kind": "attention"}}, "no attention layers"),
        ({"privacy": {**DP, "skull_stripped": False}}, "this cohort whole heads"),
    ],
)
def test_a_public_run_that_does_not_fit_is_refused(
    sections: dict[str, Any], reason: str, public: Path, patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    asked = recipe(patients, tmp_path, public, **{"privacy": DP, **sections})
    with pytest.raises(UserError, match=reason):
        train(asked)
    assert not (asked.directory / "config.yaml").exists(), "refused before anything of a run was written"
    (tmp_path / "asked.yaml").write_text(dump_yaml(asked))
    assert main(["train", "--config", str(tmp_path / "asked.yaml")]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"start": {"kind": "scratch"}, "privacy": DP}, "fitted to the cohort"),
        ({"start": {"kind": "scratch"}, "adapter": {"kind": "lora"}}, "start.kind is 'scratch'"),
        ({"experts": {"warm_start": "neighbour"}}, "warm_start to none"),
        ({"start": {"sigma": [0.1, 5.0]}}, "cuts through an expert"),
        ({"start": {"sigma": [30.0, 40.0]}}, "nothing would be trained"),
        ({"start": {"sigma": [5.0, 1.0]}}, "is empty"),
        ({"start": {"rnu": "x"}}, "Did you mean 'run'"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(sections: dict[str, Any], reason: str, patients: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        recipe(patients, tmp_path, tmp_path, **sections)


def test_a_run_of_the_same_people_is_refused(public: Path, blob_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this very cohort"):
        train(recipe(blob_store, tmp_path, public, privacy=DP))
    on = train(recipe(blob_store, tmp_path / "on", public))
    inputs = json.loads((on / "manifest.json").read_text())["inputs"]
    assert inputs["public_cohorts"][0]["fingerprint"] == inputs["fingerprint"], "without a budget training may go on"
    with pytest.raises(UserError, match="this very cohort"):
        train(recipe(blob_store, tmp_path, on, privacy=DP))
    others = _heads(tmp_path / "others", 6)  # sub-06 ... sub-15 are in the public store
    with pytest.raises(UserError, match="patient ids in its cohort") as refusal:
        train(recipe(others, tmp_path, public, privacy=DP))
    assert "sub-" not in str(refusal.value).replace("sub-01", "")
    run = train(recipe(others, tmp_path, public, privacy=DP, start={"shared_ids": True}))
    said = json.loads((run / "privacy_ledger.json").read_text())["assumed"]["public"]["people"]
    assert "said to be of different people" in said


def without_store(run: Path, copy: Path, gone: Path) -> Path:
    """A copy of a run whose manifest names a store that is not there."""
    shutil.copytree(run, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["inputs"]["store"] = str(gone)
    (copy / "manifest.json").write_text(json.dumps(sealed(manifest)))
    return copy


def people_of(run: Path) -> str:
    said: str = json.loads((run / "privacy_ledger.json").read_text())["assumed"]["public"]["people"]
    return said


def test_a_private_run_is_refused_where_people_cannot_be_compared(
    public: Path, blob_store: Path, patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    elsewhere = without_store(public, tmp_path / "elsewhere", tmp_path / "gone.zarr")
    asked = recipe(patients, tmp_path, elsewhere, privacy=DP)
    (tmp_path / "asked.yaml").write_text(dump_yaml(asked))
    assert main(["train", "--config", str(tmp_path / "asked.yaml")]) == 2
    message = capsys.readouterr().err
    assert "gone.zarr, is not at hand (there is no such folder)" in message
    assert "start.stores" in message and "start.not_compared true" in message
    assert not asked.directory.exists()
    train(recipe(patients, tmp_path / "plain", elsewhere))  # claims nothing, so nothing is asked
    assert "no patient id is in both" in people_of(
        train(recipe(patients, tmp_path / "found", elsewhere, privacy=DP, start={"stores": [str(patients), str(blob_store)]}))
    )
    with pytest.raises(UserError, match=r"is another cohort; its store, x+, is not at hand"):
        train(recipe(patients, tmp_path, elsewhere, privacy=DP, start={"stores": [str(patients), "x" * 300]}))
    run = train(recipe(patients, tmp_path, elsewhere, privacy=DP, start={"not_compared": True}))
    assert "were not compared" in people_of(run)


def test_a_private_run_goes_on_where_the_public_store_is_gone(
    public: Path, blob_store: Path, patients: Path, tmp_path: Path, power_cut: PowerCut
) -> None:  # fmt: skip
    asked = recipe(patients, tmp_path, public, privacy=DP)
    with power_cut(2):
        train(asked)
    blob_store.rename(blob_store.with_name("away"))
    try:
        # Not from another run, whose cohort nobody compares now: the manifest that would tell is not there yet after an early crash.
        shutil.copytree(public, tmp_path / "other")
        with (tmp_path / "other" / "manifest.json").open("a") as file:
            file.write("\n")
        manifest = asked.directory / "manifest.json"
        manifest.rename(tmp_path / "manifest")
        with pytest.raises(UserError, match="is not the run that"):
            train(recipe(patients, tmp_path, tmp_path / "other", privacy=DP))
        (tmp_path / "manifest").rename(manifest)
        run = train(asked)
    finally:
        blob_store.with_name("away").rename(blob_store)
    assert "no patient id is in both" in people_of(run), "what was seen when it began"


def test_people_are_not_laundered_by_a_run_in_between_nor_by_other_ids(
    public: Path, blob_store: Path, patients: Path, tmp_path: Path
) -> None:
    between = train(recipe(patients, tmp_path / "between", public))
    with pytest.raises(UserError, match="this very cohort, by way of"):
        train(recipe(blob_store, tmp_path, between, privacy=DP, start={"shared_ids": True}))
    # Some people of the first cohort, in a run that begins from one of others, which began from one of them.
    some = _heads(tmp_path / "some", 6)  # sub-06 ... sub-15 are in the public store
    with pytest.raises(UserError, match="patient ids in its cohort, by way of its own start"):
        train(recipe(some, tmp_path, between, privacy=DP))
    blob_store.rename(blob_store.with_name("away"))
    try:
        with pytest.raises(UserError, match="cannot be compared with this cohort, by way of its own start"):
            train(recipe(some, tmp_path, between, privacy=DP))
        known = people_of(train(recipe(some, tmp_path / "known", between, privacy=DP, start={"not_compared": True})))
        assert "no patient id is in both where they were compared" in known and "not compared with every cohort" in known
    finally:
        blob_store.with_name("away").rename(blob_store)
    # A scan of the public cohort under another name.
    renamed = tmp_path / "renamed"
    shutil.copytree(patients.parent / "scans", renamed / "scans")
    for path in sorted((renamed / "scans").iterdir()):
        path.rename(path.with_name(path.name.replace("sub-", "sub-x")))
    ingest(renamed / "scans", renamed / "store", IngestConfig(shape=(16, 16, 16), voxel_size=8.0, validation=0.2, test=0.1))
    first = train(recipe(patients, tmp_path / "first"))
    with pytest.raises(UserError, match="has scans in its cohort"):
        train(recipe(renamed / "store", tmp_path, first, privacy=DP, start={"shared_ids": True}))


def test_a_released_run_can_be_begun_from_and_nobody_claims_to_know_whom_it_has_seen(
    public: Path, blob_store: Path, patients: Path, tmp_path: Path, power_cut: PowerCut
) -> None:  # fmt: skip
    released = tmp_path / "released"
    shutil.copytree(public, released, ignore=shutil.ignore_patterns("manifest.json"))
    plain = train(recipe(patients, tmp_path / "plain", released))
    assert sha256(plain / "preconditioner.safetensors") == sha256(public / "preconditioner.safetensors")
    with pytest.raises(UserError, match=r"it has no manifest\.json of its training \(a released run has none\)") as refusal:
        train(recipe(patients, tmp_path, released, privacy=DP))
    assert "start.not_compared true" in str(refusal.value) and "start.stores" not in str(refusal.value), "no store can be known as its own"
    asked = recipe(patients, tmp_path, released, privacy=DP, start={"not_compared": True})
    with power_cut(2):
        train(asked)
    other = train(recipe(patients, tmp_path / "another", stopping={"max_steps": 2, "min_steps": 2}))
    (other / "manifest.json").unlink()
    (asked.directory / "manifest.json").rename(tmp_path / "manifest")  # it is not there yet after an early crash
    with pytest.raises(UserError, match="is not the run that"):
        train(recipe(patients, tmp_path, other, privacy=DP, start={"not_compared": True}))
    (tmp_path / "manifest").rename(asked.directory / "manifest.json")
    assert people_of(train(asked)).endswith("nobody can tell whom it has seen")
    # Its config.yaml and start.stores name stores that were perhaps its own: they may accuse.
    for suspected, message in (({}, "this very cohort"), ({"stores": [str(patients)]}, "this very cohort")):
        mine = blob_store if not suspected else patients
        with pytest.raises(UserError, match=message):
            train(recipe(mine, tmp_path / "suspected", released, privacy=DP, start={"not_compared": True, **suspected}))
    # The same ids in one of them, of other people.
    others = _heads(tmp_path / "others", 6)
    suspected = {"not_compared": True, "shared_ids": True}
    with pytest.raises(UserError, match=r"patient ids in its cohort, if that is what its config.yaml .*rename your store"):
        train(recipe(others, tmp_path / "namesakes", released, privacy=DP, start={"not_compared": True}))
    assert "some patient ids are in both" in people_of(train(recipe(others, tmp_path / "namesakes", released, privacy=DP, start=suspected)))
    with pytest.raises(UserError, match="cannot be compared"):  # ids that are said to be others' are no answer for those nobody knows of
        train(recipe(others, tmp_path / "unsaid", released, privacy=DP, start={"shared_ids": True}))
    train(recipe(blob_store, tmp_path / "same", released))  # claims nothing, so nothing is asked
    # A run that began from one that began from it knows as little.
    with pytest.raises(UserError, match="cannot be compared with this cohort, by way of its own start: it has no manifest"):
        train(recipe(_heads(tmp_path / "third", 300), tmp_path / "next", plain, privacy=DP))


def test_another_or_a_damaged_public_run_is_refused(public: Path, patients: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(public, copy)
    with (copy / "experts/1/weights.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(UserError, match="SHA-256"):
        train(recipe(patients, tmp_path, copy, privacy=DP))
    (copy / "manifest.json").write_text((copy / "manifest.json").read_text() + "\n")
    with pytest.raises(UserError, match="is not the run that"):
        train(recipe(patients, tmp_path, copy, privacy=DP))
    coarse = _heads(tmp_path / "coarse", 200, voxel_size=9.0)
    with pytest.raises(UserError, match=r"has voxels of .8.0, 8.0, 8.0. mm, the cohort of .9.0"):
        train(recipe(coarse, tmp_path / "coarse", public, privacy=DP))
