"""A method may have networks that own no noise level, such as an autoencoder: they are counted, and a public run brings its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from volgen.commands.plan.settings import Cluster, Planner, disk_bytes
from volgen.commands.train import size
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.files import sha256
from volgen.core.span import SigmaSpan
from volgen.experts.plan import Phase
from volgen.methods.diffusion import Diffusion
from volgen.origin.starts._taken_over import TakenOver
from volgen.origin.starts.public import Config
from volgen.planning.step import kind, networks, trace
from volgen.recipe import Recipe

CODER = Phase("coder", None, SigmaSpan(0.0, 1.0), (), None)
CONTENT: dict[str, Any] = {
    "name": "run", "data": {"store": "store", "shape": [16, 16, 16], "batch_size": 2}, "schedule": {"kind": "karras", "points": 4},
    "network": {"kind": "wavelet_unet3d", "channels": [4], "norm_groups": 2}, "preconditioner": {"kind": "edm"},
    "experts": {"count": 2, "warm_start": "none"}, "stopping": {"max_steps": 5, "min_steps": 1, "steps_per": "point"},
}  # fmt: skip


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Of a method with a network before the experts, of which it has three of theirs side by side."""
    plain, made, phases, loss = Diffusion.released, Diffusion.network, Diffusion.phases, Diffusion.objective

    class Three(nn.Module):
        def __init__(self, of: Any) -> None:
            super().__init__()
            self.of = nn.ModuleList(of() for _ in range(3))

        def forward(self, inputs: Tensor, noise: Tensor) -> Tensor:
            return torch.stack([one(inputs, noise) for one in self.of]).sum(0)

    def released(self: Diffusion, phase: Phase) -> nn.Module:
        return plain(self, phase) if phase.points else Three(lambda: plain(self, phase))

    def network(self: Diffusion, phase: Phase, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        return made(self, phase, weights) if phase.points else Three(lambda: made(self, phase))

    def objective(self: Diffusion, phase: Phase, fitted: Any, sigma: Any = None) -> Any:
        return loss(self, phase if phase.points else phases(self)[-1], fitted, sigma)

    monkeypatch.setattr(Diffusion, "phases", lambda self: [CODER, *phases(self)])
    monkeypatch.setattr(Diffusion, "objective", objective)
    monkeypatch.setattr(Diffusion, "released", released)
    monkeypatch.setattr(Diffusion, "network", network)
    return validate(Recipe, CONTENT, "test")


def test_each_kind_of_network_is_planned(recipe: Recipe) -> None:
    assert [phase.name for phase in networks(recipe)] == ["0", "coder"]
    assert [kind(recipe, phase) for phase in recipe.phases()] == [1, 0, 0]
    expert, coder = (trace(recipe, 2, 10, gpu=True, phase=phase) for phase in networks(recipe))
    assert coder.flops == 3 * expert.flops and coder.network.parameters == 3 * expert.network.parameters
    planner = Planner(recipe, Cluster(1, 1, 2**40, 1e9, 1e12, None), 10)
    found = next(each for each in planner.settings(1, 1) if each.engine.zero_stage == 0 and not each.engine.activation_checkpointing)
    assert [cost.phase.name for cost in found.networks] == ["0", "coder"]
    assert found.networks[1].step_seconds == pytest.approx(3 * found.networks[0].step_seconds, rel=0.01)
    assert found.memory.total == max(cost.memory for cost in found.networks) == found.networks[1].memory
    steps = 5 * found.networks[1].step_seconds + 2 * 2 * 5 * found.networks[0].step_seconds  # two points each
    assert found.hours * 3600 > steps, "and validation"
    sizes = [traced.network for traced in planner.traces]
    assert disk_bytes(recipe, sizes, 0)["weights (EMA) of all networks"] == 4 * (3 + 2) * sizes[0].released
    assert f"the coder            {sizes[1].released:,} parameters" in size.report(recipe)


def test_a_network_of_no_noise_is_trained_for_one_share_of_steps(recipe: Recipe) -> None:
    assert [recipe.rule(phase).max_steps for phase in recipe.phases()] == [5, 10, 10]


def test_a_public_run_brings_its_own_whatever_range_of_noise_levels_is_trained(recipe: Recipe, tmp_path: Path) -> None:
    ranged = Config(run="run", sigma=(1.0, 2.0))
    assert ranged.keeps([]) and Config(run="run").keeps([]) and ranged.keeps([5.0]) and not ranged.keeps([1.5])
    weights = tmp_path / "experts" / "coder" / "weights.safetensors"
    start = object.__new__(TakenOver)
    start._config, start._recipe = ranged, recipe
    start._run = SimpleNamespace(directory=tmp_path, ensemble=SimpleNamespace(files={}))  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"weights\.safetensors: there is no such file; expected the coder of the public run"):
        start.kept(CODER)
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"1")
    start._run.ensemble.files["experts/coder/weights.safetensors"] = sha256(weights)  # type: ignore[index]
    kept = start.kept(CODER)
    assert kept is not None and (kept.path, kept.sha256) == (weights, sha256(weights))
    assert kept.parameters == sum(parameter.numel() for parameter in recipe.build().released(CODER).parameters())
