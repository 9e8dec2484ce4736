"""A finished run as later stages see it: its preconditioner, and the bank around it."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from volgen import recipe as recipes
from volgen.commands.sample import sample as sample_stage
from volgen.commands.train.crew import work
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.limits import SMALL_JSON_BYTES
from volgen.core.protocols import Problem
from volgen.core.registry import config_class
from volgen.core.run_files import CHECKSUMS, LEDGER, PRECONDITIONER
from volgen.experts import ensemble as ensembles
from volgen.models.denoiser import PreconditionedDenoiser
from volgen.models.preconditioners.gaussian import GaussianPreconditioner
from volgen.recipe import Recipe
from volgen.runs.trained import open_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def directory(blob_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run behind the structured Gaussian, trained for a step."""
    content: dict[str, Any] = {
        "name": "run", "runs": str(tmp_path_factory.mktemp("runs")), "seed": 5,
        "data": {"store": str(blob_store), "shape": [16, 16, 16], "batch_size": 2},
        "schedule": {"kind": "log_snr", "points": 4, "sigma_max": 3.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4},
        "preconditioner": {"kind": "gaussian", "rank": 2, "levels": 1, "folds": 3},
        "experts": {"count": 2}, "sampler": {"kind": "euler"},
        "stopping": {"max_steps": 1, "validation_volumes": 2, "validation_draws": 2},
    }  # fmt: skip
    return train(validate(Recipe, content, "test"))


@pytest.fixture(scope="module")
def unsealed(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without checksums in ``ensemble.json`` and ``manifest.json``, as 0.1.0 wrote it."""
    copy = tmp_path_factory.mktemp("unsealed") / "run"
    shutil.copytree(directory, copy)
    ensembles.write(copy / "ensemble.json", replace(ensembles.read(copy / "ensemble.json"), files={}))
    (copy / "manifest.json").unlink()
    return copy


def test_the_preconditioner_of_a_run_is_the_one_it_was_trained_behind(directory: Path) -> None:
    preconditioner = open_run(directory).preconditioner(CPU)
    assert isinstance(preconditioner, GaussianPreconditioner)
    stored = load_file(directory / PRECONDITIONER)
    assert preconditioner.state().keys() == stored.keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in preconditioner.state().items())


def test_the_bank_puts_the_experts_behind_the_preconditioner_that_it_is_given(directory: Path) -> None:
    run = open_run(directory)
    preconditioner = run.preconditioner(CPU)
    grid = list(run.ensemble.grid)
    y = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with run.bank(preconditioner, CPU, grid) as bank, torch.no_grad():
        for sigma in grid:
            record = next(expert for expert in run.ensemble.experts if expert.sigma_low <= sigma < expert.sigma_high)
            network = run.recipe.network.build(inputs=2)
            network.load_state_dict(load_file(directory / record.weights))
            sigma_B = torch.full((2,), sigma)
            expected = PreconditionedDenoiser(network.eval(), preconditioner)(y, sigma_B)
            torch.testing.assert_close(bank(y, sigma_B), expected)


def test_an_option_that_comes_later_leaves_the_fingerprint_alone(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_run(directory).fingerprint
    read = recipes.load

    class Newer(config_class("volgen.models.networks", "wavelet_unet3d")):  # type: ignore[misc]
        sharpness: float = 0.0

    def with_an_option_more(path: Path, **more: Any) -> Recipe:
        known = read(path, **more)
        given = known.network.model_dump(exclude_unset=True)
        extra = {"sharpness": 0.5} if (path.parent / "sharpness").exists() else {}
        return known.model_copy(update={"network": Newer(**given, **extra)})

    monkeypatch.setattr("volgen.runs.trained.load", with_an_option_more)
    assert open_run(directory).fingerprint == before, "config.yaml knows nothing of it, so it is at its default"
    (directory / "sharpness").touch()
    try:
        assert open_run(directory).fingerprint != before
    finally:
        (directory / "sharpness").unlink()


def test_sampling_starts_from_the_fitted_gaussian(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[Tensor] = []
    original = sample_stage.descent.sample

    def spy(*args: Any, problem: Problem, **more: Any) -> list[Tensor]:
        def recorded(noise: Tensor, sigma: float) -> Tensor:
            starts.append(problem.prior(noise, sigma))
            torch.testing.assert_close(starts[-1], open_run(directory).preconditioner(CPU).prior(noise, sigma))
            assert (starts[-1] - sigma * noise).abs().mean() > 0.1, "not noise alone"
            return starts[-1]

        return original(*args, problem=Problem(recorded), **more)

    monkeypatch.setattr(sample_stage.descent, "sample", spy)
    sample_stage.sample(directory, tmp_path / "out", count=1, seed=0, device="cpu")
    assert len(starts) == 1


@pytest.mark.parametrize("damage", ["not safetensors", "of another kind"])
def test_a_preconditioner_that_cannot_be_restored_is_named(damage: str, unsealed: Path) -> None:
    path = unsealed / PRECONDITIONER
    whole = path.read_bytes()
    try:
        if damage == "not safetensors":
            path.write_bytes(whole[:20])
        else:
            save_file({"something": torch.zeros(1)}, path)
        with pytest.raises(UserError, match=r"preconditioner\.safetensors.*cannot be restored.*the state of a 'gaussian' preconditioner"):
            open_run(unsealed).preconditioner(CPU)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mean", lambda t: t.index_fill(1, torch.tensor([3]), float("nan")), "'mean' holds values that are not finite"),
        ("variances", lambda t: t * float("inf"), "'variances' holds values that are not finite"),
        ("mean", lambda t: t[:, :-2], "does not fit|makes"),
        ("residual", lambda t: t[:, :-2], "does not fit"),
        ("components", lambda t: t[..., :-1], "does not fit"),
        ("variances", lambda t: torch.cat([t, t]), "does not fit"),
        ("mean", lambda t: t.double(), "does not fit|makes"),
        ("mean", lambda t: t[0, 0, 0], "does not fit|makes"),
    ],
)
def test_a_preconditioner_with_damaged_content_is_refused_before_anything_is_written(
    name: str, change: Any, message: str, unsealed: Path, tmp_path: Path
) -> None:
    path = unsealed / PRECONDITIONER
    whole = path.read_bytes()
    try:
        state = load_file(path)
        save_file({**state, name: change(state[name]).contiguous()}, path)
        with pytest.raises(UserError, match=rf"preconditioner\.safetensors: ({message}).*expected.*Restore the file"):
            sample_stage.sample(unsealed, tmp_path / "out", count=1, seed=0, device="cpu")
        assert not (tmp_path / "out").exists()
    finally:
        path.write_bytes(whole)


def test_a_ledger_of_many_networks_is_read(unsealed: Path) -> None:
    path = unsealed / LEDGER
    path.write_text(path.read_text() + " " * 2 * SMALL_JSON_BYTES)
    assert open_run(unsealed).privacy.startswith("No privacy guarantee")


def test_a_preconditioner_of_larger_volumes_is_refused(unsealed: Path) -> None:
    path = unsealed / PRECONDITIONER
    whole = path.read_bytes()
    try:
        save_file({name: t.repeat(*[1] * (t.ndim - 3), 2, 2, 2) if t.ndim > 2 else t for name, t in load_file(path).items()}, path)
        with pytest.raises(UserError, match=r"statistics of volumes of shape \[16, 16, 16\]"):
            open_run(unsealed).preconditioner(CPU)
    finally:
        path.write_bytes(whole)


def test_a_preconditioner_with_another_finite_number_is_refused(unsealed: Path) -> None:
    path = unsealed / PRECONDITIONER
    whole = path.read_bytes()
    try:
        state = load_file(path)
        save_file({**state, "variances": state["variances"] * 1.01}, path)
        with pytest.raises(UserError, match=r"preconditioner\.safetensors: has SHA-256 .*it was changed.*Restore the file"):
            open_run(unsealed).preconditioner(CPU)
    finally:
        path.write_bytes(whole)
    open_run(unsealed).preconditioner(CPU)


def test_a_run_without_checksums_is_still_read_and_a_damaged_list_is_named(unsealed: Path) -> None:
    checksums = unsealed / CHECKSUMS
    whole = checksums.read_bytes()
    try:
        checksums.write_text("[]")
        with pytest.raises(UserError, match=r"preconditioner\.json: has another form"):
            open_run(unsealed).preconditioner(CPU)
        checksums.unlink()
        open_run(unsealed).preconditioner(CPU)
    finally:
        checksums.write_bytes(whole)


# Every file of a run on which something depends, and what damages it: a digit first of all, which leaves everything in form.
FILES = (
    "config.yaml", "ensemble.json", "geometry.json", "preconditioner.safetensors", "preconditioner.json", "privacy_ledger.json",
    "manifest.json", "experts/0/weights.safetensors",
)  # fmt: skip
DAMAGES = ("digit", "flip", "cut", "zero", "empty", "gone", "folder", "random", "pipe", "link")


def damage(path: Path, kind: str, seed: int) -> None:
    generator = random.Random(seed)
    content = bytearray(path.read_bytes())
    place = generator.randrange(len(content))
    if kind in ("gone", "folder", "pipe", "link"):
        path.rename(path.with_name(".before"))
    if kind == "digit" and (digits := [place for place, byte in enumerate(content) if chr(byte).isdigit()]):
        place = generator.choice(digits)
        content[place] = ord(generator.choice([digit for digit in "0123456789" if ord(digit) != content[place]]))
    elif kind in ("digit", "flip"):
        content[place] ^= 1 << generator.randrange(7)
    elif kind == "cut":
        content = content[:place]
    elif kind == "zero":
        content[place : place + 16] = bytes(16)
    elif kind == "empty":
        content.clear()
    elif kind == "random":
        content = bytearray(generator.randbytes(len(content)))
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(path.with_name(".before"))
    if kind not in ("gone", "folder", "pipe", "link"):
        path.write_bytes(content)


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(directory, tmp_path / "run"))


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_a_finished_run_is_refused(name: str, kind: str, copy: Path) -> None:
    before = (copy / name).read_bytes()
    for seed in range(5 if kind in ("digit", "flip", "cut", "zero") else 1):
        damage(copy / name, kind, seed)
        if not (copy / name).is_dir() and (copy / name).is_file() and (copy / name).read_bytes() == before:
            continue  # zeros over zeros
        if name == "manifest.json" and kind == "gone":  # as in released runs: ensemble.json has the checksums
            open_run(copy).verify()
            continue
        with pytest.raises(UserError) as refused:
            open_run(copy).verify()
        assert name.rpartition("/")[2] in str(refused.value) or "ensemble.json" in str(refused.value)
        if (copy / name).is_file() and not (copy / name).is_symlink():
            (copy / name).write_bytes(before)


@pytest.mark.parametrize("kind", ["digit", "gone", "folder"])
@pytest.mark.parametrize("name", [*FILES, "experts/1/phase.json", "metrics.jsonl"])
def test_training_calls_no_damaged_run_finished(name: str, kind: str, copy: Path, directory: Path) -> None:
    recipe = recipes.load(copy / "config.yaml").model_copy(update={"runs": str(copy.parent)})
    damage(copy / name, kind, 0)
    if kind == "gone" and name in ("manifest.json", "ensemble.json"):
        # A released run has no manifest. Without its mark a run is not finished, and is finished again.
        train(recipe)
        assert open_run(copy).fingerprint == open_run(directory).fingerprint
        return
    with pytest.raises(UserError) as refused:
        train(recipe)
    assert Path(name).name in str(refused.value) or "is of another configuration" in str(refused.value)


def test_the_card_of_a_finished_run_may_be_edited(copy: Path) -> None:
    with (copy / "README.md").open("a") as card:
        card.write("Contact: us.\n")
    open_run(copy).verify()


def test_weights_that_were_changed_before_the_end_do_not_become_part_of_a_run(
    blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    recipe = recipes.load(directory / "config.yaml").model_copy(update={"runs": str(tmp_path)})

    def crew(*arguments: Any) -> Any:
        queue = work(*arguments)
        damage(tmp_path / "run/experts/1/weights.safetensors", "flip", 0)
        return queue

    monkeypatch.setattr("volgen.commands.train.train.work", crew)
    with pytest.raises(UserError, match=r"experts/1/weights\.safetensors: has SHA-256"):
        train(recipe)
    assert not (tmp_path / "run/ensemble.json").exists()


@pytest.mark.parametrize("kind", ["flip", "gone"])
@pytest.mark.parametrize("name", ["preconditioner.safetensors", "preconditioner_training.safetensors", "preconditioner.json"])
def test_a_run_does_not_go_on_with_a_damaged_fit(
    name: str, kind: str, tmp_path: Path, directory: Path, power_cut: Callable[[int], AbstractContextManager[None]]
) -> None:
    recipe = recipes.load(directory / "config.yaml").model_copy(update={"runs": str(tmp_path)})
    with power_cut(2):  # the first network is finished
        train(recipe)
    damage(tmp_path / "run" / name, kind, 0)
    if (name, kind) != ("preconditioner_training.safetensors", "gone"):  # which is fitted again
        with pytest.raises(UserError, match=r"preconditioner"):
            train(recipe)
        (tmp_path / "run" / "preconditioner_training.safetensors").unlink()
    train(recipe)
    for file in ("preconditioner.safetensors", "experts/0/weights.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (directory / file).read_bytes()


def test_the_fingerprint_knows_nothing_of_seals(directory: Path, unsealed: Path) -> None:
    assert open_run(directory).fingerprint == open_run(unsealed).fingerprint


def test_the_noise_levels_of_a_run_without_checksums_are_those_of_its_schedule(unsealed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(unsealed, tmp_path / "run"))
    bank = ensembles.read(copy / "ensemble.json")
    ensembles.write(copy / "ensemble.json", replace(bank, grid=(bank.grid[0], bank.grid[1] * 1.01, *bank.grid[2:])))
    with pytest.raises(UserError, match=r"ensemble\.json: has 2 experts on 4 noise levels, .*expected 2 on the 4 levels of config\.yaml"):
        open_run(copy)
