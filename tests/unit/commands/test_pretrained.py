"""Models in the package: `pretrained:NAME` wherever a run is read; here a registry of tiny made-up ones."""

from __future__ import annotations

import gzip
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import volgen
from volgen.cli import main
from volgen.commands.explain.explain import explain
from volgen.commands.ingest.ingest import ingest
from volgen.commands.release.release import release
from volgen.commands.sample.sample import sample
from volgen.commands.train.train import train
from volgen.core import pretrained
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.files import sha256
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.store import Store
from volgen.images.geometry import middle
from volgen.models.haar import unpyramid
from volgen.recipe import Recipe, load
from volgen.runs.trained import open_run

IMAGE = "sub-0001/anat/sub-0001_desc-synthetic_T1w.nii.gz"


def recipe(store: Path, runs: Path, name: str = "tiny", **sections: Any) -> Recipe:
    content: dict[str, Any] = {
        "name": name, "runs": str(runs), "seed": 5, "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 2},
        "schedule": {"kind": "log_snr", "points": 4, "sigma_max": 20.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4}, "preconditioner": {"kind": "gaussian", "rank": 2},
        "experts": {"count": 2, "warm_start": "none"}, "sampler": {"kind": "euler"},
        "stopping": {"max_steps": 2, "min_steps": 2, "validation_volumes": 2, "validation_draws": 2},
        **sections,
    }  # fmt: skip
    return validate(Recipe, content, "test")


@pytest.fixture(scope="module", name="run")
def _run(blob_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe(blob_store, tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module", name="shelf")
def _shelf(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with one model, which is read-only."""
    shelf = tmp_path_factory.mktemp("package") / "pretrained"
    model = release(run, shelf / "tiny-8mm", people_agreed=True, compact=True)
    (model / pretrained.CARD).write_text("# Tiny\n\nSixteen ellipsoids.\n")
    return shelf


@pytest.fixture
def registry(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pretrained, "FOLDER", shelf)
    return shelf


def content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_version_without_models_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "nothing")
    assert pretrained.names() == []
    assert main(["sample", "pretrained:any", "--out", str(tmp_path / "out"), "--count", "1"]) == 2
    assert "no model is packaged in this version" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main(["explain", "pretrained:any"]) == 2


@pytest.mark.parametrize("name", ["tiny", "", "..", "../pretrained/tiny-8mm", "tiny-8mm/experts", "/tmp"])
def test_an_unknown_name_gets_one_message_with_all_names(registry: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["statement", f"pretrained:{name}", "--out", "anywhere"]) == 2
    said = capsys.readouterr().err
    assert "pretrained:tiny-8mm" in said and "Traceback" not in said


def test_a_model_is_drawn_from_as_its_run_is_and_nothing_is_written_to_it(run: Path, registry: Path, tmp_path: Path) -> None:
    before = content(registry)
    theirs = nib.load(sample(run, tmp_path / "run", count=1, seed=3) / IMAGE).get_fdata()
    assert main(["sample", "pretrained:tiny-8mm", "--out", str(tmp_path / "out"), "--count", "1", "--seed", "3"]) == 0
    mine = nib.load(tmp_path / "out" / IMAGE).get_fdata()
    assert np.sqrt(np.mean((mine - theirs) ** 2)) < 0.02 * theirs.std() and not np.array_equal(mine, theirs)
    with volgen.load("pretrained:tiny-8mm") as model:
        assert model.shape == (16, 16, 16) and model.directory == registry / "tiny-8mm" and model.fingerprint != open_run(run).fingerprint
    assert main(["statement", "pretrained:tiny-8mm", "--out", str(tmp_path / "statement")]) == 0
    assert content(registry) == before


def test_a_compact_release_is_small_whole_and_names_no_place_or_person(
    run: Path, registry: Path, blob_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = registry / "tiny-8mm"
    opened = open_run(model)
    opened.verify()
    assert not (model / "metrics.jsonl").exists()
    before, after = ((folder / "experts/0/weights.safetensors").stat().st_size for folder in (run, model))
    assert after < 0.7 * before
    parts = {name: tensor.dtype for name, tensor in load_file(model / "experts/0/weights.safetensors").items()}
    assert {*parts.values()} == {torch.bfloat16, torch.float32}
    assert (model / "preconditioner.safetensors").stat().st_size < 0.6 * (run / "preconditioner.safetensors").stat().st_size
    people = [value for record in Store.open(blob_store).records for value in (record.id, record.patient, record.checksum)]
    for path in model.rglob("*"):
        if path.is_file():
            bare = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            for secret in (str(blob_store), str(run.parent), Store.open(blob_store).fingerprint, *people):
                assert secret.encode() not in bare, (path, secret)
    # A byte that was changed shows.
    broken = Path(shutil.copytree(model, registry.parent / "broken"))
    content = bytearray((broken / "preconditioner.safetensors").read_bytes())
    content[-1] ^= 1
    (broken / "preconditioner.safetensors").write_bytes(bytes(content))
    assert main(["sample", str(broken), "--out", str(registry.parent / "out"), "--count", "1"]) == 2
    assert "preconditioner.safetensors" in capsys.readouterr().err


def test_the_template_of_a_compact_release_is_the_mean_in_the_frame_of_its_volumes(run: Path, registry: Path) -> None:
    opened = open_run(run)
    template = nib.load(registry / "tiny-8mm" / pretrained.TEMPLATE)
    state = load_file(run / "preconditioner.safetensors")
    mean = unpyramid(state["mean"][:, None], opened.recipe.preconditioner.levels)[0, 0]
    expected = opened.geometry.volume(mean)
    assert np.allclose(template.affine, expected.affine)
    assert np.allclose(template.get_fdata(), expected.voxels, atol=1e-3 * np.ptp(expected.voxels))


def test_explain_shows_the_card(registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert explain("pretrained:tiny-8mm").startswith("# Tiny\n")
    bare = tmp_path / "pretrained"
    shutil.copytree(registry, bare)
    (bare / "tiny-8mm" / pretrained.CARD).unlink()
    monkeypatch.setattr(pretrained, "FOLDER", bare)
    with pytest.raises(UserError, match=r"has no MODEL_CARD\.md"):
        explain("pretrained:tiny-8mm")


def test_scans_are_registered_to_the_template_of_a_model(registry: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    axes = np.meshgrid(*[np.arange(16) - 7.5] * 3, indexing="ij")
    voxels = 100 * np.exp(-sum((axis / radius) ** 2 for axis, radius in zip(axes, (3, 4, 5), strict=True)))
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.diag([8.0, 8.0, 8.0, 1.0])), tmp_path / "scans" / "sub-01_T1w.nii.gz")

    def config(name: str) -> IngestConfig:
        registration = {"kind": "rigid", "template": f"pretrained:{name}", "iterations": 1}
        return validate(IngestConfig, {"shape": [16, 16, 16], "voxel_size": 8.0, "registration": registration}, "test")

    ingest(tmp_path / "scans", tmp_path / "store", config("tiny-8mm"), workers=1)
    theirs, mine = (nib.load(folder / pretrained.TEMPLATE).get_fdata() for folder in (registry / "tiny-8mm", tmp_path / "store"))
    assert np.allclose(mine, theirs)
    with pytest.raises(UserError, match="pretrained:tiny-8mm"):
        ingest(tmp_path / "scans", tmp_path / "other", config("huge"), workers=1)


LARGEST = 25_000_000
TOLD = ("data", "people", "age", "sex", "licence", "compute", "figures", "limits")
PLACE = re.compile(rb"(?<![\w.:/<>])/(?:[\w.-]+/)+[\w.-]+|sub-\w*\d")


def faults(model: Path) -> list[str]:
    """What is wrong with a folder that is to be in the package."""
    found = []
    try:
        opened = open_run(model)
        opened.verify()
        if opened.recipe.data.store != "cohort.zarr" or opened.provenance is None or not opened.provenance["config"].get("compact"):
            found.append("it is no compact release")
    except UserError as error:
        return [str(error)]
    listed = {*opened.provenance["files"]} if opened.provenance else set()
    present = {path.relative_to(model).as_posix(): path for path in model.rglob("*") if path.is_file()}
    found += [f"{name} is not of a release" for name in {*present} - listed - {"manifest.json", pretrained.CARD, pretrained.LICENCE}]
    found += [f"there is no {name}" for name in {pretrained.CARD, pretrained.LICENCE, pretrained.TEMPLATE} - {*present}]
    if pretrained.CARD in present:
        card = present[pretrained.CARD].read_text(encoding="utf-8").lower()
        found += [f"the card does not tell {word}" for word in TOLD if word not in card] + ["it has a blank"] * ("fill-in" in card)
    if sum(path.stat().st_size for path in present.values()) > LARGEST:
        found.append("it is too large")
    for name, path in present.items():
        if path.suffix in (".json", ".yaml") and (place := PLACE.search(path.read_bytes())):
            found.append(f"{name} names {place.group().decode()}")
    return found


@pytest.mark.parametrize("name", pretrained.names())
def test_a_model_in_the_package_is_whole_small_and_about_nobody(name: str) -> None:
    assert not faults(pretrained.FOLDER / name)


def test_what_is_wrong_with_a_packaged_folder_is_seen(registry: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(name: str, content: str | None) -> list[str]:
        folder = Path(shutil.copytree(registry / "tiny-8mm", tmp_path / f"changed-{len(list(tmp_path.iterdir()))}"))
        (folder / pretrained.LICENCE).write_text("CC0")
        (folder / pretrained.CARD).write_text(", ".join(TOLD))
        if content is None:
            (folder / name).unlink()
        elif name:
            (folder / name).write_text(content)
        return faults(folder)

    assert not changed("", "")
    assert changed(pretrained.CARD, "# Good") and changed(pretrained.LICENCE, None) and changed(pretrained.TEMPLATE, None)
    assert changed("metrics.jsonl", "{}") and changed("geometry.json", "{}") and changed("config.yaml", "name: x")
    (tmp_path / "plain").mkdir()
    assert "it is no compact release" in faults(release(run, tmp_path / "plain", people_agreed=True))
    assert any("names" in fault for fault in faults(tmp_path / "plain"))
    monkeypatch.setitem(globals(), "LARGEST", 1000)
    assert changed("", "") == ["it is too large"]


def finetuned(model: str, store: Path, runs: Path, **more: Any) -> Recipe:
    overrides = {"data.store": str(store), "runs": str(runs), "name": "mine", "stopping.max_steps": 1, "stopping.min_steps": 1, **more}
    return load(Path(f"pretrained:{model}"), list(overrides.items()))


def test_a_cohort_of_ones_own_is_learnt_from_a_model(registry: Path, blob_store: Path, tmp_path: Path) -> None:
    mine = finetuned("tiny-8mm", blob_store, tmp_path)
    assert mine.start.kind == "pretrained" and mine.start.name == "tiny-8mm" and mine.experts.warm_start == "none"
    began = train(mine)
    model, tuned = open_run(registry / "tiny-8mm"), open_run(began)
    theirs, ours = (load_file(each.directory / "experts/0/weights.safetensors") for each in (model, tuned))
    assert all((theirs[name].float() - ours[name]).abs().max() < 0.01 for name in ours) and ours.keys() == theirs.keys()
    assert any(not torch.equal(theirs[name].float(), ours[name]) for name in ours)
    cpu = torch.device("cpu")
    fits = [each.preconditioner(cpu).state() for each in (model, tuned)]
    assert all(torch.equal(fits[0][name], fits[1][name]) for name in fits[0])
    assert not [path for path in registry.rglob("*") if path.name.startswith(".")]
    assert finetuned("tiny-8mm", blob_store, tmp_path, **{"adapter.kind": "lora"}).adapter.needs_trained


def test_how_long_is_asked_of_all_experts_whatever_the_model_took_for_each(
    blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "shelf")
    long = {"max_steps": 3, "min_steps": 3, "validation_volumes": 2, "validation_draws": 2}
    model = recipe(blob_store, tmp_path, "long", experts={"models": [{"points": [2, 2], "stopping": long}], "warm_start": "none"})
    release(train(model), tmp_path / "shelf/long-8mm", people_agreed=True, compact=True)
    mine = finetuned("long-8mm", blob_store, tmp_path)
    assert [mine.rule(phase).max_steps for phase in mine.phases()] == [1, 1]
    assert [record.steps for record in open_run(train(mine)).ensemble.experts] == [1, 1]


def test_a_model_that_is_not_the_same_is_refused_with_what_to_do(registry: Path, blob_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"start\.name tiny-8mm.*--config pretrained:tiny-8mm") as refused:
        train(finetuned("tiny-8mm", blob_store, tmp_path, **{"network.channels": [4]}))
    assert "network.channels" in str(refused.value)
    with pytest.raises(UserError, match="no model 'tiny-4mm' in the package"):
        train(finetuned("tiny-8mm", blob_store, tmp_path, **{"start.name": "tiny-4mm"}))


def test_a_cohort_in_another_frame_is_refused_with_the_command_that_mends_it(registry: Path, blob_store: Path, tmp_path: Path) -> None:
    mine, store = finetuned("tiny-8mm", blob_store, tmp_path), Store.open(blob_store)
    found = open_run(registry / "tiny-8mm")
    assert found.provenance is not None and found.provenance["config"]["prepared"] == {
        "registration": "none",
        "bias": "none",
        "window": "robust",
    }

    def begin(prepared: dict[str, str], settings: dict[str, Any], centre: tuple[float, float, float]) -> None:
        provenance = {**(found.provenance or {}), "config": {"prepared": prepared}}
        ingested = Store(blob_store, store.records, {**store.settings, **settings})
        run = replace(found, provenance=provenance, geometry=replace(found.geometry, centre=centre))
        mine.start.build(mine, ingested, lambda _: run)

    there = middle(store.records[0].affine, (16, 16, 16))
    affine = {"registration": {"kind": "affine"}}
    begin({"registration": "affine", "bias": "none"}, affine, there)
    command = (
        "volgen ingest SOURCE STORE --shape 16,16,16 --voxel-size 8 --registration affine "
        "--registration.template pretrained:tiny-8mm --centre grid --bias n4"
    )
    with pytest.raises(UserError, match=r"--registration none") as refused:
        begin({"registration": "affine", "bias": "n4"}, {}, there)
    assert command in str(refused.value)
    with pytest.raises(UserError, match=r"--bias none"):
        begin({"registration": "affine", "bias": "n4"}, affine, there)
    with pytest.raises(UserError, match=r"--window robust.*--registration affine .*--window white_matter"):
        begin({"registration": "affine", "bias": "none", "window": "white_matter"}, affine, there)
    with pytest.raises(UserError, match=r"--window white_matter; expected robust"):  # a model of before the choice
        begin({"registration": "affine", "bias": "none"}, {**affine, "window": {"kind": "white_matter"}}, there)
    with pytest.raises(UserError, match="middle of its grid"):
        begin({"registration": "affine", "bias": "none"}, affine, (there[0], there[1] + 1.0, there[2]))


def test_experts_that_are_finer_than_the_scans_stay_the_models(blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "shelf")
    store = tmp_path / "store"
    ingest(blob_store.parent / "scans", store, IngestConfig(shape=(32, 32, 32), voxel_size=4.0, validation=0.35, test=0.05), workers=1)
    models = [{"points": [2], "level": 0}, {"points": [2], "level": 1}]
    model = recipe(
        store, tmp_path, "fine", data={"store": str(store), "shape": [32, 32, 32], "batch_size": 1, "interpolated": True},
        experts={"models": models, "warm_start": "none"}, preconditioner={"kind": "gaussian", "rank": 2},
    )  # fmt: skip
    release(train(model), tmp_path / "shelf/fine-4mm", people_agreed=True, compact=True)
    coarse = {"data.interpolated": False}
    with pytest.raises(UserError, match=r"Set start\.sigma \[.*taken over as they are") as refused:
        train(finetuned("fine-4mm", store, tmp_path, **coarse))
    low, high = re.findall(r"start\.sigma \[([\d.e+]+), ([\d.e+]+)\]", str(refused.value))[0]
    tuned = train(finetuned("fine-4mm", store, tmp_path, **coarse, **{"start.sigma": [float(low), float(high)]}))
    same = [sha256(tuned / f) == sha256(tmp_path / "shelf/fine-4mm" / f) for f in (f"experts/{n}/weights.safetensors" for n in (0, 1))]
    assert same == [True, False]
