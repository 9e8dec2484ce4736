"""Runs that are told of people: trained, drawn from as asked, and refused where nobody could be told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import volgen
from volgen import cli
from volgen.commands.ingest.ingest import ingest
from volgen.commands.participants.participants import participants
from volgen.commands.release.release import release
from volgen.commands.sample.sample import sample
from volgen.commands.train.train import train
from volgen.core.errors import UserError
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.store import Store
from volgen.recipe import Recipe, load
from volgen.runs.trained import open_run

CONDITIONS = [{"kind": "continuous", "column": "age"}, {"kind": "categorical", "column": "sex"}]
STATED = [
    {"kind": "continuous", "column": "age", "centre": 50, "spread": 20},
    {"kind": "categorical", "column": "sex", "levels": ["F", "M"]},
]


@pytest.fixture(scope="module")
def told(blob_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that knows the age and sex of all but two people."""
    store = Path(shutil.copytree(blob_store, tmp_path_factory.mktemp("told") / "store"))
    rows = [f"{record.patient}\t{30 + 3 * number}\t{'FM'[number % 2]}" for number, record in enumerate(Store.open(store).records)]
    table = store.parent / "table.tsv"
    table.write_text("\n".join(["participant_id\tage\tsex", *rows[:-2], f"{rows[-2].split(chr(9))[0]}\tn/a\tn/a"]))
    known = volgen.participants(store, table)
    assert known.columns["sex"].missing == 2
    return store


def recipe(store: Path, runs: Path, **sections: Any) -> Recipe:
    content: dict[str, Any] = {
        "name": "run", "runs": str(runs), "seed": 5,
        "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 2, "workers": 1},
        "schedule": {"kind": "karras", "points": 4, "sigma_min": 0.1, "sigma_max": 10.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4},
        "preconditioner": {"kind": "edm"}, "conditions": CONDITIONS,
        "optimiser": {"learning_rate": 0.02, "warmup_steps": 1},
        "stopping": {"max_steps": 6, "min_steps": 6, "validate_every": 3, "validation_volumes": 2, "validation_draws": 2},
    }  # fmt: skip
    return load({**content, **sections})


@pytest.fixture(scope="module")
def run(told: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe(told, tmp_path_factory.mktemp("runs")))


def drawn(folder: Path) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(nib.load(path).dataobj) for path in sorted(folder.rglob("*.nii.gz"))]  # type: ignore[attr-defined]


def sidecars(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("sub-*.json"))]


def test_a_run_says_what_it_can_be_asked_for_and_nothing_of_anybody(run: Path, told: Path) -> None:
    loaded = load(run / "config.yaml", own=True)
    age, sex = loaded.conditions
    assert age.settled and 30 < age.centre < 80 and sex.levels == ("F", "M")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["inputs"]["participants"] == Store.open(told).covariates.fingerprint
    assert not any("covariates" in path.read_text() for path in (run / "config.yaml", run / "metrics.jsonl", run / "manifest.json"))


def test_a_volume_is_what_is_asked_of_it_and_depends_on_nothing_else(run: Path, tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text("participant_id\tage\tsex\na\t35\tF\nb\tn/a\tM\nc\t70\tn/a\n")
    assert cli.main(["sample", str(run), "--out", str(tmp_path / "rows"), "--given", str(tmp_path / "table.tsv"), "--seed", "3"]) == 0
    rows = drawn(tmp_path / "rows")
    assert [each.get("AskedFor") for each in sidecars(tmp_path / "rows")] == [
        {"given": {"age": "35", "sex": "F"}}, {"given": {"sex": "M"}}, {"given": {"age": "70"}},
    ]  # fmt: skip
    for index, given in enumerate((["age=35", "sex=F"], ["sex=M", "age=n/a"], ["age=70"])):
        sample(run, tmp_path / f"{index}", count=1, seed=3, start_index=index, given=given)
        (alone,) = drawn(tmp_path / f"{index}")
        assert np.array_equal(alone, rows[index])
    sample(run, tmp_path / "free", count=3, seed=3)
    free = drawn(tmp_path / "free")
    assert all(np.abs(one - other).max() > 1e-4 * np.ptp(one) for one, other in zip(free, rows, strict=True))
    sample(run, tmp_path / "untold", count=3, seed=3, given=["age=n/a"])
    assert all(np.array_equal(one, other) for one, other in zip(drawn(tmp_path / "untold"), free, strict=True))
    with pytest.raises(UserError, match="the table has 3 rows"):
        sample(run, tmp_path / "more", count=4, given=[str(tmp_path / "table.tsv")])
    with pytest.raises(UserError, match="--count: is not given"):
        sample(run, tmp_path / "more")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("age\tsex\n30\tF\n40\tx\n", r"line 3: sex: 'x' is no value of it \(expected one of F, M\)"),
        ("agee\n30\n", r"has the columns agee; expected one of age, sex"),
        ("age\n", "has a header and no rows"),
        ("age\tage\n1\t2\n", "each name once"),
    ],
)
def test_tables_that_ask_for_what_there_is_not_are_refused(text: str, message: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text(text)
    with pytest.raises(UserError, match=message):
        sample(run, tmp_path / "out", given=[str(tmp_path / "table.tsv")])
    assert not (tmp_path / "out").exists()


def test_stores_that_know_nothing_of_it_are_refused(told: Path, blob_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"conditions\.0: 'weight' is known of 0 of"):
        recipe(told, tmp_path, conditions=[{"kind": "continuous", "column": "weight"}])
    with pytest.raises(UserError, match=r"conditions\.0: nothing is known of 'age' in .*volgen participants"):
        train(recipe(blob_store, tmp_path, conditions=STATED))
    with pytest.raises(UserError, match=r"conditions\.0: 'sex' of .* is another thing: it holds words \(F, M\)"):
        train(recipe(told, tmp_path, conditions=[{"kind": "continuous", "column": "sex", "centre": 0, "spread": 1}]))
    with pytest.raises(UserError, match=r"network\.kind 'unet3d' cannot be told anything"):
        recipe(told, tmp_path, network={"kind": "unet3d", "channels": [32], "attention": [False]}, conditions=STATED)
    private = {"kind": "dp_sgd", "epsilon": 6.0, "delta": 1e-3}
    with pytest.raises(UserError, match="what 'age' leaves out would follow from people whom this protects"):
        recipe(told, tmp_path, privacy=private)


def test_another_table_is_another_run(told: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(told, tmp_path / "store"))
    first = recipe(store, tmp_path, conditions=STATED)
    run = train(first)
    (tmp_path / "table.tsv").write_text("participant_id\tage\tsex\nsub-00\t33\tF\nsub-01\t53\tM\n")
    participants(store, tmp_path / "table.tsv")
    with pytest.raises(UserError, match="says something else of its people than when this run began"):
        train(first)
    assert sample(run, tmp_path / "samples", count=1, given=["sex=F"]).is_dir()
    assert train(recipe(store, tmp_path, conditions=[], name="other")).is_dir()


@pytest.mark.parametrize("view", [{"kind": "whole"}, {"kind": "patches", "edge": 8, "per_scan": 2}])
def test_patients_are_protected_with_what_is_known_of_them(view: dict[str, Any], told: Path, tmp_path: Path) -> None:
    network = {"kind": "wavelet_unet3d", "channels": [8], "norm": "pixel"}
    private = recipe(
        told, tmp_path, conditions=STATED, network=network, view=view, privacy={"kind": "dp_sgd", "epsilon": 6.0, "delta": 1e-3},
        stopping={"max_steps": 2, "min_steps": 2}, optimiser={"learning_rate": 0.02, "gradient_clip": 0, "matrix_learning_rate": 0},
    )  # fmt: skip
    run = train(private)
    assert json.loads((run / "privacy_ledger.json").read_text())["epsilon"] <= 6.0
    assert sample(run, tmp_path / "samples", count=1, given=["age=70", "sex=F"]).is_dir()


@pytest.mark.slow
def test_the_age_that_is_asked_for_shows_in_the_volume(tmp_path: Path) -> None:
    """A cohort in which age scales a dark hole in the middle of a head, and sex says how dark it is."""
    generator = np.random.default_rng(0)
    axes = np.meshgrid(*[np.arange(16) - 7.5] * 3, indexing="ij")
    (tmp_path / "scans").mkdir()
    rows = ["participant_id\tage\tsex"]
    for number in range(60):
        age, sex = float(generator.uniform(20, 80)), "FM"[number % 2]
        head = sum((axis / r) ** 2 for axis, r in zip(axes, generator.uniform(5.5, 6.5, 3), strict=True)) < 1
        hole = sum(axis**2 for axis in axes) < (1.2 + 0.04 * age) ** 2
        voxels = 800.0 * (head & ~hole) + (100.0 if sex == "F" else 300.0) * (head & hole) + generator.uniform(0, 30, (16, 16, 16))
        nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.diag([8.0, 8.0, 8.0, 1.0])), tmp_path / f"scans/sub-{number:02d}_T1w.nii.gz")
        rows.append(f"sub-{number:02d}\t{age:.2f}\t{sex}")
    (tmp_path / "scans" / "participants.tsv").write_text("\n".join(rows))
    settings = IngestConfig(shape=(16, 16, 16), voxel_size=8.0, centre="grid", validation=0.15, test=0.05)
    ingest(tmp_path / "scans", tmp_path / "store", settings)
    made = recipe(
        tmp_path / "store", tmp_path, data={"store": str(tmp_path / "store"), "batch_size": 8, "workers": 1},
        network={"kind": "wavelet_unet3d", "channels": [32, 32]},
        schedule={"kind": "karras", "points": 12, "sigma_min": 0.05, "sigma_max": 20.0},
        optimiser={"learning_rate": 2e-3, "warmup_steps": 10}, preconditioner={"kind": "edm"},
        stopping={"max_steps": 500, "min_steps": 500, "validate_every": 250},
    )  # fmt: skip
    run = train(made)

    distance = np.sqrt(sum(axis**2 for axis in axes))

    def seen(volume: np.ndarray[Any, Any]) -> tuple[int, float]:
        """Voxels of the hole, and how bright it is, relative to the head."""
        bright, dark = float(np.median(volume[volume > 400])), float(volume[distance < 1.8].mean())
        return int(((volume < 0.6 * bright) & (distance < 4.8)).sum()), dark / bright

    table = tmp_path / "asked.tsv"
    ages = [25.0, 25.0, 25.0, 45.0, 45.0, 45.0, 75.0, 75.0, 75.0]
    table.write_text("\n".join(["age\tsex", *(f"{age}\t{'FM'[number % 2]}" for number, age in enumerate(ages))]))
    sample(run, tmp_path / "samples", given=[str(table)], sampler="heun")
    volumes = drawn(tmp_path / "samples")
    real = [int((distance < 1.2 + 0.04 * age).sum()) for age in ages]
    holes, darks = zip(*(seen(volume) for volume in volumes), strict=True)
    assert np.corrcoef(holes, real)[0, 1] > 0.95, (holes, real)
    slope = float(np.polyfit(real, holes, 1)[0])
    assert 0.5 < slope < 1.5, (slope, holes, real)
    for first in (0, 3, 6):  # of one age
        women, men = ([darks[number] for number in range(first, first + 3) if number % 2 == sex] for sex in (0, 1))
        assert max(women) < min(men), darks


def test_a_run_that_is_told_begins_as_one_that_was_not(told: Path, run: Path, tmp_path: Path) -> None:
    free = train(recipe(told, tmp_path, name="free", conditions=[]))
    start = {"kind": "public", "run": str(free)}
    begun = recipe(
        told, tmp_path, name="begun", start=start, experts={"warm_start": "none"}, optimiser={"learning_rate": 2e-3, "warmup_steps": 1},
        stopping={"max_steps": 30, "min_steps": 30, "validate_every": 10, "validation_volumes": 2, "validation_draws": 2},
    )  # fmt: skip
    (phase,) = begun.phases()
    weights = load_file(free / "experts/0/weights.safetensors")
    before, after = (each.build().network(phase, weights) for each in (recipe(told, tmp_path, conditions=[]), begun))
    x, noise = torch.randn(2, 1, 16, 16, 16), torch.tensor([0.1, -0.2])
    values = {"age": torch.tensor([1.0, float("nan")]), "sex": torch.tensor([0.0, 1.0])}
    assert torch.equal(after(x, noise, values), before(x, noise))
    told_of = train(begun)
    learnt = load_file(told_of / "experts/0/weights.safetensors")
    assert all(weight.any() for name, weight in learnt.items() if name.startswith(("embed_told", "embed_untold"))), "all of it is trained"
    age = [sample(told_of, tmp_path / given[0], count=1, seed=3, given=given) for given in (["age=30"], ["age=70"])]
    one, other = (drawn(folder)[0] for folder in age)
    assert not np.array_equal(one, other), "what it is told is learnt"
    some = {"experts": {"count": 2, "warm_start": "none"}, "name": "some"}
    two = train(recipe(told, tmp_path, **{**some, "name": "two"}, conditions=[]))
    with pytest.raises(UserError, match=r"was told nothing of people, and adapter\.kind 'bias' changes weights"):
        train(recipe(told, tmp_path, name="biased", start=start, experts={"warm_start": "none"}, adapter={"kind": "bias"}))
    with pytest.raises(UserError, match=r"was told nothing of people, and `start\.sigma` leaves 1 of its experts"):
        train(recipe(told, tmp_path, **some, start={"kind": "public", "run": str(two), "sigma": [1.0, 11.0]}))
    with pytest.raises(UserError, match=r"conditions is .* here and .* there"):
        train(recipe(told, tmp_path, **{**some, "experts": {"warm_start": "none"}}, conditions=STATED, start={**start, "run": str(run)}))


def test_a_scan_is_translated_and_what_changes_is_told(run: Path, blob_store: Path, tmp_path: Path, bids_errors: Any) -> None:
    scan = blob_store.parent / "scans" / "sub-03_T1w.nii.gz"
    words = ["translate", str(scan), str(run), "--from", "age=30", "--from", "sex=F", "--to", "age=70", "--strength", "0.5", "1"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    told = json.loads((tmp_path / "out" / "translation.json").read_text())
    assert told["from"] == {"age": "30", "sex": "F"} and told["to"] == {"age": "70", "sex": "F"}
    half, whole = told["strengths"]
    assert 0.0 < half["change"] < whole["change"] < 1.0 and 0.0 <= whole["cycle"] < 1.0 and 0.0 <= told["round_trip"] < 0.5
    names = {path.name for path in (tmp_path / "out").rglob("*.nii.gz")}
    assert names == {f"sub-0001_desc-{what}_T1w.nii.gz" for what in ("scan", "strength050", "change050", "strength100", "change100")}
    assert not bids_errors(tmp_path / "out")
    page = (tmp_path / "out" / "translation.html").read_text()
    assert "age 30, sex F to age 70, sex F" in page and page.count("data:image/png") == 15 and "http://" not in page
    again = [*words, "--out", str(tmp_path / "again"), "--to-run", str(run), "--to", "sex=F"]
    assert cli.main(again) == 0
    one, other = (np.asarray(nib.load(folder / "sub-0001/anat/sub-0001_desc-strength100_T1w.nii.gz").dataobj)  # type: ignore[attr-defined]
                  for folder in (tmp_path / "out", tmp_path / "again"))  # fmt: skip
    assert np.array_equal(one, other), "of two runs that are one"
    made = volgen.translate(scan, run, tmp_path / "by_function", origin={"age": 30, "sex": "F"}, aim={"age": 70}, strength=(0.5, 1))
    same = nib.load(made / "sub-0001/anat/sub-0001_desc-strength100_T1w.nii.gz")  # type: ignore[attr-defined]
    assert np.array_equal(one, np.asarray(same.dataobj))


@pytest.fixture(scope="module")
def seen(blob_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the larger of two heads is the older."""
    store = Path(shutil.copytree(blob_store, tmp_path_factory.mktemp("seen") / "store"))
    opened = Store.open(store)
    size = {record.patient: float(opened.read_unit(record).sum()) for record in opened.records}
    order = sorted(size, key=lambda patient: size[patient])
    rows = [f"{patient}\t{30 + 3 * place}\t{'F' if place % 3 else 'M'}" for place, patient in enumerate(order)]
    (store.parent / "table.tsv").write_text("\n".join(["participant_id\tage\tsex", *rows]))
    participants(store, store.parent / "table.tsv")
    return store


FITTED = {"kind": "gaussian", "levels": 1, "rank": 4, "rank_level": 1, "folds": 3, "told": True}


@pytest.mark.parametrize(
    "sections",
    [
        {"conditions": [{**condition, "embedded": False} for condition in CONDITIONS]},
        {"conditions": [{**CONDITIONS[0], "embedded": False}, CONDITIONS[1]], "method": {"kind": "gaussian"}},
        {"view": {"kind": "patches", "edge": 8, "per_scan": 2}, "network": {"kind": "wavelet_unet3d", "channels": [8], "norm": "pixel"}},
    ],
)
def test_volumes_begin_as_those_who_are_asked_for(sections: dict[str, Any], seen: Path, blob_store: Path, tmp_path: Path) -> None:
    made = recipe(seen, tmp_path, preconditioner=FITTED, **sections)
    run = train(made)
    assert train(made) == run, "it is finished"
    (tmp_path / "table.tsv").write_text("age\tsex\n35\tF\n70\tn/a\nn/a\tn/a\n")
    sample(run, tmp_path / "rows", given=[str(tmp_path / "table.tsv")], seed=3)
    sample(run, tmp_path / "free", count=3, seed=3)
    rows, free = drawn(tmp_path / "rows"), drawn(tmp_path / "free")
    assert np.array_equal(rows[2], free[2]) and not any(np.allclose(rows[n], free[n], atol=1.0) for n in (0, 1))
    sample(run, tmp_path / "alone", count=1, start_index=1, given=["age=70"], seed=3)
    assert np.array_equal(drawn(tmp_path / "alone")[0], rows[1])
    with volgen.load(run) as model:
        noise = model.noise(seed=3, index=0)
        begun, everybody = model.prior(noise, {"age": 70}), model.prior(noise)
        assert not torch.allclose(begun, everybody, atol=1e-2) and torch.equal(model.prior(noise, {"age": "n/a"}), everybody)
    trained = open_run(run)
    kept = trained.preconditioner(torch.device("cpu")).state()
    assert not any(name.startswith("fold") for name in kept) and "told_1_2_sex" in kept
    release(run, tmp_path / "release", people_agreed=True, compact=True)
    sample(tmp_path / "release", tmp_path / "handed", count=1, seed=3, given=["age=35", "sex=F"])
    (handed,) = drawn(tmp_path / "handed")
    assert np.corrcoef(handed.ravel(), rows[0].ravel())[0, 1] > 0.98
    names = load_file(run / "experts/0/weights.safetensors")
    assert any(name.startswith("embed_told") for name in names) == ("view" in sections), "networks are told what is embedded alone"
    if "method" not in sections and "view" not in sections:
        words = ["--given", "age=70", "--guidance", "cfg", "--guidance.strength", "1.5", "--count", "1", "--seed", "3"]
        assert cli.main(["sample", str(run), "--out", str(tmp_path / "guided"), *words]) == 0
        scan = blob_store.parent / "scans" / "sub-03_T1w.nii.gz"
        volgen.translate(scan, run, tmp_path / "translated", origin={"age": 30}, aim={"age": 70}, strength=(0.5, 1))
        half, whole = json.loads((tmp_path / "translated" / "translation.json").read_text())["strengths"]
        assert 0.3 < half["change"] / whole["change"] < 0.7 and whole["cycle"] < whole["change"]


def test_a_gaussian_that_is_to_be_told_needs_something_to_be_told(told: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"preconditioner\.told: there is nothing to tell it"):
        recipe(told, tmp_path, preconditioner=FITTED, conditions=[])
    apart = [{**condition, "embedded": False} for condition in STATED]
    with pytest.raises(UserError, match=r"conditions: 'age' is told to nobody: set embedded, or preconditioner\.told"):
        recipe(told, tmp_path, conditions=apart)
    deaf = {"kind": "unet3d", "channels": [32], "attention": [False]}
    assert recipe(told, tmp_path, preconditioner=FITTED, conditions=apart, network=deaf), "any network will do that is told nothing"
    with pytest.raises(UserError, match=r"has no network that could be told conditions: set preconditioner\.told"):
        recipe(told, tmp_path, preconditioner={**FITTED, "told": False}, method={"kind": "gaussian"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "age=30"], "--to: says what --from says"),
        (["--from", "age=30", "--to", "aeg=70"], "--to: there is no condition 'aeg'"),
        (["--from", "age", "--to", "age=70"], "--from: 'age'; expected NAME=VALUE"),
        (["--from", "age=30", "--to", "age=70", "--strength", "1", "1"], "--strength: 1 1"),
    ],
)
def test_translations_that_say_nothing_are_refused(
    words: list[str], message: str, run: Path, blob_store: Path, tmp_path: Path, capsys: Any
) -> None:  # fmt: skip
    scan = blob_store.parent / "scans" / "sub-03_T1w.nii.gz"
    assert cli.main(["translate", str(scan), str(run), *words, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_guidance_goes_on_from_what_is_asked_and_says_what_it_leaves(run: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["sample", str(run), "--count", "3", "--seed", "3", "--given", "age=70"]
    for name, more in (
        ("plain", []),
        ("one", ["--guidance", "cfg", "--guidance.strength", "1"]),
        ("two", ["--guidance", "cfg", "--guidance.strength", "2"]),
    ):
        assert cli.main([*words, "--out", str(tmp_path / name), *more]) == 0
    said = capsys.readouterr().err
    assert said.count("cfg: spread ") == 1
    plain, one, two = (drawn(tmp_path / name) for name in ("plain", "one", "two"))
    assert all(np.array_equal(a, b) for a, b in zip(plain, one, strict=True))
    assert all(not np.array_equal(a, b) for a, b in zip(plain, two, strict=True))
    assert sidecars(tmp_path / "two")[0]["AskedFor"]["guidance"]["strength"] == 2.0
    with pytest.raises(UserError, match="cfg does nothing where nothing is asked for"):
        sample(run, tmp_path / "none", count=1, guidance="cfg")
    with pytest.raises(UserError, match="the run has no shared network"):
        sample(run, tmp_path / "none", count=1, guidance={"kind": "auto", "weak": "shared"})


def test_a_weak_network_is_the_shared_one_or_another_run(told: Path, run: Path, tmp_path: Path) -> None:
    both = recipe(told, tmp_path, experts={"count": 2, "shared_steps": 3, "warm_start": "shared"})
    better = train(both)
    for number, weak in enumerate(("shared", str(run))):
        sample(better, tmp_path / f"{number}", count=1, given=["age=70"], guidance={"kind": "auto", "weak": weak, "strength": 2.0})
    said = sidecars(tmp_path / "1")[0]["AskedFor"]
    assert said["guidance"]["weak"] == run.name and said["weak_run"] == open_run(run).fingerprint
    assert str(run.parent) not in (tmp_path / "1" / "manifest.json").read_text(), "a folder of volumes names no place on this machine"
    sample(better, tmp_path / "plain", count=1, given=["age=70"])
    volumes = [drawn(tmp_path / name)[0] for name in ("0", "1", "plain")]
    assert all(np.abs(volumes[a] - volumes[b]).max() > 1e-4 * np.ptp(volumes[2]) for a, b in ((0, 1), (0, 2), (1, 2)))
    compact = release(better, tmp_path / "compact", people_agreed=True, compact=True)
    guidance = {"kind": "auto", "weak": "shared", "strength": 2.0}
    sample(compact, tmp_path / "small", count=1, given=["age=70"], guidance=guidance)
    assert np.abs(drawn(tmp_path / "small")[0] - volumes[0]).max() < 0.1 * np.abs(volumes[0] - volumes[2]).max()
    with pytest.raises(UserError, match=r"weak.*there is no such directory|there is no such directory"):
        sample(better, tmp_path / "none", count=1, guidance={"kind": "auto", "weak": str(tmp_path / "nowhere")})


def test_a_shared_network_is_needed_where_it_is_asked_only(told: Path, tmp_path: Path) -> None:
    models = [{"points": 2, "network": {"kind": "wavelet_unet3d", "channels": [12], "norm_groups": 4}}, {"points": 2}]
    run = train(recipe(told, tmp_path, experts={"models": models, "shared_steps": 2, "warm_start": "shared"}))
    shutil.rmtree(run / "experts/shared-0")
    guidance = {"kind": "auto", "weak": "shared", "strength": 2.0, "sigma_low": 1.0}
    sample(run, tmp_path / "above", count=1, given=["age=70"], guidance=guidance)
    sample(run, tmp_path / "plain", count=1, given=["age=70"])
    assert np.abs(drawn(tmp_path / "above")[0] - drawn(tmp_path / "plain")[0]).max() > 0
    sample(run, tmp_path / "half", count=1, given=["age=70"], guidance={**guidance, "sigma_low": 0.0, "weak_above": 1.0})
    assert np.abs(drawn(tmp_path / "half")[0] - drawn(tmp_path / "above")[0]).max() > 0, "below, away from what is expected"
    sample(run, tmp_path / "never", count=1, given=["age=70"], guidance={**guidance, "sigma_low": 20.0, "sigma_high": 30.0})
    assert np.array_equal(drawn(tmp_path / "never")[0], drawn(tmp_path / "plain")[0])
    with pytest.raises(UserError, match=r"shared-0/weights\.safetensors: there is no such file"):
        sample(run, tmp_path / "all", count=1, given=["age=70"], guidance={**guidance, "sigma_low": 0.0})
