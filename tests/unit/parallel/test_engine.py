"""The engine against AdamW written out by hand, for every ZeRO stage on one rank."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from volgen.parallel.engine import Engine, EngineConfig
from volgen.parallel.precision import InPrecision

STAGES = (0, 1, 2, 3)
CLIP, BETAS, DECAY, RATE = 0.05, (0.9, 0.99), 0.01, 2e-3

Train = Callable[[Engine, int, int], list[tuple[float, float]]]


class Net(nn.Module):
    """Odd sizes, so that flat shards need padding; a buffer, so that exports must carry one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv3d(1, 6, 3, padding=1), nn.GroupNorm(3, 6), nn.Conv3d(6, 1, 3, padding=1)
        self.embed = nn.Linear(1, 6)
        self.register_buffer("shift", torch.tensor([0.25]))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        h = self.norm(self.first(x)) + self.embed(noise[:, None])[:, :, None, None, None]
        return self.last(nn.functional.silu(h)) + self.shift


def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return Net()


def data(step: int, count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(count, 1, 8, 8, 8, generator=generator), torch.rand(count, generator=generator)


def make(**settings: object) -> Engine:
    config = EngineConfig.model_validate(settings)
    return Engine(net(), config, 4 // config.accumulation, betas=BETAS, weight_decay=DECAY, gradient_clip=CLIP)


@pytest.fixture
def train(step: Callable[[Engine, Tensor, Tensor, float], tuple[float, float]]) -> Train:
    """(Loss, gradient norm) of each step from the first to before the last."""
    return lambda engine, first, last: [step(engine, *data(number), RATE * (number + 1)) for number in range(first, last)]


def by_hand(steps: int) -> tuple[list[tuple[float, float]], dict[str, Tensor]]:
    """AdamW (Loshchilov & Hutter 2019, algorithm 2) with clipping by the global norm."""
    module = net()
    parameters = list(module.parameters())
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    seen = []
    for step in range(steps):
        x, noise = data(step)
        loss = (module(x, noise) - x).square().mean()
        gradients = torch.autograd.grad(loss, parameters)
        norm = float(torch.cat([g.flatten() for g in gradients]).norm())
        rate, t = RATE * (step + 1), step + 1
        with torch.no_grad():
            for p, g, (m, v) in zip(parameters, gradients, moments, strict=True):
                g = g * min(1.0, CLIP / (norm + 1e-6))
                m.mul_(BETAS[0]).add_(g, alpha=1 - BETAS[0])
                v.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
                p.mul_(1 - rate * DECAY)
                p.addcdiv_(m / (1 - BETAS[0] ** t), (v / (1 - BETAS[1] ** t)).sqrt() + 1e-8, value=-rate)
        seen.append((float(loss.detach()), norm))
    return seen, {name: tensor.detach() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_losses_norms_and_weights_are_those_of_adamw_by_hand(stage: int, accumulation: int, train: Train) -> None:
    engine = make(zero_stage=stage, accumulation=accumulation)
    seen = train(engine, 0, 4)
    expected, weights = by_hand(4)
    for (loss, norm), (true_loss, true_norm) in zip(seen, expected, strict=True):
        assert loss == pytest.approx(true_loss, rel=2e-5)
        assert norm == pytest.approx(true_norm, rel=2e-4)
        assert true_norm > CLIP, "the clip must be at work in this test"
    state = engine.full_state()
    engine.destroy()
    assert state.keys() == weights.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, weights[name], rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("settings", [
    {"zero_stage": 1, "offload": "optimiser"}, {"zero_stage": 2, "offload": "optimiser"}, {"zero_stage": 3, "offload": "optimiser"},
    {"zero_stage": 3, "offload": "optimiser_and_weights"},
])  # fmt: skip
def test_offload_changes_where_numbers_are_but_not_the_numbers(settings: dict[str, object], train: Train) -> None:
    engine = make(**settings)
    zero = engine._engine._config.zero_config
    assert str(zero.offload_optimizer.device) == "cpu"
    assert (zero.offload_param is not None) == (settings["offload"] == "optimiser_and_weights")
    seen = train(engine, 0, 3)
    state = engine.full_state()
    engine.destroy()
    expected, weights = by_hand(3)
    assert [loss for loss, _ in seen] == pytest.approx([loss for loss, _ in expected], rel=2e-5)
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, weights[name], rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("stage", STAGES)
def test_bf16_rounds_the_network_and_keeps_fp32_masters(stage: int, train: Train) -> None:
    engine = make(zero_stage=stage, precision="bf16")
    x, noise = data(0)
    output = engine(x, noise)
    exact = net()(x, noise).detach()
    assert output.dtype == torch.float32
    difference = float((output.detach() - exact).abs().max() / exact.abs().max())
    assert 1e-5 < difference < 2e-2, "bf16 has 8 bits: neither exact nor far off"
    torch.testing.assert_close(output, InPrecision(net(), EngineConfig(precision="bf16"))(x, noise), rtol=0, atol=1e-6)
    engine.backward(output.square().mean())
    engine.step(RATE)
    seen = train(engine, 1, 4)
    assert all(master.dtype == torch.float32 for master in engine.masters())
    state = engine.full_state()
    engine.destroy()
    assert all(loss < 10 for loss, _ in seen)
    assert any(not torch.equal(t, t.bfloat16().float()) for t in state.values()), "masters hold more bits than bf16"


@pytest.mark.parametrize("stage", STAGES)
def test_full_state_sees_what_is_written_to_masters(stage: int) -> None:
    engine = make(zero_stage=stage)
    before = engine.full_state()
    for name, tensor in net().state_dict().items():
        assert torch.equal(before[name], tensor), "the engine starts from the module's weights"
    for master in engine.masters():
        master.mul_(2.0)
    after = engine.full_state()
    engine.destroy()
    assert all(torch.equal(after[name], before[name] * (1 if name == "shift" else 2)) for name in before)


@pytest.mark.parametrize("settings", [{"zero_stage": stage} for stage in STAGES] + [{"zero_stage": 2, "offload": "optimiser"}])
def test_state_by_name_restores_weights_moments_and_counters_exactly(
    settings: dict[str, object], assert_resumes: Callable[..., None], train: Train
) -> None:
    assert_resumes(lambda: make(**settings), train, 2, 5)


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 3), (3, 1), (1, 0), (3, 0)])
def test_another_zero_stage_goes_on_from_the_same_state(before: int, after: int, assert_resumes: Callable[..., None], train: Train) -> None:
    assert_resumes(lambda: make(zero_stage=before), train, 2, 5, other=lambda: make(zero_stage=after), tolerance=1e-5)


def test_state_before_the_first_update_is_that_of_a_new_optimiser(assert_resumes: Callable[..., None], train: Train) -> None:
    assert_resumes(lambda: make(zero_stage=3), train, 0, 3, other=lambda: make(zero_stage=1), tolerance=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_a_gradient_that_is_not_finite_is_reported_and_changes_nothing(stage: int, train: Train) -> None:
    engine = make(zero_stage=stage)
    train(engine, 0, 1)
    before = engine.full_state()
    x, noise = data(1)
    engine.backward((engine(x, noise) * float("inf")).mean())
    norm = engine.step(RATE)
    after = engine.full_state()
    assert not norm < float("inf")
    assert all(torch.equal(after[name], before[name]) for name in before)
    ((_, norm),) = train(engine, 2, 3)
    assert 0 < norm < float("inf"), "the next step is as usual"
    engine.destroy()


def test_engines_one_after_another_leave_nothing_behind(train: Train) -> None:
    sizes = []
    for _ in range(12):
        engine = make(zero_stage=2)
        train(engine, 0, 1)
        engine.destroy()
        del engine
        gc.collect()
        sizes.append(sum(1 for thing in gc.get_objects() if isinstance(thing, torch.Tensor)))
    assert sizes[-1] <= sizes[2], f"tensors alive after each engine: {sizes}"


@pytest.mark.parametrize("stage", STAGES)
def test_no_weight_is_read_for_a_message_that_nobody_sees(stage: int, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed writes its arguments into a message at ZeRO-3 (a tensor on a GPU would be waited for)."""
    written: list[Tensor] = []
    real = torch._tensor_str._str
    monkeypatch.setattr(torch._tensor_str, "_str", lambda tensor, **options: written.append(tensor) or real(tensor, **options))
    engine = make(zero_stage=stage)
    train(engine, 0, 2)
    engine.destroy()
    assert not written
    assert "0.2500" in str(net().shift) and len(written) == 1, "tensors can be read again, and this test can fail"
