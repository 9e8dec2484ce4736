"""Clipping, noise, divisor and sampling of private gradients: on simulated ranks, each with what would go wrong without it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from volgen.privacy import cohort_entries
from volgen.privacy.accounting import Steps
from volgen.privacy.ledger import _entry, costs
from volgen.privacy.mechanism import GradientMechanism, clipped
from volgen.privacy.plans.dp_sgd import Mechanism
from volgen.privacy.secret import Secret

KEY = bytes(range(32))
SHAPES = [torch.Size((40, 25)), torch.Size((7,)), torch.Size((1,))]
CPU = torch.device("cpu")


def people(count: int, scale: float = 1.0) -> list[list[Tensor]]:
    return [
        [torch.randn(shape, generator=torch.Generator().manual_seed(10 * person + k)) * scale for k, shape in enumerate(SHAPES)]
        for person in range(count)
    ]


def step(gradients: list[list[Tensor]], mechanism: Mechanism, divisor: float, ranks: int, key: bytes = KEY, steps: int = 1) -> Tensor:
    """The gradient that the optimiser sees: the mean over ranks."""
    parts = []
    for rank in range(ranks):
        sanitiser = GradientMechanism(mechanism, divisor, Secret(key), rank, ranks)
        for _ in range(steps):
            sanitiser.draw(["p"])
        total = sanitiser.zeros(SHAPES, CPU)
        for gradient in gradients[rank::ranks]:
            sanitiser.add(total, gradient)
        parts.append(torch.cat([part.flatten() for part in sanitiser.finish(total)]).double())
    return torch.stack(parts).mean(dim=0)


def flat(gradient: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in gradient]).double()


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_one_patient_moves_the_sum_by_the_clip_norm_at_most(ranks: int) -> None:
    everybody, quiet, divisor = people(6, 100.0), Mechanism(0.5, 0.0, 0.7), 4.0
    for gone in range(6):
        without = everybody[:gone] + everybody[gone + 1 :]
        change = (step(everybody, quiet, divisor, ranks) - step(without, quiet, divisor, 1)) * divisor
        assert float(change.norm()) == pytest.approx(0.7, rel=1e-4)
        torch.testing.assert_close(change, 0.7 * flat(everybody[gone]) / flat(everybody[gone]).norm(), rtol=1e-3, atol=1e-5)


def test_small_contributions_are_left_alone() -> None:
    small = people(4, 1e-3)
    torch.testing.assert_close(step(small, Mechanism(0.5, 0.0, 1.0), 4.0, 2), sum(map(flat, small)) / 4.0, rtol=1e-5, atol=1e-9)


def test_the_divisor_is_public_whoever_was_drawn() -> None:
    """Dividing by the number drawn would make one patient's part depend on who else is there."""
    quiet = Mechanism(0.5, 0.0, 1e9)
    for count in (0, 1, 5):
        torch.testing.assert_close(
            step(people(count), quiet, 4.0, 2), sum(map(flat, people(count)), torch.zeros(1008).double()) / 4.0, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_contribution_that_is_not_finite_adds_nothing(bad: float) -> None:
    broken = people(1)
    broken[0][1][3] = bad
    assert torch.equal(step(broken, Mechanism(0.5, 0.0, 1.0), 4.0, 1), torch.zeros(1008).double())
    huge = [[torch.full(shape, 1e30) for shape in SHAPES]]  # its norm overflows float32
    assert float(step(huge, Mechanism(0.5, 0.0, 1.0), 1.0, 1).norm()) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_noise_is_that_of_the_claim_on_every_weight(ranks: int) -> None:
    mechanism, divisor = Mechanism(0.5, 2.0, 0.3), 4.0
    drawn = torch.stack([step([], mechanism, divisor, ranks, steps=n) for n in range(1, 61)]) / (2.0 * 0.3 / divisor)
    assert float(drawn.std()) == pytest.approx(1.0, rel=0.02)
    assert float(drawn.std(dim=0).min()) > 0.6 and float(drawn.std(dim=0).max()) < 1.5, "the same on every weight, whichever rank noises it"
    correlation = torch.corrcoef(drawn)[~torch.eye(60, dtype=torch.bool)]
    assert float(correlation.abs().max()) < 0.2, "no step shares noise with another"
    assert abs(float(drawn.mean())) < 0.02


def test_low_bits_of_the_sum_do_not_show_through_the_noise() -> None:
    """Noise that is rounded to fp32 before it is added leaves multiples of the sum's last bit where the result is near 0."""
    mechanism, size = Mechanism(0.5, 1.0, 1.0), torch.Size((400_000,))
    shares = []
    for start in (0.0, 0.7):
        sanitiser = GradientMechanism(mechanism, 1.0, Secret(KEY), 0, 1)
        sanitiser.draw(["p"])
        (noised,) = sanitiser.finish([torch.full(size, start)])
        near = noised[noised.abs() < 2.0**-6].double() * 2.0**24
        shares.append(float((near == near.round()).double().mean()))
    assert shares[0] < 0.05 and shares[1] < 0.05, "rounded twice it was 1.1 % and 100 %"


def test_a_patient_s_draws_have_nothing_to_do_with_the_others() -> None:
    mechanism, everybody = Mechanism(0.5, 1.0, 1.0), [f"p{n}" for n in range(50)]
    one, other = (GradientMechanism(mechanism, 4.0, Secret(KEY), 0, 1) for _ in range(2))
    for _ in range(20):
        drawn, without = one.draw(everybody), other.draw(everybody[1:])
        assert [each for each in drawn if each != "p0"] == without
    assert one.seed("p7") == other.seed("p7") != one.seed("p8")
    assert one.seed("p7") != GradientMechanism(mechanism, 4.0, Secret(KEY[::-1]), 0, 1).seed("p7")


def test_without_its_secret_noise_cannot_be_subtracted() -> None:
    mechanism = Mechanism(0.5, 2.0, 0.3)
    assert not torch.equal(step([], mechanism, 4.0, 1), step([], mechanism, 4.0, 1, key=KEY[::-1]))
    assert torch.equal(step([], mechanism, 4.0, 1), step([], mechanism, 4.0, 1))


def test_patients_are_drawn_independently_with_the_sampling_rate() -> None:
    sanitiser = GradientMechanism(Mechanism(0.2, 1.0, 1.0), 4.0, Secret(KEY), 0, 2)
    other = GradientMechanism(Mechanism(0.2, 1.0, 1.0), 4.0, Secret(KEY), 1, 2)
    everybody = [f"p{n}" for n in range(20)]
    draws = [sanitiser.draw(everybody) for _ in range(2000)]
    assert draws == [other.draw(everybody) for _ in range(2000)], "all ranks see the same batch"
    sizes = torch.tensor([float(len(draw)) for draw in draws])
    assert float(sizes.mean()) == pytest.approx(4.0, abs=0.15)
    assert float(sizes.var()) == pytest.approx(20 * 0.2 * 0.8, rel=0.12), "Poisson sampling: batches differ in size"
    assert min(map(len, draws)) == 0 and max(map(len, draws)) >= 9
    each = torch.tensor([sum(person in draw for draw in draws) / 2000 for person in everybody])
    assert float((each - 0.2).abs().max()) < 0.04
    assert GradientMechanism(Mechanism(1.0, 1.0, 1.0), 4.0, Secret(KEY), 0, 1).draw(everybody) == everybody


@dataclass(frozen=True)
class Banded:
    """Steps whose noise is that of the step and, with the other sign, half of that of the step before; every second one costs."""

    plan: ClassVar[str] = "banded"
    name: ClassVar[str] = "banded"

    sampling_rate: float
    noise_multiplier: float
    clip_norm: float
    sound: ClassVar[bool] = True

    def select(self, secret: Secret, step: int, patients: Sequence[str]) -> list[str]:
        return [patient for place, patient in enumerate(patients) if (place + step) % 2]

    def clip(self, gradients: Sequence[Tensor]) -> float:
        return clipped(gradients, self.clip_norm)

    def noise(self, normal: Callable[[int], Tensor], step: int) -> Tensor:
        before = 0.5 * normal(step - 1) if step > 1 else 0.0
        return self.noise_multiplier * self.clip_norm * (normal(step) - before)

    def cost(self, count: int) -> Steps:
        return Steps(2 * self.sampling_rate, self.noise_multiplier, -(-count // 2))


def test_another_mechanism_chooses_noises_and_costs_in_its_own_way() -> None:
    mechanism, size, ranks = Banded(0.1, 3.0, 0.5), torch.Size((11,)), 2
    sums = []
    for rank in range(ranks):
        one = GradientMechanism(mechanism, 1.0, Secret(KEY), rank, ranks)
        drawn, parts = [], []
        for _ in range(3):
            drawn.append(one.draw(["a", "b", "c"]))
            parts.append(one.finish(one.zeros([size], torch.device("cpu")))[0].double() / ranks)
        assert drawn == [["a", "c"], ["b"], ["a", "c"]]
        sums.append(torch.stack(parts))
    noises = torch.stack([
        torch.cat([Secret(KEY).normal((count,), "noise", step, 0, rank) for rank, count in enumerate((5, 6))]) for step in (1, 2, 3)
    ])  # fmt: skip
    expected = 1.5 * torch.stack([noises[0], noises[1] - 0.5 * noises[0], noises[2] - 0.5 * noises[1]])
    torch.testing.assert_close(sums[0] + sums[1], expected, rtol=1e-6, atol=1e-7)
    assert costs([_entry("0", mechanism, 5)]) == [Steps(0.2, 3.0, 3)]
    assert costs([_entry("0", Mechanism(0.1, 3.0, 0.5), 5)]) == [Steps(0.1, 3.0, 5)]
    assert _entry("0", Mechanism(0.1, 3.0, 0.5), 5).keys() == {"scope", "mechanism", *vars(Mechanism(0.1, 3.0, 0.5)), "steps"}


def test_the_ledger_of_a_cohort_counts_what_steps_of_any_plan_cost() -> None:
    entered: list[tuple[str, list[Steps]]] = []
    cohort: Any = SimpleNamespace(enter_run=lambda name, steps, finished: entered.append((name, steps)))
    taken, assumed = [Steps(0.2, 3.0, 3)], {"cohort": {"entry": "ab"}}
    ledger: Any = SimpleNamespace(mechanism=Banded(0.1, 3.0, 0.5), assumed=assumed, steps=lambda: taken)
    cohort_entries.enter(cohort, ledger, more=9)
    assert entered == [("ab", [*taken, Steps(0.2, 3.0, 5)])]
