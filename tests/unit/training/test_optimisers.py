"""Optimisers beside DeepSpeed's: first steps in closed form, state that goes anywhere, crashes, and refusals where they would be wrong."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.experts import ensemble
from volgen.parallel.engine import Engine, EngineConfig
from volgen.parallel.launch import Launch, take_part
from volgen.recipe import Recipe
from volgen.training.optimiser import OptimiserConfig
from volgen.training.optimisers import LIBRARIES

PowerCut = Callable[[int], AbstractContextManager[None]]
RATES = {"prodigy": 1.0}


@pytest.fixture(params=sorted(LIBRARIES))
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    pytest.importorskip(LIBRARIES[chosen].module)
    return chosen


def recipe(store: Path, runs: Path, kind: str, **sections: Any) -> Recipe:
    content = {
        "name": "run", "runs": str(runs), "seed": 5, "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 2},
        "schedule": {"kind": "log_snr", "points": 4, "sigma_max": 3.0}, "preconditioner": {"kind": "edm"},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4}, "ema": {"decay": 0.0},
        "optimiser": {"algorithm": kind, "warmup_steps": 2, "learning_rate": RATES.get(kind, 1e-3)}, "engine": {"checkpoint_every": 2},
        "stopping": {"max_steps": 7, "min_steps": 7, "validate_every": 3, "validation_volumes": 2, "validation_draws": 1},
    }  # fmt: skip
    return validate(Recipe, {**content, **sections}, "test")


class Quadratic(nn.Module):
    """A matrix and a vector, whose loss is half of their squared entries, weighted."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(6, 4, generator=random))
        self.vector = nn.Parameter(torch.randn(5, generator=random))

    def forward(self, input_BCXYZ: Tensor, noise_B: Tensor) -> Tensor:
        loss = 0.5 * (3.0 * self.matrix.square().sum() + 0.2 * self.vector.square().sum())
        return loss + 0.0 * noise_B  # [B]


def engine(kind: str, network: nn.Module) -> Engine:
    take_part(Launch())
    return Engine(network, EngineConfig(), 1, betas=(0.9, 0.99), make=OptimiserConfig(algorithm=kind).make())  # type: ignore[arg-type]


def steps(engine: Engine, rate: float, count: int) -> None:
    for _ in range(count):
        engine.backward(engine(torch.zeros(1, 1, 2, 2, 2), torch.zeros(1)).mean())
        engine.step(rate)


@pytest.mark.parametrize("kind", ["adam8bit", "schedule_free"])
def test_the_first_step_of_what_is_like_adam_is_the_rate_against_the_sign(kind: str) -> None:
    pytest.importorskip(LIBRARIES[kind].module)
    network = Quadratic()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    trained = engine(kind, network)
    steps(trained, 1e-3, 1)
    for name, tensor in trained.full_state().items():
        torch.testing.assert_close(tensor, before[name] - 1e-3 * before[name].sign(), atol=2e-5, rtol=0)
    trained.destroy()


def test_what_is_judged_leaves_no_trace_in_what_is_trained(kind: str) -> None:
    looked, left = engine(kind, Quadratic()), engine(kind, Quadratic())
    for _ in range(4):
        for each in (looked, left):
            steps(each, RATES.get(kind, 1e-2), 1)
        looked.full_state()
    assert all(torch.equal(one, other) for one, other in zip(looked.masters(), left.masters(), strict=True))
    for each in (looked, left):
        each.destroy()


def test_state_goes_into_another_engine_and_back_to_the_last_bit(kind: str) -> None:
    first, second = engine(kind, Quadratic()), engine(kind, Quadratic())
    steps(first, RATES.get(kind, 1e-2), 3)
    for what in first.kinds:
        second.write(what, dict(first.read(what)))
    for each in (first, second):
        steps(each, RATES.get(kind, 1e-2), 3)
    assert all(torch.equal(one, other) for one, other in zip(first.masters(), second.masters(), strict=True))
    for each in (first, second):
        each.destroy()


def test_a_crashed_training_goes_on_and_equals_one_that_did_not(kind: str, blob_store: Path, tmp_path: Path, power_cut: PowerCut) -> None:
    whole = train(recipe(blob_store, tmp_path / "whole", kind))
    with power_cut(4):
        train(recipe(blob_store, tmp_path / "cut", kind))
    resumed = train(recipe(blob_store, tmp_path / "cut", kind))
    (one, other) = ([expert.sha256 for expert in ensemble.read(run / "ensemble.json").experts] for run in (whole, resumed))
    assert one == other


@pytest.mark.parametrize(
    ("optimiser", "sections", "message"),
    [
        ({"algorithm": "soap"}, {"engine": {"zero_stage": 1}}, "cannot be cut among ranks"),
        ({"algorithm": "schedule_free"}, {"ema": {"decay": 0.9}}, "averages weights itself"),
        ({"algorithm": "schedule_free", "decay_to": 0.1}, {}, "averages weights in place of that"),
        ({"algorithm": "schedule_free", "shared_decay_to": 0.1}, {}, "shared_decay_to is 0.1, .* averages weights in place of that"),
        ({"algorithm": "adafactor", "betas": [0.5, 0.9]}, {}, "chooses its decay rates itself"),
        ({"algorithm": "prodigy", "matrix_learning_rate": 0.1, "gradient_clip": 0.0}, {}, "is of Muon"),
        (
            {"algorithm": "adafactor", "gradient_clip": 0.0},
            {"privacy": {"kind": "dp_sgd", "epsilon": 6.0, "delta": 1e-3}},
            "not tested with noised gradients",
        ),
    ],
)
def test_where_it_would_be_wrong_it_is_refused(optimiser: dict[str, Any], sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        recipe(tmp_path, tmp_path, "adamw", optimiser=optimiser, **sections)


def test_a_library_that_is_not_there_is_named_before_anything_is_written(
    blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "schedulefree", None)
    with pytest.raises(UserError, match=r"needs schedulefree .*volgen\[optimisers\]"):
        train(recipe(blob_store, tmp_path, "schedule_free"))
    assert not (tmp_path / "run").exists()
