"""Private training from end to end: the ledger of a bank, what is released, restarts, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from volgen.commands.sample.sample import sample
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.files import sha256
from volgen.core.rounding import upper
from volgen.core.run_files import JOURNAL
from volgen.core.seal import sealed
from volgen.data.store import Store
from volgen.parallel.engine import Engine
from volgen.privacy import refusals
from volgen.privacy.accounting import Steps, epsilon
from volgen.privacy.ledger import Ledger
from volgen.privacy.statement import statement as content_of
from volgen.recipe import Recipe
from volgen.runs.trained import open_run

PowerCut = Callable[[int], AbstractContextManager[None]]
EPSILON, DELTA = 6.0, 1e-3


def recipe(store: Path, runs: Path, **sections: dict[str, Any]) -> Recipe:
    content: dict[str, Any] = {
        "name": "private", "runs": str(runs), "seed": 3,
        "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 3, "workers": 1},
        "schedule": {"kind": "log_snr", "points": 4, "sigma_max": 20.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4},
        "preconditioner": {"kind": "edm"}, "experts": {"count": 2},
        "optimiser": {"warmup_steps": 2, "gradient_clip": 0.0},
        "stopping": {"max_steps": 4, "min_steps": 4},
        "privacy": {"kind": "dp_sgd", "epsilon": EPSILON, "delta": DELTA, "views": 2, "accountant": "rdp", "spare": 0.5},
    }  # fmt: skip
    for section, values in sections.items():
        content[section] = {**content[section], **values} if section in content else values
    return validate(Recipe, content, "test")


def ledger_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "privacy_ledger.json").read_text())  # type: ignore[no-any-return]


def test_one_ledger_holds_all_experts_and_nothing_of_people_is_written(blob_store: Path, tmp_path: Path) -> None:
    run = train(recipe(blob_store, tmp_path))
    ledger, people = ledger_of(run), {record.patient for record in Store.open(blob_store).split("train")}
    assert [(entry["scope"], entry["steps"]) for entry in ledger["entries"]] == [("0", 4), ("1", 4)]
    (noise,), (rate,) = ({entry[key] for entry in ledger["entries"]} for key in ("noise_multiplier", "sampling_rate"))
    assert rate == 3 / len(people)
    assert ledger["epsilon"] == epsilon([Steps(rate, noise, 8)], DELTA, "rdp") <= EPSILON
    assert epsilon([Steps(rate, noise, 12)], DELTA, "rdp") <= EPSILON < epsilon([Steps(rate, noise, 13)], DELTA, "rdp")
    assert ledger["unit"] == "patient" and ledger["state"] == "finished"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 8 and all(set(line) == {"phase", "step", "learning_rate", "gradient_norm"} for line in lines)
    assert all(expert["validation_loss"] is None for expert in json.loads((run / "ensemble.json").read_text())["experts"])
    assert not (run / "curves.png").exists(), "there are no losses to draw"
    card = (run / "README.md").read_text()
    assert "differentially private per patient" in card and not any(person in card for person in people)
    released = "".join(
        (run / name).read_text() for name in ("ensemble.json", "geometry.json", "metrics.jsonl", "privacy_ledger.json", JOURNAL)
    )
    assert not any(person in released for person in people)
    assert json.loads((run / "geometry.json").read_text())["intensity"] == {"low": 0.0, "high": 1000.0}
    assert f"({upper(ledger['epsilon'], 3)}, {DELTA:.1g})-differentially private per patient" in open_run(run).privacy
    out = sample(run, tmp_path / "out", count=1, seed=0)
    assert "differentially private" in json.loads((out / "sub-0001/anat/sub-0001_desc-synthetic_T1w.json").read_text())["PrivacyStatement"]


@pytest.mark.parametrize(("kind", "own"), [
    ("slice_unet2d", {"neighbours": 1}), ("triplanar", {"neighbours": 1}), ("wavelet_unet3d", {"dropout": 0.2}),
])  # fmt: skip
def test_other_networks_train_privately(blob_store: Path, tmp_path: Path, kind: str, own: dict[str, Any]) -> None:
    run = train(recipe(blob_store, tmp_path, network={"kind": kind, **own}, experts={"count": 1}))
    assert [(entry["scope"], entry["steps"]) for entry in ledger_of(run)["entries"]] == [("0", 4)]


def test_two_trainings_share_no_noise_although_they_share_a_seed(blob_store: Path, tmp_path: Path) -> None:
    one, two = (train(recipe(blob_store, tmp_path / name, experts={"count": 1})) for name in ("one", "two"))
    assert sha256(one / "experts/0/weights.safetensors") != sha256(two / "experts/0/weights.safetensors")


def test_a_killed_run_pays_again_for_what_it_repeats(blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recipe(blob_store, tmp_path, engine={"checkpoint_every": 2}, experts={"count": 1})
    real, taken = Engine.step, []

    def crash(self: Engine, rate: float) -> float:
        if len(taken) == 3:
            raise KeyboardInterrupt  # after the ledger's line, before the noised step
        taken.append(rate)
        return real(self, rate)

    monkeypatch.setattr(Engine, "step", crash)
    with pytest.raises(KeyboardInterrupt):
        train(asked)
    assert Ledger(asked.directory).count() == 4 and ledger_of(asked.directory)["epsilon"] >= EPSILON
    monkeypatch.setattr(Engine, "step", real)
    run = train(asked)
    # 4 lines of the first launch; the second went on from the checkpoint after step 2.
    assert ledger_of(run)["entries"][0]["steps"] == 6
    assert json.loads((run / "experts/0/phase.json").read_text())["steps"] == 4


def test_training_ends_when_the_budget_is_spent(blob_store: Path, tmp_path: Path) -> None:
    asked = recipe(blob_store, tmp_path, stopping={"max_steps": 5, "min_steps": 5}, experts={"count": 2}, privacy={"spare": 0.0})
    train_config = asked.privacy
    ledger = train_config.open_ledger(_made(asked.directory), patients=_people(blob_store), batch_size=3, steps=10)
    while ledger.count() < 7:  # an earlier launch that was killed again and again
        ledger.take("1", ledger.count() + 1, ledger.mechanism)
    run = train(asked)
    steps = {entry["scope"]: entry["steps"] for entry in ledger_of(run)["entries"]}
    assert epsilon([Steps(ledger.mechanism.sampling_rate, ledger.mechanism.noise_multiplier, sum(steps.values()))], DELTA, "rdp") <= EPSILON
    found = [expert["steps"] for expert in json.loads((run / "ensemble.json").read_text())["experts"]]
    assert sum(found) == sum(steps.values()) - 7 < 10 and ledger_of(run)["epsilon"] <= EPSILON


def test_experts_that_cannot_be_trained_at_all_are_named(blob_store: Path, tmp_path: Path) -> None:
    asked = recipe(blob_store, tmp_path, experts={"count": 2, "warm_start": "none"}, privacy={"spare": 0.0})
    ledger = asked.privacy.open_ledger(_made(asked.directory), patients=_people(blob_store), batch_size=3, steps=8)
    while ledger.count() < 7:
        ledger.take("1", ledger.count() + 1, ledger.mechanism)
    with pytest.raises(UserError, match="'0' was not trained at all"):
        train(asked)


def test_a_lost_journal_is_noticed(blob_store: Path, tmp_path: Path, power_cut: PowerCut) -> None:
    asked = recipe(blob_store, tmp_path, experts={"count": 2})
    with power_cut(6):
        train(asked)
    (asked.directory / JOURNAL).unlink()  # and the next launch would begin a new one
    with pytest.raises(UserError, match="knows of 0 steps of '1', which has 4"):
        train(asked)


@pytest.mark.parametrize(
    ("section", "values", "reason"),
    [
        ("optimiser", {"gradient_clip": 1.0}, "after the noise"),
        ("optimiser", {"matrix_learning_rate": 0.01}, "Muon is not tested"),
        ("stopping", {"min_steps": 1}, "validation people"),
        ("preconditioner", {"kind": "gaussian"}, "fitted to the cohort"),
        (
            "assembly",
            {"kind": "autoregressive", "thickness": 2, "coarse_levels": 2},
            "assembly.kind 'autoregressive' is fitted to the cohort",
        ),
        ("engine", {"accumulation": 3}, "accumulated before"),
        ("engine", {"zero_stage": 2, "offload": "optimiser"}, "offload 'optimiser' is not tested"),
        ("experts", {"groups": 2, "chains": 2}, "side by side"),
        ("privacy", {"intensity": [5.0, 5.0]}, "is empty"),
        ("privacy", {"epsilon": 0.0}, "epsilon"),
        ("privacy", {"delta": 1.0}, "delta"),
        ("privacy", {"clip_norm": 0.0}, "clip_norm"),
        ("privacy", {"slice_epsilon": 1.0}, "slice_epsilon"),
    ],
)
def test_what_cannot_be_guaranteed_is_refused_with_the_reason(
    section: str, values: dict[str, Any], reason: str, blob_store: Path, tmp_path: Path
) -> None:  # fmt: skip
    with pytest.raises(UserError, match=reason):
        recipe(blob_store, tmp_path, **{section: values})


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"privacy": {"delta": 0.2}}, "whole"),
        ({"privacy": {"delta": 0.0125}}, "at most 0.0"),
        ({"privacy": {"delta": 0.0125, "population": 4}}, "at most 0.0"),
        ({"privacy": {"delta": 2e-3, "population": 60}}, "at most 0.00166"),
        ({"data": {"batch_size": 100}}, "at most"),
        ({"privacy": {"population": 2}}, "at most 2"),
    ],
)  # fmt: skip
def test_what_the_cohort_does_not_allow_is_refused(sections: dict[str, Any], reason: str, blob_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        train(recipe(blob_store, tmp_path, **sections))


def test_the_voxel_size_is_what_ingest_was_told(blob_store: Path, tmp_path: Path) -> None:
    """geometry.json is released: an exact function of one person's scan would tell that they took part."""
    store, asked = Store.open(blob_store), recipe(blob_store, tmp_path)
    first = store.split("train")[0]
    first.affine[:3, :3] *= 13.371 / 8.0
    assert first.voxel_size[0] == pytest.approx(13.371)
    assert asked.privacy.build(asked).geometry(store).voxel_size == (8.0, 8.0, 8.0)


@pytest.mark.parametrize("own", ["shape", "voxel_size"])
def test_a_store_with_grids_of_people_s_own_is_refused(own: str, blob_store: Path, tmp_path: Path) -> None:
    asked = recipe(_changed(blob_store, tmp_path, config={"shape": [16, 16, 16], "voxel_size": 8.0, own: None}), tmp_path)
    with pytest.raises(UserError, match=f"each scan's own grid .--{own.replace('_', '-')}"):
        train(asked)
    assert not (asked.directory / "geometry.json").exists() and not Ledger.exists(asked.directory)


def test_files_are_patients_only_if_somebody_says_so(blob_store: Path, tmp_path: Path) -> None:
    store = _changed(blob_store, tmp_path, people="files")
    with pytest.raises(UserError, match=r"by names of files or visits alone.*--patients"):
        train(recipe(store, tmp_path))
    run = train(recipe(store, tmp_path, experts={"count": 1}, privacy={"each_file_is_a_patient": True}))
    assert "by names of files or visits alone" in ledger_of(run)["assumed"]["one_patient"]
    assert any("by names of files or visits alone" in text for text in content_of("r", "f", ledger_of(run))["assumptions"])


def test_how_people_of_older_stores_were_told_apart_follows_from_their_ids(blob_store: Path) -> None:
    records = Store.open(blob_store).records
    assert Store(blob_store, records).people == "bids"
    files = [replace(record, patient=f"P{number}") for number, record in enumerate(records)]
    assert Store(blob_store, files).people == "files"
    assert Store(blob_store, [replace(record, patient="P" + record.patient[-1]) for record in records]).people == "folders"
    assert Store(blob_store, files, people="table").people == "table"
    visits = [replace(record, patient="sub-1") if number < 2 else record for number, record in enumerate(files)]
    assert Store(blob_store, visits).people == "files", "a person called sub- who has two scans says nothing of the files"


def test_a_ledger_names_its_relations_and_the_statement_prints_them(blob_store: Path, tmp_path: Path) -> None:
    people = _people(blob_store)
    for name, privacy, relations in (
        ("own", {}, ["zero-out", "replace-one"]),
        ("public", {"population": 40}, ["add-or-remove-one", "zero-out", "replace-one"]),
    ):
        ledger = ledger_of(train(recipe(blob_store, tmp_path / name, experts={"count": 1}, privacy=privacy)))
        assert [each["neighbouring"] for each in ledger["guarantees"]] == relations and ledger["neighbouring"] == relations[0]
        assert ledger["guarantees"][0]["epsilon"] == ledger["epsilon"] and ledger["version"] == 2
        said = {row["name"]: row["value"] for row in content_of("r", "f", ledger)["numbers"]}
        assert said["epsilon, replace-one"] == upper(ledger["guarantees"][-1]["epsilon"], 4)
        number = privacy.get("population", people)
        assert "as it was ingested" in ledger["assumed"]["store"]
        assert ledger["assumed"]["patients"] == number and said["delta times patients"] == upper(DELTA * number, 2)


def test_networks_in_which_patients_meet_are_refused() -> None:
    batch = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), torch.nn.BatchNorm3d(2))
    assert "mixes the patients" in next(refusals.of_network(batch))
    assert "running statistics" in next(refusals.of_network(torch.nn.InstanceNorm3d(2, track_running_stats=True)))
    assert "how many patients came before" in next(refusals.of_network(torch.nn.Sequential(torch.nn.Dropout3d(0.1))))
    assert not list(refusals.of_network(torch.nn.Sequential(torch.nn.Dropout(0.0))))
    assert not list(refusals.of_network(torch.nn.Sequential(torch.nn.GroupNorm(1, 2), torch.nn.InstanceNorm3d(2))))


def _changed(store: Path, folder: Path, **keys: object) -> Path:
    """A copy of a store whose manifest says something else."""
    copy = folder / "store"
    shutil.copytree(store, copy)
    content = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(sealed({**content, **keys})))
    return copy


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


def _people(store: Path) -> int:
    return len({record.patient for record in Store.open(store).split("train")})


def test_people_in_a_frame_that_was_made_of_them_are_refused(blob_store: Path, tmp_path: Path) -> None:
    shutil.copytree(blob_store, tmp_path / "store")
    manifest = tmp_path / "store" / "manifest.json"
    content = json.loads(manifest.read_text())
    frame = {"template": "template.nii.gz", "checksum": "0", "of_cohort": False}
    manifest.write_text(json.dumps(sealed({**content, "frame": frame})))
    assert not Store.open(tmp_path / "store").fitted
    manifest.write_text(json.dumps(sealed({**content, "frame": {**frame, "of_cohort": True}})))
    assert Store.open(tmp_path / "store").fitted
    with pytest.raises(UserError, match=r"template made of its own people.*template that is public"):
        train(recipe(tmp_path / "store", tmp_path / "runs"))
