"""Every file in volgen/operators is a linear map with the adjoint, and the closed form, that it says it has."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from volgen.core.config import validate
from volgen.core.protocols import Operator
from volgen.core.registry import config_class, kinds, module
from volgen.images.box import BoxConfig
from volgen.images.geometry import Geometry
from volgen.images.intensity import IntensityMap
from volgen.runs.observed import Field, Seen, measured, observe

PACKAGE = "volgen.operators"
KINDS = kinds(PACKAGE)
SHAPE = (8, 12, 10)
OTHERWISE: dict[str, list[dict[str, Any]]] = {
    "bias": [{"strength": 1.0, "waves": 4}],
    "blur": [{"width": [0.8, 0.0, 1.0]}, {"width": [4.0, 2.0, 1.0]}],
    "cartesian": [
        {"coils": 3},
        {"phase": 0.7, "readout": "A"},
        {"coils": 4, "phase": 0.5, "readout": "R", "mask": {"kind": "random", "acceleration": 3}},
        {"mask": {"kind": "partial"}},
        {"mask": {"kind": "full"}, "readout": "R"},
        {"mask": {"kind": "equispaced"}, "readout": "A"},
        {"mask": {"kind": "elliptical", "size": 0.8}},
    ],
    "composed": [{"parts": [{"kind": "slices"}, {"kind": "cartesian", "coils": 2}]}, {"parts": [{"kind": "bias"}]}],
    "inpaint": [{"share": 0.8, "scattered": True, "axis": "A"}, {"hole": {"start": [2, 3, 4], "size": [3, 4, 5]}}],
    "radon": [{"axis": "R", "views": 7, "arc": 100.0, "start": -30.0}, {"axis": "A", "views": 3}],
    "slices": [
        {"axis": "R", "thickness": 3.0, "gap": 1.5, "first": 0.5},
        {"profile": "gaussian", "thickness": 2.5, "gap": -0.5},
        {"axis": "A", "thickness": 4.0},
    ],
}
"""Settings of kinds beside the defaults; a new kind is tested by existing."""
CASES = [pytest.param(kind, more, id=f"{kind}-{number}") for kind in KINDS for number, more in enumerate([{}, *OTHERWISE.get(kind, [])])]
BOX = BoxConfig(start=(1, 3, 2), size=(6, 5, 8))
FRAME = Geometry(SHAPE, (1.0, 1.0, 1.0), IntensityMap(0.0, 1.0), skull_stripped=True, box=BOX)
FIELD = Field.of_run(FRAME)


def build(kind: str, more: dict[str, Any]) -> Operator:
    config: Any = validate(config_class(PACKAGE, kind), {"kind": kind, **more}, kind)
    return config.build(SHAPE, torch.device("cpu"))  # type: ignore[no-any-return]


def volumes(seed: int, count: int = 2) -> Tensor:
    return torch.randn(count, 1, *SHAPE, generator=torch.Generator().manual_seed(seed))


def data_of(operator: Operator, seed: int, count: int = 2) -> Tensor:
    """Any data of the operator's shape and type."""
    like = operator.apply(volumes(seed, count))
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=like.dtype)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Re<a, b> of each element of a batch, in double precision."""
    wide = torch.complex128 if a.is_complex() else torch.float64
    return (a.to(wide).conj() * b.to(wide)).flatten(1).sum(dim=1).real


def test_the_promised_operators_exist() -> None:
    assert set(KINDS) >= {"bias", "blur", "cartesian", "composed", "identity", "inpaint", "radon", "slices"}


@pytest.mark.parametrize("kind", KINDS)
def test_file_declares_itself(kind: str) -> None:
    assert config_class(PACKAGE, kind)().kind == kind  # type: ignore[attr-defined]
    assert (module(PACKAGE, kind).__doc__ or "").strip()


@pytest.mark.parametrize(("kind", "more"), CASES)
def test_the_adjoint_is_the_adjoint(kind: str, more: dict[str, Any]) -> None:
    whole = build(kind, more)
    for operator, seed in itertools.product((whole, Seen(whole, FIELD, FRAME)), range(3)):
        x = volumes(seed) if operator is whole else BOX.crop(volumes(seed))
        d = data_of(whole, seed + 100)
        back = operator.adjoint(d)
        assert back.shape == x.shape and back.dtype == x.dtype
        size = dot(x, x).sqrt() * dot(d, d).sqrt()
        assert ((dot(operator.apply(x), d) - dot(x, back)).abs() / size).max() < 1e-5


@pytest.mark.parametrize(("kind", "more"), CASES)
def test_it_is_linear_and_takes_each_volume_by_itself(kind: str, more: dict[str, Any]) -> None:
    operator, x, other = build(kind, more), volumes(0), volumes(1)
    together = operator.apply(2.0 * x - 0.5 * other)
    torch.testing.assert_close(together, 2.0 * operator.apply(x) - 0.5 * operator.apply(other), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(operator.apply(x)[1:], operator.apply(x[1:]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.3, 20.0])
@pytest.mark.parametrize(("kind", "more"), CASES)
def test_a_closed_form_is_the_minimum(kind: str, more: dict[str, Any], gamma: float) -> None:
    operator = build(kind, more)
    solve = operator.closed(gamma)
    if solve is None:
        return
    z, d = volumes(3), data_of(operator, 4)
    x = solve(z, d)
    # Half the gradient of |x - z|^2 + gamma |d - A x|^2.
    slope = (x - z) - gamma * operator.adjoint(d - operator.apply(x))
    assert slope.norm() < 1e-4 * (1 + gamma) * z.norm()


@pytest.mark.parametrize(("kind", "more"), CASES)
def test_with_infinite_weight_data_are_explained_by_the_nearest_volume(kind: str, more: dict[str, Any]) -> None:
    operator = build(kind, more)
    solve = operator.closed(math.inf)
    if solve is None:
        return
    z, d = volumes(5), operator.apply(volumes(6))
    x = solve(z, d)
    assert (operator.apply(x) - d).norm() < 1e-5 * d.norm()
    torch.testing.assert_close(solve(x, d), x, rtol=1e-5, atol=1e-5)
    moved = x - z
    for seed in range(3):  # what it moves by is orthogonal to what the instrument does not see
        unseen = volumes(seed + 10)
        unseen = solve(unseen, torch.zeros_like(d))
        assert (dot(moved, unseen).abs() <= 1e-4 * (dot(moved, moved) * dot(unseen, unseen)).sqrt() + 1e-5).all()


@pytest.mark.parametrize(("kind", "more"), CASES)
def test_what_is_seen_is_where_something_was_measured(kind: str, more: dict[str, Any]) -> None:
    operator = build(kind, more)
    data = data_of(operator, 0)
    assert torch.equal(operator.seen(operator.seen(data)), operator.seen(data))
    assert torch.equal(operator.seen(operator.apply(volumes(0))), operator.apply(volumes(0)))
    torch.testing.assert_close(operator.adjoint(operator.seen(data)), operator.adjoint(data))


@pytest.mark.parametrize(("kind", "more"), CASES)
def test_data_of_intensities_come_to_the_model_range_and_noise_where_nothing_is_seen_goes(kind: str, more: dict[str, Any]) -> None:
    operator = build(kind, more)
    x = FRAME.whole(torch.rand(1, 1, *BOX.size, generator=torch.Generator().manual_seed(1)) * 2 - 1)
    signal, expected = operator.apply(300.0 * (x + 1.0) / 2.0), measured(operator, x, FRAME)
    seen = operator.seen(torch.ones_like(signal)) != 0
    found = observe(operator, torch.where(seen, signal, 7.0), 6.0, IntensityMap(0.0, 300.0), FIELD, FRAME).measurement
    assert found.noise == pytest.approx(0.04)
    torch.testing.assert_close(found.data, torch.where(seen, expected.data, 0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.operator.apply(BOX.crop(x)), expected.data, rtol=1e-4, atol=1e-4)
