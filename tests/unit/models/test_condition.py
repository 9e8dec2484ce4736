"""What a network is told: embedded, left out at a stated rate, learnt where it is not told, and nothing where there are no conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Examples, Given
from volgen.core.protocols import Scan
from volgen.data.scan import VolumeScan
from volgen.models.assemblies.whole import Config as Whole
from volgen.models.condition import ConditionConfig, Conditioned, asked_for, conditioned, dropped, telling
from volgen.models.denoiser import PreconditionedDenoiser
from volgen.models.networks import slice_unet2d, triplanar, wavelet_unet3d
from volgen.models.preconditioners.edm import Config as EDM

SHAPE = (8, 8, 8)


class Age(ConditionConfig):
    kind: str = "age"

    def value(self, about: Mapping[str, Any]) -> float:
        return float(about.get("age", math.nan))

    def build(self, width: int) -> nn.Module:
        return nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, width))


class Place(Age):
    kind: str = "place"

    @property
    def edges(self) -> tuple[int, ...]:
        return (3,)

    def value(self, about: Mapping[str, Any]) -> Sequence[float]:
        return about["place"]  # type: ignore[no-any-return]

    def parse(self, text: str) -> Sequence[float]:
        return [float(word) for word in text.split(",")]

    def build(self, width: int) -> nn.Module:
        return nn.Linear(3, width)


def network(config: Any, conditions: Sequence[ConditionConfig]) -> nn.Module:
    torch.manual_seed(0)
    made = conditioned(config.build(inputs=1), conditions, config.embedding)
    for parameter in made.parameters():  # what starts at zero would hide everything behind it
        parameter.data = (
            torch.randn(parameter.shape) * parameter[0].numel() ** -0.5 if parameter.dim() > 1 else torch.randn(parameter.shape) / 3
        )
    return made


NETWORKS = [
    wavelet_unet3d.Config(channels=(8, 8), norm_groups=4),
    slice_unet2d.Config(channels=(8, 8), norm_groups=4, neighbours=1),
    triplanar.Config(channels=(8, 8), norm_groups=4, neighbours=0),
]


@pytest.mark.parametrize("config", NETWORKS)
def test_a_network_hears_what_it_is_told_and_a_batch_is_told_row_by_row(config: Any) -> None:
    made = network(config, [Age(), Place()])
    denoise = PreconditionedDenoiser(made, EDM().restore({}))
    y, sigma = torch.randn(3, 1, *SHAPE), torch.full((3,), 0.7)
    given = Given(values={"age": torch.tensor([0.2, math.nan, 0.9]), "place": torch.tensor([[0.1, 0.2, 0.3]] * 3)})
    told = denoise(y, sigma, given)
    order = [2, 0, 1]
    torch.testing.assert_close(denoise(y[order], sigma, given[order]), told[order], rtol=1e-4, atol=1e-5)
    other = Given(values={**given.values, "age": torch.tensor([0.2, math.nan, -0.9])})
    changed = (denoise(y, sigma, other) - told).abs().flatten(1).amax(dim=1)
    assert changed[2] > 1e-3 and changed[:2].max() < 1e-6
    assert (denoise(y, sigma) - told).abs().max() > 1e-3


def test_what_is_not_told_is_the_same_however_it_is_not_told() -> None:
    made = network(NETWORKS[0], [Age(), Place()])
    x, noise = torch.randn(2, 1, *SHAPE), torch.zeros(2)
    silent = made(x, noise)
    nothing = {"age": torch.full((2,), math.nan), "place": torch.full((2, 3), math.nan)}
    assert torch.equal(made(x, noise, nothing), silent)
    assert torch.equal(made(x, noise, {"age": nothing["age"]}), silent)


@pytest.mark.parametrize("values", [None, {"age": torch.tensor([0.5, math.nan])}])
def test_every_weight_has_a_finite_gradient_whoever_is_told(values: Any) -> None:
    made = network(NETWORKS[0], [Age()])
    made(torch.randn(2, 1, *SHAPE), torch.zeros(2), values).square().mean().backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in made.parameters())


def test_without_conditions_a_network_is_itself() -> None:
    plain = NETWORKS[0].build(inputs=1)
    assert conditioned(plain, [], 32) is plain and not isinstance(plain, Conditioned)
    cut = Whole().cut
    assert telling(cut, []) is cut
    assert asked_for([], {}) is NOTHING


def test_examples_are_told_what_the_manifest_says_of_their_scan() -> None:
    scan: Scan = VolumeScan(SHAPE, lambda: torch.zeros(SHAPE), {"age": 41.0, "place": [1.0, 2.0, 3.0]})
    cut = telling(Whole().cut, [Age(drop=0.0), Place(drop=0.0)])
    examples = Examples.joined([cut(scan, 0, 1), cut(scan, 0, 2)])
    assert examples.given.values["age"].tolist() == [41.0, 41.0]
    assert examples.given.values["place"].tolist() == [[1.0, 2.0, 3.0]] * 2
    nobody = telling(Whole().cut, [Age(drop=0.0)])(VolumeScan(SHAPE, lambda: torch.zeros(SHAPE)), 0)
    assert nobody.given.values["age"].isnan().all()


def test_conditions_are_left_out_at_their_rate_half_of_it_together() -> None:
    left = torch.tensor([[dropped(name, 0.2, 7, key) for name in ("age", "place")] for key in range(4000)]).float()
    assert left.mean(dim=0) == pytest.approx(torch.tensor([0.2, 0.2]), abs=5 * (0.16 / 4000) ** 0.5)
    both = 0.1 + 0.9 * (0.1 / 0.9) ** 2
    assert float(left.prod(dim=1).mean()) == pytest.approx(both, abs=5 * (both / 4000) ** 0.5)
    assert not any(dropped("age", 0.0, 7, key) for key in range(100))
    scan: Scan = VolumeScan(SHAPE, lambda: torch.zeros(SHAPE), {"age": 41.0, "place": [1.0, 2.0, 3.0]})
    cut = telling(Whole().cut, [Place(drop=0.5)])
    seen = {bool(cut(scan, 0, key).given.values["place"].isnan().all()) for key in range(20)}
    assert seen == {True, False}


def test_what_is_asked_for_is_read_and_mistakes_are_named() -> None:
    found: Tensor = asked_for([Age(), Place()], {"place": "1,2,3"}).values["place"]
    assert found.tolist() == [[1.0, 2.0, 3.0]]
    for told, words in (({"agee": "3"}, "age"), ({"age": "old"}, "'old' is no value of it"), ({"place": "1,2"}, "no value")):
        with pytest.raises(UserError, match=words):
            asked_for([Age(), Place()], told)
    with pytest.raises(UserError, match="trained without conditions"):
        asked_for([], {"age": "3"})


class Level(Age):
    kind: str = "level"

    @property
    def classes(self) -> int:
        return 0


def test_networks_and_what_is_fitted_are_told_apart() -> None:
    both, fitted, network = Level(drop=0.0), Level(kind="own", embedded=False, drop=0.0), Age(drop=0.0)
    found = asked_for([both, fitted, network], {"level": "3", "own": "4", "age": "5"})
    assert {name: float(value) for name, value in found.values.items()} == {"level": 3.0, "age": 5.0}
    assert {name: float(value) for name, value in found.fitted.items()} == {"level": 3.0, "own": 4.0}
    scan = VolumeScan(SHAPE, lambda: torch.zeros(SHAPE), {"age": 7.0})
    example = telling(Whole().cut, [fitted, network])(scan, 0, 1)
    assert set(example.given.values) == {"age"} and float(example.given.fitted["own"]) == 7.0
    joined = Given.joined([found[[0]], found[[0]]])
    assert joined.fitted["own"].shape == (2,) and (NOTHING | found).fitted is found.fitted
    assert found.told and not found.untold().told and not NOTHING.told
    assert not Given(fitted={"own": torch.tensor([math.nan])}).told and Given(fitted={"own": torch.tensor([math.nan, 1.0])}).told
    assert (found | Given(fitted={"own": torch.tensor([1.0])})).fitted.keys() == {"level", "own"}
