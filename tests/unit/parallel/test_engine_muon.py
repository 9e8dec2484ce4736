"""Muon beside AdamW: the schedule and both updates written out by hand, on every ZeRO stage, through checkpoints and averaging."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from volgen.core.errors import UserError
from volgen.models.networks import unet3d, wavelet_unet3d
from volgen.parallel.engine import MUON_MOMENTUM, Engine, EngineConfig
from volgen.training.ema import EMA, EMAConfig, decay

STAGES = (0, 1, 2, 3)
BETAS, DECAY, RATE, MATRIX_RATE = (0.9, 0.99), 0.01, 2e-3, 10.0
MATRICES = {"first.weight", "square.weight", "last.weight"}

Train = Callable[[Engine, int, int], list[float]]


class Net(nn.Module):
    """Wide, square and tall matrices, biases, an embedding that AdamW keeps, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 7)
        self.first, self.square, self.last = nn.Linear(11, 7), nn.Linear(7, 7), nn.Linear(7, 11)
        self.register_buffer("shift", torch.tensor([0.25]))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        h = torch.tanh(self.first(x) + self.embed(noise[:, None]))
        return self.last(torch.tanh(self.square(h))) + self.shift


def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return Net()


def data(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 11, generator=generator), torch.rand(8, generator=generator)


def make(**settings: object) -> Engine:
    config = EngineConfig.model_validate(settings)
    return Engine(net(), config, 8 // config.accumulation, betas=BETAS, weight_decay=DECAY, matrix_rate=MATRIX_RATE)


@pytest.fixture
def train(step: Callable[[Engine, Tensor, Tensor, float], tuple[float, float]]) -> Train:
    """Loss of each step from the first to before the last."""
    return lambda engine, first, last: [step(engine, *data(number), RATE * (number + 1))[0] for number in range(first, last)]


def newton_schulz(matrix: Tensor) -> Tensor:
    """Five quintic steps towards the nearest semi-orthogonal matrix, in float64 (Jordan et al. 2024)."""
    x = matrix.double() / matrix.double().norm()
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).float()


def by_hand(steps: int) -> tuple[list[float], list[dict[str, Tensor]]]:
    """Losses, and the weights after each step: Muon with Nesterov momentum for the matrices, AdamW for the rest."""
    module = net()
    names, parameters = zip(*module.named_parameters(), strict=True)
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    losses, weights = [], []
    for step in range(steps):
        x, noise = data(step)
        loss = (module(x, noise) - x).square().mean()
        gradients = torch.autograd.grad(loss, parameters)
        rate, t = RATE * (step + 1), step + 1
        with torch.no_grad():
            for name, p, g, (m, v) in zip(names, parameters, gradients, moments, strict=True):
                if name in MATRICES:
                    m.mul_(MUON_MOMENTUM).add_(g, alpha=1 - MUON_MOMENTUM)
                    update = newton_schulz((1 - MUON_MOMENTUM) * g + MUON_MOMENTUM * m) * max(1, p.shape[0] / p.shape[1]) ** 0.5
                    p.mul_(1 - MATRIX_RATE * rate * DECAY).add_(update, alpha=-MATRIX_RATE * rate)
                else:
                    m.mul_(BETAS[0]).add_(g, alpha=1 - BETAS[0])
                    v.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
                    p.mul_(1 - rate * DECAY)
                    p.addcdiv_(m / (1 - BETAS[0] ** t), (v / (1 - BETAS[1] ** t)).sqrt() + 1e-8, value=-rate)
        losses.append(float(loss.detach()))
        weights.append({name: tensor.detach().clone() for name, tensor in module.state_dict().items()})
    return losses, weights


def assert_close(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        # DeepSpeed orthogonalises in half precision where the processor has it: a step is then right to some 1e-4.
        torch.testing.assert_close(tensor, expected[name], rtol=2e-3, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_muon_losses_and_weights_are_those_written_out_by_hand(stage: int, accumulation: int, train: Train) -> None:
    engine = make(zero_stage=stage, accumulation=accumulation)
    losses = train(engine, 0, 5)
    state = engine.full_state()
    engine.destroy()
    expected, weights = by_hand(5)
    assert losses == pytest.approx(expected, rel=2e-3)
    assert abs(losses[-1] / losses[0] - 1) > 0.05, "too little happened for this test to see anything"
    assert_close(state, weights[-1])


@pytest.mark.parametrize("settings", [
    {"zero_stage": 1, "offload": "optimiser"}, {"zero_stage": 2, "offload": "optimiser"}, {"zero_stage": 3, "offload": "optimiser"},
    {"zero_stage": 3, "offload": "optimiser_and_weights"},
])  # fmt: skip
def test_muon_offloaded_gives_the_same_numbers(settings: dict[str, object], train: Train) -> None:
    engine = make(**settings)
    losses = train(engine, 0, 4)
    state = engine.full_state()
    engine.destroy()
    expected, weights = by_hand(4)
    assert losses == pytest.approx(expected, rel=2e-3)
    assert_close(state, weights[-1])


@pytest.mark.parametrize("settings", [{"zero_stage": stage} for stage in STAGES] + [
    {"zero_stage": 2, "offload": "optimiser"}, {"zero_stage": 3, "offload": "optimiser"},
])  # fmt: skip
def test_muon_resumes_exactly_from_a_checkpoint(settings: dict[str, object], assert_resumes: Callable[..., None], train: Train) -> None:
    assert_resumes(lambda: make(**settings), train, 3, 6)


@pytest.mark.parametrize(("before", "after"), [
    ({"zero_stage": 0}, {"zero_stage": 2}), ({"zero_stage": 2}, {"zero_stage": 3}), ({"zero_stage": 3}, {"zero_stage": 1}),
    ({"zero_stage": 1}, {"zero_stage": 2, "offload": "optimiser"}), ({"zero_stage": 2, "offload": "optimiser"}, {"zero_stage": 0}),
])  # fmt: skip
def test_muon_goes_on_with_another_zero_stage(
    before: dict[str, object], after: dict[str, object], assert_resumes: Callable[..., None], train: Train
) -> None:
    # Stages orthogonalise in another order of operations, in half precision where the processor has it.
    assert_resumes(lambda: make(**before), train, 3, 6, other=lambda: make(**after), tolerance=2e-3)


@pytest.mark.parametrize("stage", STAGES)
def test_average_of_two_groups_of_weights_is_exported_and_taken_back(stage: int, train: Train) -> None:
    engine = make(zero_stage=stage)
    config = EMAConfig(decay=0.6, ramp=0.5)
    ema = EMA(config, engine.masters())
    average: dict[str, Tensor] = {}
    for step in range(4):
        train(engine, step, step + 1)
        ema.update(engine.masters())
        keep = decay(config, step + 1)
        average = {name: keep * average.get(name, t) + (1 - keep) * t for name, t in engine.full_state().items()}
    last = engine.full_state()
    with ema.swapped(engine.masters()):
        exported = engine.full_state()
    again = engine.full_state()
    engine.destroy()
    assert exported.keys() == last.keys() == dict(net().state_dict()).keys()
    for name, tensor in exported.items():
        torch.testing.assert_close(tensor, average[name], rtol=1e-5, atol=1e-6)
        assert name == "shift" or not torch.equal(tensor, last[name])
        assert torch.equal(again[name], last[name])


@pytest.mark.parametrize("stage", STAGES)
def test_muon_changes_nothing_when_a_gradient_is_not_finite(stage: int, train: Train) -> None:
    engine = make(zero_stage=stage)
    train(engine, 0, 2)
    before = engine.full_state()
    x, noise = data(2)
    engine.backward((engine(x, noise) * float("inf")).mean())
    assert not engine.step(RATE) < float("inf")
    after = engine.full_state()
    assert all(torch.equal(after[name], before[name]) for name in before)
    (loss,) = train(engine, 3, 4)
    state = engine.full_state()
    engine.destroy()
    assert loss < float("inf")
    assert all(torch.isfinite(tensor).all() for tensor in state.values()), "the momentum has not taken in what was skipped"
    assert any(not torch.equal(state[name], before[name]) for name in MATRICES)


def test_muon_refuses_a_network_whose_weights_are_not_matrices() -> None:
    config = unet3d.Config(channels=(8, 8), attention=(False, False), head_channels=8, norm_groups=4)
    with pytest.raises(UserError, match=r"optimiser\.matrix_learning_rate.*is not a matrix.*wavelet_unet3d"):
        Engine(config.build(inputs=1), EngineConfig(), 1, matrix_rate=1.0)


def test_muon_takes_the_hidden_matrices_of_the_wavelet_network_and_no_others() -> None:
    module = wavelet_unet3d.Config(channels=(8, 16), norm_groups=4).build(inputs=2)
    engine = Engine(module, EngineConfig(), 1, matrix_rate=1.0)
    muon = {id(p) for group in engine._engine.optimizer.param_groups if group["use_muon"] for p in group["params"]}
    names = {name for name, p in module.named_parameters() if id(p) in muon}
    engine.destroy()
    assert names == {name for name, p in module.named_parameters() if p.dim() == 2 and "embed" not in name}
    assert {"down.0.0.conv1.weight", "down.0.0.film.weight", "shrink.0.weight", "up.0.0.skip.weight"} <= names
