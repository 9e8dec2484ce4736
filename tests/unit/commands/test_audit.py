"""`volgen audit` and `volgen statement`: who is looked at, what is written and what is refused. What it finds is in test_audit_real.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from volgen import cli
from volgen.commands.audit import audit as stage
from volgen.commands.audit import losses
from volgen.commands.audit import people as audit_people
from volgen.commands.audit.audit import audit
from volgen.commands.sample.sample import sample
from volgen.commands.statement.statement import statement
from volgen.commands.train.train import train
from volgen.core import manifest
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.manifest import verify
from volgen.core.rounding import upper
from volgen.data.store import Store
from volgen.privacy.statement import statement as content_of
from volgen.recipe import Recipe
from volgen.runs.trained import TrainedRun, open_run

FAST = {"count": 2, "levels": 2, "draws": 2, "batch_size": 2}
Train = Callable[..., Path]


@pytest.fixture(scope="module", name="store")
def _store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 ellipsoids, 18 or so of them for training."""
    import nibabel as nib

    from volgen.commands.ingest.ingest import ingest
    from volgen.data.ingest.preprocess import IngestConfig

    folder, generator = tmp_path_factory.mktemp("store"), np.random.default_rng(0)
    axes = np.meshgrid(*[np.arange(8) - 3.5] * 3, indexing="ij")
    (folder / "scans").mkdir()
    for person in range(24):
        distance = sum((axis / r) ** 2 for axis, r in zip(axes, generator.uniform(1, 3, 3), strict=True))
        voxels = (500.0 * np.exp(-distance) + generator.uniform(0, 5, (8, 8, 8))).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.diag([16.0, 16.0, 16.0, 1.0])), folder / "scans" / f"sub-secret{person:02d}_T1w.nii.gz")
    ingest(folder / "scans", folder / "store", IngestConfig(shape=(8, 8, 8), voxel_size=16.0, validation=0.1, test=0.1))
    return folder / "store"


@pytest.fixture(scope="module", name="trained")
def _trained(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    runs, made = tmp_path_factory.mktemp("runs"), {}

    def build(name: str, half: dict[str, Any] | None, **sections: Any) -> Path:
        if name not in made:
            content: dict[str, Any] = {
                "name": name, "runs": str(runs), "seed": 5,
                "data": {"store": str(store), "shape": [8, 8, 8], "batch_size": 2, "workers": 1, "half": half},
                "schedule": {"kind": "log_snr", "points": 4, "sigma_max": 20.0},
                "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4},
                "preconditioner": {"kind": "edm"}, "optimiser": {"gradient_clip": 0.0},
                "stopping": {"max_steps": 2, "min_steps": 2, "validation_volumes": 1, "validation_draws": 1},
                **sections,
            }  # fmt: skip
            made[name] = train(validate(Recipe, content, "test"))
        return made[name]

    return build


@pytest.fixture(name="run")
def _run(trained: Train) -> Path:
    return trained("one", {"seed": 1, "side": "a"})


def test_a_run_on_a_half_looks_at_nobody_else(run: Path, store: Path, trained: Train) -> None:
    opened, other = Store.open(store), trained("other", {"seed": 1, "side": "b"})
    one, two = ({r.patient for r in open_run(path).recipe.data.records(opened, "train")} for path in (run, other))
    everybody = {r.patient for r in opened.split("train")}
    assert one | two == everybody and not one & two and one and two
    people = audit_people.everybody(open_run(run), opened, opened)
    assert {person.patient for person in people if person.inside} == one
    assert {person.patient for person in people if person.coin} == everybody
    # Validation people chose the weights of this run, so they are neither.
    assert {person.patient for person in people if not person.coin} == {r.patient for r in opened.split("test")}
    assert [person.patient for person in people] == [r.patient for r in opened.records if r.split != "validation"]


def test_losses_are_those_of_a_plain_loop_and_do_not_depend_on_the_batch(run: Path, store: Path) -> None:
    import torch

    from volgen.core.rng import normal

    trained, device = open_run(run), torch.device("cpu")
    people = audit_people.everybody(trained, Store.open(store), Store.open(store))[:2]
    sigmas = losses.levels(trained, 2)
    found = losses.losses(trained, people, sigmas, 3, 7, device)
    np.testing.assert_allclose(found, losses.losses(trained, people, sigmas, 3, 7, device, batch_size=2), rtol=1e-5)
    preconditioner = trained.preconditioner(device)
    with trained.bank(preconditioner, device, sigmas) as denoise:
        for level, sigma in enumerate(sigmas):
            x, level_B = losses.examined(people[1], 0, trained.geometry.place).whole()[None, None], torch.tensor([sigma])
            noises = [normal((1, 8, 8, 8), 7, "audit noise", level, draw)[None] for draw in range(3)]
            errors = [float((denoise(x + sigma * z, level_B) - x).square().mean()) for z in noises]
            assert found[1, level] == pytest.approx(float(preconditioner.weight(level_B)) * np.mean(errors), rel=1e-5)


def test_what_is_written_names_nobody_and_says_what_was_done(run: Path, store: Path, trained: Train, tmp_path: Path) -> None:
    shadows = [trained(f"shadow{seed}", {"seed": seed, "side": "a"}) for seed in (2, 3)]
    twin = trained("other", {"seed": 1, "side": "b"})
    out = tmp_path / "audit"
    audit(run, store, out, shadow=shadows, twin=twin, **FAST)
    assert {path.name for path in out.iterdir()} == {"audit.json", "statement.json", "statement.html", "manifest.json"}
    assert "secret" not in "".join(path.read_text() for path in out.iterdir())
    found = json.loads((out / "audit.json").read_text())
    assert found["membership"]["shadows"] == 2 and len(found["membership"]["levels"]) == 2
    assert found["twins"]["pairs"] == found["nearest"]["drawn"] == 2
    assert found["people"]["coins"] == found["epsilon"]["people"] and found["epsilon"]["confidence"] == 0.95
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["stage"] == "audit" and manifest["inputs"]["run"] == open_run(run).fingerprint
    # The same question has the same answer.
    audit(run, store, tmp_path / "again", shadow=shadows, twin=twin, **FAST)
    assert json.loads((tmp_path / "again" / "audit.json").read_text()) == found


def test_the_exit_code_tells_of_findings_and_a_claim_below_the_bound_is_refuted(
    run: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reseal: Callable[[Path], None]
) -> None:
    """The losses are made to give everybody away; the ledger of a copy of the run claims that nothing can."""
    liar = tmp_path / "liar"
    shutil.copytree(run, liar)
    claim = {"version": 2, "unit": "patient", "neighbouring": "add-or-remove-one", "accountant": "prv", "entries": []}
    ledger = {**claim, "delta": 1e-5, "epsilon": 0.01}
    (liar / "privacy_ledger.json").write_text(json.dumps(ledger))
    reseal(liar)

    def telling(trained: TrainedRun, people: list[audit_people.Examined], sigmas: list[float], *_: Any) -> np.ndarray:
        return np.array([[0.1 if person.inside else 1.0] * len(sigmas) for person in people])

    monkeypatch.setattr(losses, "losses", telling)
    words = ["--members", str(store), "--count", "0", "--levels", "2"]
    assert cli.main(["audit", str(run), *words, "--out", str(tmp_path / "plain")]) == 1
    assert not json.loads((tmp_path / "plain" / "audit.json").read_text())["refuted"]
    assert cli.main(["audit", str(liar), *words, "--out", str(tmp_path / "refuted")]) == 1
    found = json.loads((tmp_path / "refuted" / "audit.json").read_text())
    assert found["refuted"] and found["epsilon"]["epsilon"] > 0.01 and "REFUTED" in found["findings"][0]
    claim = found["epsilon"]["claim"]
    assert claim["refuted"] and claim["p_value"] <= claim["level"] == pytest.approx(0.05 / claim["tests"])
    assert f"shared by {claim['tests']} tests" in found["findings"][0] and "5%" in found["findings"][0]
    page = (tmp_path / "refuted" / "statement.html").read_text()
    assert "epsilon at least, if Gaussian" in page and "the ledger&#39;s claim" in page
    said = json.loads((tmp_path / "refuted" / "statement.json").read_text())
    assert not said["guarantee"] and "must not be released" in said["headline"]
    assert any("audit's own numbers" in text for text in said["not_protected"]), "they are no private release"


def test_what_a_p_value_means_and_what_it_is_compared_with_is_said_together() -> None:
    """0.013 after the correction is no finding, and is not called "could not be told" either."""
    measured = {"auc": 0.7, "interval": [0.6, 0.8], "p_value": 0.0043}
    said = stage._told(measured, "loss at sigma 1", 0.0129, 3)
    assert said.startswith("a hint that who was trained on can be told, which is not counted as a finding (p would have to be below 0.01)")
    assert said.endswith("p = 0.013, which is 0.0043 of the best test times 3 tests, not below 0.01")
    assert stage._told({**measured, "p_value": 0.004}, "x", 0.004, 1).endswith("p = 0.004 of one test, below 0.01")
    assert stage._told(measured, "x", 0.4, 3).startswith("who was trained on could not be told")


def test_a_ledger_is_held_to_the_steps_that_it_lists_too() -> None:
    entry = {"sampling_rate": 1.0, "noise_multiplier": 5.0, "steps": 10}
    ledger = {"epsilon": 1.8, "delta": 1e-3, "accountant": "rdp", "entries": [entry]}
    pairs = stage._pairs(ledger)
    assert pairs[0] == (1.8, 1e-3) and len(pairs) > 5 and min(epsilon for epsilon, _ in pairs) < 0.1
    assert stage._pairs({**ledger, "entries": []}) == [(1.8, 1e-3)]
    for damaged in ({"steps": 1}, {**entry, "noise_multiplier": -1.0}, 3):
        with pytest.raises(UserError, match="no steps of a subsampled Gaussian"):
            stage._pairs({**ledger, "entries": [damaged]})


def test_others_of_another_cohort_and_a_run_without_its_manifest_are_told(
    run: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nibabel as nib

    from volgen.commands.ingest.ingest import ingest
    from volgen.data.ingest.preprocess import IngestConfig

    (tmp_path / "scans").mkdir()
    for person in range(4):
        voxels = np.random.default_rng(person).random((8, 8, 8), np.float32)
        nib.save(nib.Nifti1Image(voxels, np.diag([16.0, 16.0, 16.0, 1.0])), tmp_path / "scans" / f"sub-{person}_T1w.nii.gz")
    ingest(tmp_path / "scans", tmp_path / "others", IngestConfig(shape=(8, 8, 8), voxel_size=16.0))
    released = tmp_path / "released"
    shutil.copytree(run, released)
    (released / "manifest.json").unlink()

    def telling(trained: TrainedRun, people: list[audit_people.Examined], sigmas: list[float], *_: Any) -> np.ndarray:
        return np.array([[0.1 if person.inside else 1.0] * len(sigmas) for person in people])

    monkeypatch.setattr(losses, "losses", telling)
    outcome = audit(released, store, tmp_path / "audit", non_members=tmp_path / "others", **{**FAST, "count": 0})
    assert "between the cohorts alone" in outcome.findings[0]
    assert "was not checked" in (tmp_path / "audit" / "statement.html").read_text()


def test_without_coins_there_is_no_bound(store: Path, trained: Train, tmp_path: Path) -> None:
    audit(trained("whole", None), store, tmp_path / "audit", **{**FAST, "count": 0})
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert "data.half" in found["epsilon"]["skipped"] and found["people"]["coins"] == 0 and found["nearest"]["skipped"]


def test_what_does_not_belong_together_is_refused(
    run: Path,
    store: Path,
    blob_store: Path,
    trained: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, same = trained("whole", None), trained("other", {"seed": 1, "side": "b"})
    cases: list[tuple[dict[str, Any], str]] = [
        ({"shadow": [whole]}, "trained on everybody"),
        ({"shadow": [same]}, "a half of seed 1, as another run"),
        ({"twin": whole}, "is not the other half"),
        ({"twin": run}, "is not the other half"),
        ({"members": blob_store}, "is not the cohort"),
        ({"non_members": blob_store}, "another shape"),
        ({"members": tmp_path / "nowhere"}, "no folder"),
        ({"levels": 0}, "at least 1"),
        ({"count": -1}, "at least 0"),
        ({"canaries": "sub-nobody"}, "some trained on and some not"),
    ]
    for options, message in cases:
        with pytest.raises(UserError, match=message):
            audit(**{"run": run, "members": store, "out": tmp_path / "audit", **FAST, **options})
    monkeypatch.setattr(audit_people, "FEWEST", 99)
    with pytest.raises(UserError, match="people trained on and"):
        audit(whole, store, tmp_path / "audit", **FAST)
    assert not (tmp_path / "audit" / "audit.json").exists()
    assert cli.main(["audit", str(tmp_path), "--members", str(store), "--out", str(tmp_path / "x")]) == 2
    assert "error: " in capsys.readouterr().err


def test_canaries_alone_are_guessed_about(run: Path, store: Path, tmp_path: Path) -> None:
    audit(run, store, tmp_path / "audit", canaries="sub-secret0", **{**FAST, "count": 0})
    people = json.loads((tmp_path / "audit" / "audit.json").read_text())["people"]
    assert 2 <= people["guessed"] < people["members"] + people["others"]


def test_samples_carry_a_statement_that_an_audit_completes(run: Path, store: Path, trained: Train, tmp_path: Path) -> None:
    samples = sample(run, tmp_path / "samples", count=1, seed=1)
    sidecar = json.loads((samples / "sub-0001/anat/sub-0001_desc-synthetic_T1w.json").read_text())
    page = samples / sidecar["PrivacyStatementPage"]
    assert "This run was not audited." in page.read_text() and "There is no privacy guarantee." in page.read_text()
    assert json.loads(page.with_suffix(".json").read_text())["run_fingerprint"] == sidecar["RunFingerprint"]
    audit(run, store, tmp_path / "audit", **FAST)
    before = manifest.read(samples, "a manifest whose seal fits")
    statement(run, samples, audit=tmp_path / "audit")
    after = manifest.read(samples, "a manifest whose seal fits")
    assert "This run was not audited." not in page.read_text()
    assert {**after, "files": 0, "seal": 0} == {**before, "files": 0, "seal": 0} and not verify(samples), (
        "their manifest, with the new statement's checksums"
    )
    sample(run, samples, count=2, seed=1)
    assert "This run was not audited." not in page.read_text()
    (tmp_path / "broken").mkdir()
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    (tmp_path / "broken" / "audit.json").write_text(json.dumps({**found, "membership": {"statistics": 3}}))
    with pytest.raises(UserError, match="another form"):
        statement(run, tmp_path / "bad", audit=tmp_path / "broken")
    other = trained("other", {"seed": 1, "side": "b"})
    for out, audited in ((samples, None), (tmp_path / "new", tmp_path / "audit")):
        with pytest.raises(UserError, match="another run"):
            statement(other, out, audit=audited)
    fields = ["unit", "neighbouring", "epsilon", "delta", "sigma", "mu", "d", "sensitivity", "vacuous", "meaning", "denoiser", "covers",
              "not_covered", "composition"]  # fmt: skip
    (tmp_path / "broken" / "certificate.json").write_text(json.dumps(dict.fromkeys(fields, "x")))
    with pytest.raises(UserError, match="another run denoised"):
        statement(run, tmp_path / "bad", certificate=[tmp_path / "broken"])
    with pytest.raises(UserError, match="other files"):
        statement(run, store.parent / "scans")


def test_samples_and_statements_of_a_private_run_tell_no_time_and_no_memory(trained: Train, run: Path, tmp_path: Path) -> None:
    privacy = {"kind": "dp_sgd", "epsilon": 3.0, "delta": 1e-3, "accountant": "rdp", "spare": 0.0}
    private = trained("private", {"seed": 1, "side": "a"}, privacy=privacy)
    sample(private, tmp_path / "samples", count=1, seed=1)
    statement(private, tmp_path / "statement")
    sample(run, tmp_path / "plain", count=1, seed=1)
    measured = {
        name: {"wall_seconds", "peak_memory_bytes"} & set(json.loads((tmp_path / name / "manifest.json").read_text()))
        for name in ("samples", "statement", "plain")
    }
    assert measured == {"samples": set(), "statement": set(), "plain": {"wall_seconds", "peak_memory_bytes"}}


def test_a_private_run_says_how_much_is_promised_and_under_what(trained: Train, store: Path, tmp_path: Path) -> None:
    privacy = {"kind": "dp_sgd", "epsilon": 3.0, "delta": 1e-3, "accountant": "rdp", "spare": 0.0}
    run = trained("private", {"seed": 1, "side": "a"}, privacy=privacy)
    assert statement(run, tmp_path / "statement").name == "statement.html"
    found = json.loads((tmp_path / "statement" / "statement.json").read_text())
    assert found["guarantee"] and "differential privacy" in found["headline"]
    assert "made to be audited, not to be released" in found["not_protected"][0]  # it is on a half
    ledger = json.loads((run / "privacy_ledger.json").read_text())
    assert found["numbers"][0]["value"] == upper(ledger["epsilon"], 4)
    assert any("one patient" in text for text in found["assumptions"]) and any("manifest.json" in text for text in found["not_protected"])
    patients = len(open_run(run).recipe.data.records(Store.open(store), "train"))
    assert ledger["entries"][0]["sampling_rate"] == 2 / patients


def test_statements_of_weak_and_unfinished_runs_are_no_guarantees_and_names_are_escaped(tmp_path: Path) -> None:
    ledger = {"version": 2, "epsilon": 12.0, "delta": 1e-5, "accountant": "prv", "unit": "patient", "entries": [], "assumed": {}}
    assert "too large to protect" in content_of("r", "f", ledger)["headline"]
    unfinished = content_of("r", "f", {**ledger, "epsilon": 1.0, "state": "training"})
    assert not unfinished["guarantee"] and "not finished" in unfinished["headline"]
    from volgen.reporting import statement_page

    (tmp_path / "statement.json").write_text(json.dumps(content_of("<script>x</script>", "f", ledger)))
    assert "<script>" not in statement_page.write_page(tmp_path).read_text()


def test_a_statement_names_the_public_run_that_the_guarantee_rests_on() -> None:
    public = {
        "run": "base", "manifest": "m", "fingerprint": "abc", "taken_over": "weights", "unchanged_experts": ["0"],
        "people": "assumed to be in one cohort only; patient ids were not compared", "its_privacy": "No privacy guarantee: none.",
    }  # fmt: skip
    claim = {"version": 2, "epsilon": 3.004, "delta": 1.4e-5, "accountant": "prv", "unit": "patient", "entries": []}
    ledger = {**claim, "assumed": {"public": public}}
    said = content_of("r", "f", ledger)
    assumed = " ".join(said["assumptions"])
    assert "'base'" in assumed and public["people"] in assumed and public["its_privacy"] in assumed and "not trained: 0" in assumed
    assert any("people of the public run 'base'" in text for text in said["not_protected"])
    assert "(3.01, 1.4e-05)" in said["headline"], "a bound is not rounded down"
    assert not any("audit's own numbers" in text for text in said["not_protected"])
    large = content_of("r", "f", {**ledger, "delta": 2e-2})
    assert not large["guarantee"] and "delta 0.02 is too large" in large["headline"]


@pytest.mark.parametrize(("epsilon", "delta"), [(float("nan"), 1e-5), (-1.0, 1e-5), ("x", 1e-5), (1.0, None), (1.0, 1.0)])
def test_a_damaged_ledger_is_no_guarantee(
    run: Path, tmp_path: Path, epsilon: Any, delta: Any, reseal: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    ledger = {
        "unit": "patient",
        "neighbouring": "add-or-remove-one",
        "delta": delta,
        "epsilon": epsilon,
        "accountant": "prv",
        "entries": [],
    }
    (tmp_path / "run" / "privacy_ledger.json").write_text(json.dumps(ledger))
    reseal(tmp_path / "run")
    assert cli.main(["statement", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 2
    assert "SHA-256" not in capsys.readouterr().err
