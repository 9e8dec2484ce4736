"""The whole training stage, in this process, on 16^3 volumes."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from volgen.cli import main
from volgen.commands.train import begin as train_begin
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.files import read_json, sha256
from volgen.core.lock import Lock
from volgen.core.seal import sealed
from volgen.data.store import Store
from volgen.data.stream import Stream
from volgen.experts import ensemble
from volgen.images.geometry import Geometry
from volgen.models.networks._residual_unet import Block
from volgen.parallel.engine import Engine
from volgen.recipe import Recipe
from volgen.runs import queue
from volgen.runs.record import PhaseRecord
from volgen.runs.trained import open_run
from volgen.training import relaunch, stopping
from volgen.training.ema import EMA

PowerCut = Callable[[int], AbstractContextManager[None]]


def recipe(store: Path, runs: Path, **sections: dict[str, Any]) -> Recipe:
    content: dict[str, Any] = {
        "name": "run", "runs": str(runs), "seed": 5,
        "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 2},
        "schedule": {"kind": "log_snr", "points": 6, "sigma_max": 20.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8, 8], "norm_groups": 4},
        "preconditioner": {"kind": "edm"},
        "experts": {"count": 2},
        "optimiser": {"warmup_steps": 2},
        "stopping": {"max_steps": 4, "validate_every": 2, "validation_volumes": 2, "validation_draws": 2},
    }  # fmt: skip
    for name, section in sections.items():
        content[name] = {**content.get(name, {}), **section} if "kind" not in section else section
    return validate(Recipe, content, "test")


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_directory_is_complete_and_consistent(blob_store: Path, tmp_path: Path) -> None:
    gaussian = {"kind": "gaussian", "rank": 2, "levels": 1}
    run = train(recipe(blob_store, tmp_path, experts={"count": 3, "shared_steps": 3}, preconditioner=gaussian))
    bank = ensemble.read(run / "ensemble.json")
    assert [expert.index for expert in bank.experts] == [0, 1, 2]
    for expert in bank.experts:
        state = load_file(run / expert.weights)
        assert sha256(run / expert.weights) == expert.sha256
        assert all(tensor.dtype == torch.float32 for tensor in state.values())
        assert expert.parameters == sum(t.numel() for t in state.values())
        assert expert.steps == 4
    lines = metrics(run)
    assert [(line["phase"], line["step"]) for line in lines] == [("shared", s) for s in (1, 2, 3)] + [
        (phase, step) for phase in ("2", "1", "0") for step in (1, 2, 3, 4)
    ]
    best = min(line["validation_loss"] for line in lines if line["phase"] == "0" and "validation_loss" in line)
    assert bank.experts[0].validation_loss is not None
    assert bank.experts[0].validation_loss <= best, "the exported weights are the best, the start included"
    assert read_json(run / "privacy_ledger.json", "ledger")["epsilon"] is None
    manifest = read_json(run / "manifest.json", "manifest")
    assert (manifest["stage"], manifest["state"], manifest["seed"]) == ("train", "finished", 5)
    assert manifest["inputs"]["fingerprint"] == Store.open(blob_store).fingerprint
    assert read_json(run / "geometry.json", "geometry")["voxel_size"] == [8.0, 8.0, 8.0]
    assert load_file(run / "preconditioner.safetensors").keys() >= {"mean", "components"}
    assert {path.parent.name for path in (run / "tensorboard").glob("*/events.*")} == {"shared", "0", "1", "2"}
    card = (run / "README.md").read_text()
    assert "16 x 16 x 16 voxels of 8 x 8 x 8 mm" in card and "3 of `wavelet_unet3d`" in card and "No privacy guarantee" in card
    assert str(tmp_path) not in card and "sub-" not in card
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list((run / "experts").rglob(".lock")), "what is finished needs no lock"
    assert not list(run.rglob("checkpoint-*")), "the checkpoints of finished experts are gone"


def test_a_finished_run_says_so_and_another_configuration_is_refused(
    blob_store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small = {"count": 1}
    run = train(recipe(blob_store, tmp_path, experts=small, stopping={"max_steps": 1}))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    capfd.readouterr()
    again = recipe(blob_store, tmp_path, experts=small, stopping={"max_steps": 1}, data={"workers": 1}, engine={"checkpoint_every": 7})
    assert train(again) == run
    assert "finished" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    with pytest.raises(UserError, match=r"optimiser\.learning_rate was 0\.001 and is now 0\.01"):
        train(recipe(blob_store, tmp_path, experts=small, stopping={"max_steps": 1}, optimiser={"learning_rate": 1e-2}))


def test_a_run_that_another_command_finished_meanwhile_is_only_finished_for_the_same_configuration(
    blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"experts": {"count": 1}, "stopping": {"max_steps": 1}}
    check = train_begin.check

    def meanwhile(mine: Recipe, store: Store) -> None:
        monkeypatch.setattr(train_begin, "check", check)
        train(recipe(blob_store, tmp_path, **small))
        check(mine, store)

    monkeypatch.setattr(train_begin, "check", meanwhile)
    with pytest.raises(UserError, match=r"optimiser\.learning_rate was 0\.001 and is now 0\.01"):
        train(recipe(blob_store, tmp_path, **small, optimiser={"learning_rate": 1e-2}))


def test_what_is_refused_at_once_leaves_no_folder(blob_store: Path, tmp_path: Path) -> None:
    store = Store.open(blob_store)
    alone = Store(store.path, [record for record in store.records if record.split != "validation"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "open", lambda path: alone)
        with pytest.raises(UserError, match=r"has nobody in its validation split.*Ingest the scans anew .*--validation 0\.3"):
            train(recipe(blob_store, tmp_path / "runs"))
    for change, message in (
        ({"data": {"shape": [16, 16, 24]}}, r"data\.shape: is \[16, 16, 24\]"),
        ({"network": {"kind": "unet3d", "channels": [16, 32], "attention": [False, False]},
          "optimiser": {"gradient_clip": 0.0, "matrix_learning_rate": 0.1}}, "is not a matrix"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            train(recipe(blob_store, tmp_path / "runs", **change))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Geometry, "of_cohort", lambda *args, **more: [][0])
        with pytest.raises(IndexError):
            train(recipe(blob_store, tmp_path / "runs"))
    assert not list(tmp_path.iterdir())


def test_a_run_of_which_nothing_was_trained_is_begun_anew(
    blob_store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], power_cut: PowerCut
) -> None:
    few = {"kind": "gaussian", "rank": 2, "levels": 1, "folds": 99}
    with pytest.raises(UserError, match="more people"):
        train(recipe(blob_store, tmp_path, preconditioner=few))
    with power_cut(2):  # before the first checkpoint
        train(recipe(blob_store, tmp_path, preconditioner={**few, "folds": 3}, experts={"count": 3}))
    assert re.search(r"another configuration: .*preconditioner\.folds was 99 .* it is begun anew", capfd.readouterr().err)
    run = train(recipe(blob_store, tmp_path))
    assert re.search(r"another configuration: .*experts\.count was 3 and is now 2.* it is begun anew", capfd.readouterr().err)
    assert not (run / "experts/2").exists() and open_run(run).recipe.experts.count == 2
    fresh = train(recipe(blob_store, tmp_path / "fresh"))
    assert metrics(run) == metrics(fresh)
    assert {path.name for path in run.iterdir()} == {path.name for path in fresh.iterdir()}


def test_a_run_that_has_a_checkpoint_is_not_begun_anew(blob_store: Path, tmp_path: Path, power_cut: PowerCut) -> None:
    with power_cut(3):
        train(recipe(blob_store, tmp_path, engine={"checkpoint_every": 1}))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"experts\.count was 2 and is now 3"):
        train(recipe(blob_store, tmp_path, experts={"count": 3}))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_that_somebody_is_about_to_train_is_not_begun_anew(blob_store: Path, tmp_path: Path, power_cut: PowerCut) -> None:
    with power_cut(2):
        train(recipe(blob_store, tmp_path))
    with (
        Lock.wait(tmp_path / "run" / "experts" / "1" / ".lock"),
        pytest.raises(UserError, match=r"is of another configuration, and .* is training it"),
    ):
        train(recipe(blob_store, tmp_path, experts={"count": 3}))


def test_what_comes_next_is_a_command(
    blob_store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        train(recipe(blob_store, tmp_path / "my runs", experts={"count": 1}, stopping={"max_steps": 1}))
        said = re.search(r"Next: (volgen .*)", capfd.readouterr().err)
        assert said
    assert main(shlex.split(said[1].replace("--count 4", "--count 1"))[1:]) == 0


@pytest.mark.parametrize(("order", "starts"), [("high_to_low", {"1": None, "0": "1"}), ("low_to_high", {"0": None, "1": "0"})])
def test_an_expert_starts_from_its_neighbours_exported_weights(
    order: str, starts: dict[str, str | None], blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[dict[str, torch.Tensor]] = []
    original = Engine.__init__

    def spy(self: Engine, module: torch.nn.Module, *args: Any, **more: Any) -> None:
        began.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
        original(self, module, *args, **more)

    monkeypatch.setattr(Engine, "__init__", spy)
    run = train(recipe(blob_store, tmp_path, experts={"count": 2, "order": order}))
    for start, source in zip(began, starts.values(), strict=True):
        if source is None:
            assert start["embed_volume.weight"].std() > 0.01, "random weights"
        else:
            exported = load_file(run / "experts" / source / "weights.safetensors")
            assert all(torch.equal(start[name], exported[name]) for name in exported)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_crashed_run_goes_on_and_equals_an_uninterrupted_one(
    dropout: float, blob_store: Path, tmp_path: Path, power_cut: PowerCut, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    seen: set[tuple[bool, bool]] = set()
    forward = Block.forward

    def watched(self: Block, x: torch.Tensor, embedding: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        seen.add((self.training, kept is not None))
        return forward(self, x, embedding, kept)

    monkeypatch.setattr(Block, "forward", watched)
    network = {"kind": "wavelet_unet3d", "channels": [8, 8], "norm_groups": 4, "dropout": dropout}
    settings: dict[str, dict[str, Any]] = {
        "engine": {"checkpoint_every": 3}, "stopping": {"max_steps": 8, "validate_every": 2}, "network": network
    }  # fmt: skip
    whole = train(recipe(blob_store, tmp_path / "whole", **settings))
    assert seen == {(True, dropout > 0), (False, False)}, "features are left out in training, and in nothing that is judged"
    with power_cut(13):
        train(recipe(blob_store, tmp_path / "cut", **settings))
    assert not (tmp_path / "cut" / "run" / "ensemble.json").exists()
    assert [path.name for path in (tmp_path / "cut" / "run").rglob("checkpoint-*")] == ["checkpoint-00000003"]
    resumed = train(recipe(blob_store, tmp_path / "cut", **settings))
    assert metrics(resumed) == metrics(whole)
    assert [e.sha256 for e in ensemble.read(resumed / "ensemble.json").experts] == [
        e.sha256 for e in ensemble.read(whole / "ensemble.json").experts
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_last_step_of_an_expert_stops_before_the_next_one_begins(
    number: signal.Signals, blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = train(recipe(blob_store, tmp_path / "whole"))
    original, begun, steps = Engine.__init__, [], 0
    ends = tmp_path / "ends"
    ends.write_text("75\n")

    def begin(self: Engine, *args: Any, **options: Any) -> None:
        begun.append(self)
        original(self, *args, **options)

    def strike(self: Engine, rate: float, step: Callable[[Engine, float], float] = Engine.step) -> float:
        nonlocal steps
        steps += 1
        if steps == 4:
            os.kill(os.getpid(), number)
        return step(self, rate)

    monkeypatch.setenv(relaunch.FAILURES, str(ends))
    monkeypatch.setattr(Engine, "__init__", begin)
    monkeypatch.setattr(Engine, "step", strike)
    with pytest.raises(SystemExit) as stopped:
        train(recipe(blob_store, tmp_path / "cut"))
    assert stopped.value.code == (130 if number == signal.SIGINT else 85)
    run = tmp_path / "cut" / "run"
    assert f"stopped by {number.name} before expert 0; what came before it is finished" in capfd.readouterr().err
    assert len(begun) == 1 and {line["phase"] for line in metrics(run)} == {"1"}
    assert PhaseRecord.read(run / "experts" / "1") is not None
    assert not ends.exists(), "a launch script learns that the job gets somewhere"
    train(recipe(blob_store, tmp_path / "cut"))
    assert metrics(run) == metrics(whole)


def test_a_signal_in_the_last_step_of_all_ends_a_finished_run(blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0

    def strike(self: Engine, rate: float, step: Callable[[Engine, float], float] = Engine.step) -> float:
        nonlocal steps
        steps += 1
        if steps == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, rate)

    monkeypatch.setattr(Engine, "step", strike)
    run = train(recipe(blob_store, tmp_path))
    assert (steps, (run / "ensemble.json").exists()) == (8, True)


def test_a_checkpoint_tells_the_launch_script(blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = tmp_path / "ends"
    ends.write_text("75\n")
    seen: list[bool] = []

    def watch(self: Engine, rate: float, step: Callable[[Engine, float], float] = Engine.step) -> float:
        seen.append(ends.exists())
        return step(self, rate)

    monkeypatch.setenv(relaunch.FAILURES, str(ends))
    monkeypatch.setattr(Engine, "step", watch)
    train(recipe(blob_store, tmp_path, experts={"count": 1}, engine={"checkpoint_every": 2}))
    assert seen == [True, True, False, False]


def test_a_job_that_waits_in_vain_asks_to_be_started_again(
    blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(queue, "SECONDS_UNTRAINED", -1.0)
    with pytest.raises(SystemExit) as stopped:
        train(recipe(blob_store, tmp_path), only="0:1")
    assert stopped.value.code == 85
    said = capfd.readouterr().err
    assert "in vain for expert 1, which nobody is training: expert 0 starts from it." in said and "error" not in said
    run = train(recipe(blob_store, tmp_path), only="1:2")
    train(recipe(blob_store, tmp_path), only="0:1")
    assert (run / "ensemble.json").exists(), "the same command, when it can"


MUON = {"warmup_steps": 2, "matrix_learning_rate": 0.05, "gradient_clip": 0.0}


@pytest.mark.parametrize("stage", [0, 1])
def test_a_crashed_run_with_muon_goes_on_and_equals_an_uninterrupted_one(
    stage: int, blob_store: Path, tmp_path: Path, power_cut: PowerCut
) -> None:
    # The crash comes after the best weights of step 2 were written with the checkpoint of step 3, and before anything better.
    settings: dict[str, dict[str, Any]] = {
        "engine": {"checkpoint_every": 3, "zero_stage": stage}, "stopping": {"max_steps": 7, "validate_every": 2},
        "optimiser": MUON, "experts": {"count": 1},
    }  # fmt: skip
    whole = train(recipe(blob_store, tmp_path / "whole", **settings))
    with power_cut(5):
        train(recipe(blob_store, tmp_path / "cut", **settings))
    resumed = train(recipe(blob_store, tmp_path / "cut", **settings))
    assert metrics(resumed) == metrics(whole)
    first, second = (ensemble.read(run / "ensemble.json").experts[0] for run in (resumed, whole))
    assert first.sha256 == second.sha256


def test_muon_with_clipped_gradients_or_another_network_is_refused(blob_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"optimiser: gradient_clip must be 0 with matrix_learning_rate"):
        recipe(blob_store, tmp_path, optimiser={"matrix_learning_rate": 0.02})
    recipe(blob_store, tmp_path, optimiser={"matrix_learning_rate": 0.0, "gradient_clip": 1.0})
    network = {"kind": "unet3d", "channels": [8, 8], "attention": [False, False], "head_channels": 8, "norm_groups": 4}
    with pytest.raises(UserError, match=r"optimiser\.matrix_learning_rate.*is not a matrix"):
        train(recipe(blob_store, tmp_path, optimiser=MUON, network=network))


@pytest.mark.parametrize("cut", [5, 8])
def test_best_weights_survive_a_kill_whatever_was_validated_since(
    cut: int, blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Validation is made up: step 2 is the best, so its weights exist nowhere but in memory and, from step 3 on, beside the checkpoint.
    settings: dict[str, dict[str, Any]] = {
        "engine": {"checkpoint_every": 3}, "stopping": {"max_steps": 10, "validate_every": 2, "patience": 99}, "experts": {"count": 1},
    }  # fmt: skip

    def run(runs: Path, kill_at: int | None) -> Path:
        stepped = 0
        step, update = Engine.step, stopping.Stopping.update

        def counted(self: Engine, rate: float) -> float:
            nonlocal stepped
            stepped += 1
            if stepped == kill_at:
                raise RuntimeError("power cut")
            return step(self, rate)

        def scripted(self: Any, at: int, loss: float) -> bool:
            return update(self, at, {2: 0.5, 4: 0.9, 6: 0.8, 8: 0.7, 10: 0.6}[at])

        with monkeypatch.context() as patch:
            patch.setattr(Engine, "step", counted)
            patch.setattr(stopping.Stopping, "update", scripted)
            return train(recipe(blob_store, runs, **settings))

    whole = run(tmp_path / "whole", None)
    assert read_json(whole / "experts" / "0" / "phase.json", "record")["best_step"] == 2
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", cut)
    resumed = run(tmp_path / "cut", None)
    first, second = (ensemble.read(path / "ensemble.json").experts[0] for path in (resumed, whole))
    assert (first.sha256, first.validation_loss) == (second.sha256, second.validation_loss)


def test_a_loss_that_is_not_finite_stops_with_step_expert_and_subjects(
    blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, poisoned = Stream.batch, []

    def poison(self: Stream, step: int) -> Any:
        batch = original(self, step)
        if step == 2:
            batch.x_BCXYZ[1, 0, 3, 3, 3] = float("nan")
            poisoned.extend(batch.ids)
        return batch

    monkeypatch.setattr(Stream, "batch", poison)
    with pytest.raises(UserError) as caught:
        train(recipe(blob_store, tmp_path))
    message = str(caught.value)
    assert "expert 1 of 2" in message
    assert "step 3" in message
    assert poisoned[1] in message
    assert poisoned[0] not in message, "only the volume whose loss is not finite is named"


def test_gradients_that_stay_infinite_stop_training(blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backward = Engine.backward
    monkeypatch.setattr(Engine, "backward", lambda self, loss: backward(self, loss * float("inf")))
    with pytest.raises(UserError, match=r"step 3.*the gradient was not finite 3 times in a row"):
        train(recipe(blob_store, tmp_path))
    assert not list(tmp_path.rglob("ensemble.json"))


def test_a_skipped_step_has_no_part_in_the_average(blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backward, update, steps, fresh = Engine.backward, EMA.update, [0], []

    def first_is_infinite(self: Engine, loss: torch.Tensor) -> None:
        steps[0] += 1
        backward(self, loss * (float("inf") if steps[0] == 1 else 1.0))

    def watched(self: EMA, weights: Sequence[torch.Tensor]) -> None:
        update(self, weights)
        fresh.append(all(torch.equal(average, now) for average, now in zip(self.average, weights, strict=True)))

    monkeypatch.setattr(Engine, "backward", first_is_infinite)
    monkeypatch.setattr(EMA, "update", watched)
    train(recipe(blob_store, tmp_path, experts={"count": 1}))
    assert fresh == [True, False, False], "the average begins with the first weights that a step has changed"


def test_patience_ends_an_expert_early_and_exports_its_best_weights(blob_store: Path, tmp_path: Path) -> None:
    stopping = {"max_steps": 40, "validate_every": 2, "patience": 2, "min_steps": 1, "min_gain": 0.9}
    run = train(recipe(blob_store, tmp_path, experts={"count": 1}, stopping=stopping))
    lines = metrics(run)
    assert lines[-1]["step"] == 6, "the first validation is a gain by definition, two more are not"
    scores = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}
    record = read_json(run / "experts" / "0" / "phase.json", "record")
    assert record["best_step"] == min(scores, key=lambda step: scores[step])
    assert record["validation_loss"] == min(scores.values())


def test_another_cohort_cannot_continue_a_run(
    blob_store: Path, tmp_path: Path, power_cut: PowerCut, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "run" / "manifest.json"

    def stop_and_change(step: int) -> None:
        with power_cut(step):
            train(recipe(blob_store, tmp_path, engine={"checkpoint_every": 2}))
        manifest.write_text(json.dumps(sealed(json.loads(manifest.read_text().replace(Store.open(blob_store).fingerprint, "0" * 64)))))

    stop_and_change(2)
    stop_and_change(3)
    assert "is not the cohort this run began with. Nothing was trained" in capfd.readouterr().err
    with pytest.raises(UserError, match="is not the cohort this run began with"):
        train(recipe(blob_store, tmp_path))


def test_a_finished_run_knows_its_cohort_wherever_that_lies(blob_store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small: dict[str, dict[str, Any]] = {"experts": {"count": 1}, "stopping": {"max_steps": 1}}
    train(recipe(blob_store, tmp_path, **small))
    moved = shutil.copytree(blob_store, tmp_path / "moved")
    capfd.readouterr()
    train(recipe(moved, tmp_path, **small))
    assert "finished" in capfd.readouterr().err
    manifest = tmp_path / "run" / "manifest.json"
    manifest.write_text(json.dumps(sealed(json.loads(manifest.read_text().replace(Store.open(moved).fingerprint, "0" * 64)))))
    with pytest.raises(UserError, match="is not the cohort this run began with"):
        train(recipe(moved, tmp_path, **small))


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_damaged_weights_to_start_from_are_named(damage: str, blob_store: Path, tmp_path: Path) -> None:
    settings = recipe(blob_store, tmp_path, stopping={"max_steps": 1})
    run = train(settings)
    folder = run / "experts" / "1"
    weights = folder / "weights.safetensors"
    (run / "ensemble.json").unlink()
    (run / "experts" / "0" / "phase.json").unlink()
    whole = weights.read_bytes()
    if damage == "gone":
        weights.unlink()
    else:
        weights.write_bytes(whole[:-100] if damage == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    found = "there is no such file" if damage == "gone" else "it was changed"
    with pytest.raises(UserError, match=rf"experts/1/weights\.safetensors: .*{found}.*delete .*experts/1 to train"):
        train(settings)
    shutil.rmtree(folder)
    assert train(settings) == run
    assert weights.read_bytes() == whole, "training again ends with the same weights"


def test_a_damaged_fit_is_named_and_fitted_again(blob_store: Path, tmp_path: Path) -> None:
    settings = recipe(blob_store, tmp_path, stopping={"max_steps": 1}, preconditioner={"kind": "gaussian", "rank": 1, "folds": 2})
    run = train(settings)
    fitted = (run / "preconditioner.safetensors").read_bytes()
    assert not (run / "preconditioner_training.safetensors").exists(), "it could give away single people"
    (run / "ensemble.json").unlink()
    shutil.rmtree(run / "experts" / "0")
    (run / "preconditioner_training.safetensors").write_bytes(fitted[:50])
    with pytest.raises(UserError, match=r"preconditioner_training\.safetensors: cannot be restored .*Delete this file"):
        train(settings)
    (run / "preconditioner_training.safetensors").unlink()
    train(settings)
    assert (run / "preconditioner.safetensors").read_bytes() == fitted


def test_deepspeed_is_quiet(blob_store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(recipe(blob_store, tmp_path, experts={"count": 1}, stopping={"max_steps": 1}))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "INFO" not in captured.err
    assert len(captured.err.splitlines()) <= 6, captured.err
    assert logging.getLogger("DeepSpeed").level == logging.WARNING


def test_dry_run_prints_sizes_and_touches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shibata = recipe(
        tmp_path / "no-store", tmp_path, data={"shape": [256, 256, 256]}, schedule={"kind": "vp_linear", "points": 200},
        experts={"count": 200}, network={"kind": "wavelet_unet3d", "channels": [64, 128, 256], "norm_groups": 8},
    )  # fmt: skip
    assert train(shibata, dry_run=True) == tmp_path / "run"
    text = capsys.readouterr().out
    parameters = sum(p.numel() for p in shibata.network.build(inputs=1).parameters())
    assert f"{parameters:,} in each expert, {200 * parameters:,} in all" in text
    assert "expert  199" in text
    assert not list(tmp_path.iterdir())


def test_weights_of_another_network_are_not_taken_for_a_checkpoint(blob_store: Path, tmp_path: Path) -> None:
    run = train(recipe(blob_store, tmp_path, experts={"count": 1}, stopping={"max_steps": 1}))
    (run / "ensemble.json").unlink()
    (run / "experts" / "0" / "phase.json").unlink()
    save_file({"nonsense": torch.zeros(1)}, run / "experts" / "0" / "weights.safetensors")
    again = train(recipe(blob_store, tmp_path, experts={"count": 1}, stopping={"max_steps": 1}))
    assert "nonsense" not in load_file(again / "experts" / "0" / "weights.safetensors"), "trained from the start, not from the leftover"


def test_activation_checkpointing_reaches_the_network_and_changes_no_number(blob_store: Path, tmp_path: Path) -> None:
    plain = train(recipe(blob_store, tmp_path / "plain", experts={"count": 1}))
    settings = recipe(blob_store, tmp_path / "recomputed", experts={"count": 1}, engine={"activation_checkpointing": True})
    called: list[bool] = []
    kind = type(settings.network)
    original = kind.build

    def spy(self: Any, inputs: int, checkpointing: bool = False) -> torch.nn.Module:
        called.append(checkpointing)
        return original(self, inputs, checkpointing)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "build", spy)
        recomputed = train(settings)
    assert called[-1], "the network that is trained; that which is validated computes no gradient"
    assert [line["loss"] for line in metrics(recomputed)] == pytest.approx([line["loss"] for line in metrics(plain)], rel=1e-6)


def test_accumulation_halves_what_the_network_sees_at_once_and_changes_no_number(
    blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(recipe(blob_store, tmp_path / "plain", experts={"count": 1}))
    sizes: set[int] = set()
    original = Engine.__call__

    def spy(self: Engine, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        sizes.add(len(x))
        return original(self, x, noise)

    monkeypatch.setattr(Engine, "__call__", spy)
    halved = train(recipe(blob_store, tmp_path / "halved", experts={"count": 1}, engine={"accumulation": 2}))
    assert sizes == {1}
    for one, two in zip(metrics(plain), metrics(halved), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)


def test_a_batch_that_cannot_be_shared_by_the_ranks_is_refused_at_once(
    blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"data\.batch_size: 2 cannot be shared by 2 ranks x 2 micro-batches; expected a multiple of 4"):
        train(recipe(blob_store, tmp_path, engine={"accumulation": 2}))


def test_no_expert_depends_on_who_trained_what_before_it(blob_store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sections: dict[str, dict[str, Any]] = {
        "experts": {"count": 4, "chains": 2, "shared_steps": 2},
        "stopping": {"max_steps": 8, "validate_every": 2, "patience": 1, "min_gain": 0.1},
    }  # fmt: skip
    whole = train(recipe(blob_store, tmp_path / "whole", **sections))
    assert len({line["step"] for line in metrics(whole) if line["phase"] == "3"}) < 8, "the stopping rule ended it early"
    capfd.readouterr()
    parts = train(recipe(blob_store, tmp_path / "parts", **sections), only="0:2")
    assert "2 of 5 networks of" in capfd.readouterr().err
    assert not (parts / "ensemble.json").exists()
    before = {path: path.stat().st_mtime_ns for path in (parts / "experts" / "1").iterdir()}
    train(recipe(blob_store, tmp_path / "parts", **sections), only="1:4")
    assert {path: path.stat().st_mtime_ns for path in (parts / "experts" / "1").iterdir()} == before, "what is finished is skipped"
    assert metrics(parts) == metrics(whole)
    banks = [ensemble.read(run / "ensemble.json") for run in (parts, whole)]
    assert [expert.sha256 for expert in banks[0].experts] == [expert.sha256 for expert in banks[1].experts]


def test_groups_that_ranks_or_batch_cannot_fill_are_refused_at_once(
    blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "6", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    independent = {"count": 6, "warm_start": "none"}
    with pytest.raises(UserError, match=r"experts\.groups: 6 ranks cannot be 4 equal groups"):
        train(recipe(blob_store, tmp_path, experts={**independent, "groups": 4}))
    with pytest.raises(UserError, match=r"data\.batch_size: 2 cannot be shared by 3 ranks x 1 micro-batches; expected a multiple of 3"):
        train(recipe(blob_store, tmp_path, experts={**independent, "groups": 2}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("only", ["3:3", "200:", "x", "5"])
def test_a_range_without_experts_is_bad_usage(only: str, repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = repository / "configs" / "brain256_experts200.yaml"
    assert main(["train", "--config", str(config), "--dry-run", "--only", only]) == 2
    assert f"--only: '{only}' is no range with experts in it; expected FIRST:LAST" in capsys.readouterr().err
