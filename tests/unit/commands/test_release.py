"""`volgen release`: what is copied, what is refused, and that the copy works like the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from volgen import cli
from volgen.commands.audit.audit import audit
from volgen.commands.release import release as stage
from volgen.commands.release.release import release
from volgen.commands.sample.sample import sample
from volgen.commands.statement.statement import statement
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.files import sha256
from volgen.data.store import Store
from volgen.privacy.files import covered, kept_inside
from volgen.recipe import Recipe
from volgen.runs.trained import open_run

RELEASED = {
    "config.yaml", "ensemble.json", "geometry.json", "preconditioner.safetensors", "preconditioner.json", "metrics.jsonl",
    "privacy_ledger.json", "experts/0/weights.safetensors", "experts/1/weights.safetensors",
}  # fmt: skip
ADDED = {"README.md", "manifest.json", "statement.json", "statement.html"}


def recipe(store: Path, runs: Path, name: str, **sections: Any) -> Recipe:
    content: dict[str, Any] = {
        "name": name, "runs": str(runs), "seed": 5, "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 2},
        "schedule": {"kind": "log_snr", "points": 4, "sigma_max": 30.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4}, "preconditioner": {"kind": "edm"},
        "experts": {"count": 2}, "sampler": {"kind": "euler"}, "optimiser": {"gradient_clip": 0.0},
        "stopping": {"max_steps": 1, "min_steps": 1, "validation_volumes": 2, "validation_draws": 2},
        **sections,
    }  # fmt: skip
    return validate(Recipe, content, "test")


PRIVATE = {"privacy": {"kind": "dp_sgd", "epsilon": 8.0, "delta": 1e-3, "accountant": "rdp"}}


@pytest.fixture(scope="module", name="runs")
def _runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module", name="private")
def _private(blob_store: Path, runs: Path) -> Path:
    return train(recipe(blob_store, runs, "private", **PRIVATE))


@pytest.fixture(scope="module", name="plain")
def _plain(blob_store: Path, runs: Path) -> Path:
    return train(recipe(blob_store, runs, "plain"))


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["private", "plain"])
def test_every_file_of_a_finished_run_is_in_exactly_one_list(name: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(name)
    for path in files(run):
        assert covered(path) + kept_inside(path) == 1, path
    assert {path for path in files(run) if covered(path)} == RELEASED
    # What is there while a run is trained, and what a kill may leave.
    for path in ("experts/0/checkpoint-12/state.json", "experts/shared/checkpoint-2/average-0.safetensors", "experts/0/.lock",
                 ".volgen-0123abcd.json", ".manifest.x1y2z3ab.json", "preconditioner_training.safetensors", "tensorboard/0/events.host",
                 "experts/1/.damaged-checkpoint-3/state.json", "privacy_journal.jsonl", ".privacy.lock", "loss.png"):  # fmt: skip
        assert kept_inside(path) and not covered(path), path
    assert not covered("notes.txt") and not kept_inside("notes.txt"), "what volgen does not know is in neither, and stays"


def test_what_is_covered_is_copied_and_nothing_else_and_tells_no_time_place_or_cohort(
    private: Path, blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(private, run)
    (run / "notes.txt").write_text("about sub-03")
    out = release(run, tmp_path / "out")
    assert files(out) == RELEASED | ADDED
    for name in RELEASED:
        assert (out / name).read_bytes() == (private / name).read_bytes()
    assert "notes.txt" in (said := capsys.readouterr().err) and str(blob_store) in said, "what is left out, and which places are named"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["stage"] == "release" and manifest["complete"]
    assert manifest["files"] == {name: sha256(out / name) for name in files(out) - {"manifest.json"}}
    fresh = "".join((out / name).read_text() for name in ADDED)
    for secret in ("wall_seconds", "peak_memory", Store.open(blob_store).fingerprint, str(tmp_path), str(blob_store), "about sub-03"):
        assert secret not in fresh, secret
    said_page = json.loads((out / "statement.json").read_text())
    assert said_page["guarantee"] and "differential privacy" in said_page["headline"]
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: other\nlicense_name: FILL-IN\n") and "to be filled in" in card and "volgen sample" in card
    assert said_page["headline"] in card and "16 x 16 x 16 voxels of 8 x 8 x 8 mm" in card and "Not for diagnosis" in card
    assert release(private, tmp_path / "again").is_dir() and files(tmp_path / "again") == files(out)


def test_every_place_that_a_configuration_names_is_told(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"kind": "text", "encoder": "/encoders/of-somebody", "sha256": 64 * "0", "width": 4}
    both = recipe(tmp_path, tmp_path, "told", conditions=[told], guidance={"kind": "auto", "weak": "/scratch/weak"})
    assert both.places == ["/encoders/of-somebody", "/scratch/weak"]
    assert recipe(tmp_path, tmp_path, "told", guidance={"kind": "auto", "weak": "shared"}).places == []
    monkeypatch.setattr(Recipe, "places", ["/encoders/of-somebody"])
    release(plain, tmp_path / "out", people_agreed=True)
    assert "/encoders/of-somebody" in capsys.readouterr().err


def test_weights_that_no_ledger_counts_stay(private: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(private, tmp_path / "run"))
    shutil.copytree(run / "experts" / "0", run / "experts" / "0 without privacy")
    out = release(run, tmp_path / "out")
    assert files(out) == RELEASED | ADDED
    assert "0 without privacy/weights.safetensors" in capsys.readouterr().err


def test_a_release_that_is_released_again_gets_a_statement_of_its_own(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = release(plain, tmp_path / "out", people_agreed=True)
    again = release(out, tmp_path / "again", people_agreed=True)
    assert files(again) == files(out) and open_run(again).cohort is None is open_run(out).cohort
    assert "does not know what it is" not in capsys.readouterr().err


def test_a_release_samples_like_the_run_and_another_run_can_begin_from_it(
    private: Path, blob_store: Path, runs: Path, tmp_path: Path
) -> None:
    out = release(private, tmp_path / "out")
    assert open_run(out).fingerprint == open_run(private).fingerprint
    image = "sub-0001/anat/sub-0001_desc-synthetic_T1w.nii.gz"
    ours, theirs = (sample(run, tmp_path / name, count=1, seed=3) for run, name in ((private, "run"), (out, "release")))
    if not (ours / image).exists():
        image = "sub-0001_T1w.nii.gz"
    assert (ours / image).read_bytes() == (theirs / image).read_bytes()
    assert statement(out, tmp_path / "statement").is_file()
    begin = {"start": {"kind": "public", "run": str(out)}, "experts": {"count": 2, "warm_start": "none"}}
    began = train(recipe(blob_store, runs, "tuned", **begin))
    assert (began / "ensemble.json").exists()
    with pytest.raises(UserError, match=r"this very cohort|not_compared"):
        train(recipe(blob_store, runs, "tuned_private", **begin, **PRIVATE))
    # Whom a release was trained on nobody can tell from it, and an audit says so.
    audit(out, blob_store, tmp_path / "audit", count=0, levels=1, draws=1)
    assert json.loads((tmp_path / "audit" / "audit.json").read_text())["people"]["store_checked"] is False
    with pytest.raises(UserError, match="no such file"):
        release(out, tmp_path / "twice")


def test_what_must_not_leave_is_refused(private: Path, plain: Path, blob_store: Path, runs: Path, tmp_path: Path) -> None:
    def refused(run: Path, message: str, **options: Any) -> None:
        with pytest.raises(UserError, match=message):
            release(run, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    def copy(name: str, run: Path = private) -> Path:
        return Path(shutil.copytree(run, tmp_path / name))

    refused(plain, "no privacy guarantee")
    unfinished = copy("unfinished")
    (unfinished / "ensemble.json").unlink()
    refused(unfinished, "is not finished")
    half = train(recipe(blob_store, runs, "half", data={"store": str(blob_store), "shape": [16, 16, 16], "batch_size": 2,
                                                        "half": {"seed": 1, "side": "a"}}, **PRIVATE))  # fmt: skip
    refused(half, "the coins' seed")
    assert release(half, tmp_path / "half_out", accept_half=True).is_dir()

    cheaper = copy("cheaper")
    ledger = json.loads((cheaper / "privacy_ledger.json").read_text())
    (cheaper / "privacy_ledger.json").write_text(json.dumps({**ledger, "epsilon": ledger["epsilon"] / 2}))
    refused(cheaper, "does not say what the privacy journal|SHA-256")
    short = copy("short")
    lines = (short / "privacy_journal.jsonl").read_text().splitlines(keepends=True)
    (short / "privacy_journal.jsonl").write_text("".join(lines[:-1]))
    refused(short, "does not say what the privacy journal|SHA-256")
    void = copy("void")
    for name in ("privacy_ledger.json", "privacy_journal.jsonl"):
        text = (void / name).read_text()
        assert '"version": 2' in text
        (void / name).write_text(text.replace('"version": 2', '"version": 1'))
    refused(void, "void|SHA-256")
    gone = copy("gone")
    (gone / "privacy_journal.jsonl").unlink()
    refused(gone, "no such file")
    damaged = copy("damaged")
    weights = damaged / "experts/1/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    refused(damaged, "SHA-256")
    other_losses = copy("other_losses")
    with (other_losses / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "0", "step": 9}\n')
    refused(other_losses, r"metrics\.jsonl is changed")
    empty = copy("empty")
    (empty / "manifest.json").write_text("{}")
    refused(empty, r"manifest\.json: has another form")
    linked = copy("linked")
    (linked / "metrics.jsonl").unlink()
    (linked / "metrics.jsonl").symlink_to(private / "metrics.jsonl")
    refused(linked, "is a link")
    folder = copy("linked_folder")
    shutil.rmtree(folder / "experts")
    (folder / "experts").symlink_to(private / "experts")
    refused(folder, "link|no such file|does not exist")
    refused(private, "another run", audit=_audit(tmp_path / "other", run_fingerprint="x", refuted=False))
    mine = open_run(private).fingerprint
    refused(private, "refutes the guarantee", audit=_audit(tmp_path / "refuted", run_fingerprint=mine, refuted=True))
    assert release(private, tmp_path / "audited", audit=_audit(tmp_path / "fine", run_fingerprint=mine, refuted=False)).is_dir()
    assert "audit.json" not in files(tmp_path / "audited")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UserError, match="exists already"):
        release(private, tmp_path / "full")


def _audit(folder: Path, **content: Any) -> Path:
    folder.mkdir()
    (folder / "audit.json").write_text(json.dumps(content))
    return folder


def test_people_who_agreed_may_have_a_run_released_that_promises_nothing(plain: Path, tmp_path: Path) -> None:
    assert cli.main(["release", str(plain), str(tmp_path / "out")]) == 2
    assert cli.main(["release", str(plain), str(tmp_path / "out"), "--people-agreed"]) == 0
    said = json.loads((tmp_path / "out" / "statement.json").read_text())
    assert not said["guarantee"] and "no privacy guarantee" in said["headline"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "There is no privacy guarantee." in card and "differential-privacy" not in card
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["config"]["people_agreed"] is True


def test_nothing_half_made_is_left_where_it_fails(private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stage, "write_statement", full)
    with pytest.raises(OSError, match="No space"):
        release(private, tmp_path / "deep" / "out")
    assert not list((tmp_path / "deep").iterdir())
