"""Every file in volgen/models/assemblies keeps the promises of ``Assembly`` and ``AssemblyConfig``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from volgen.core.given import Given
from volgen.core.protocols import Scan
from volgen.core.registry import config_class, kinds
from volgen.data.scan import VolumeScan
from volgen.models.assembly import Box

PACKAGE = "volgen.models.assemblies"
KINDS = kinds(PACKAGE)
SHAPE = (16, 8, 24)
PEOPLE = [f"person-{index}" for index in range(8)]


def config(kind: str) -> Any:
    return config_class(PACKAGE, kind)()


def scans() -> Iterator[Scan]:
    for index in range(len(PEOPLE)):
        volume = torch.rand(SHAPE, generator=torch.Generator().manual_seed(index)) * 2 - 1
        yield VolumeScan(SHAPE, lambda volume=volume: volume)  # type: ignore[misc]


def numbered(indices: Sequence[int], place: Box, given: Sequence[Given]) -> list[Tensor]:
    """A denoiser and solver whose piece of sample i is a function of i, the place and what is known: enough to see who depends on what."""
    empty = torch.empty(1, *SHAPE)[(slice(None), *place)]
    seen = [0.0 if one.channels is None else float(one.channels.double().sum()) for one in given]
    return [
        torch.full_like(empty, torch.tensor(0.3 * index + 0.1 * total).sin().item()) for index, total in zip(indices, seen, strict=True)
    ]


def test_the_promised_assemblies_exist() -> None:
    assert set(KINDS) >= {"whole", "autoregressive"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_has_the_declared_shape_and_is_a_function_of_its_key(kind: str) -> None:
    one = config(kind)
    scan = next(iter(scans()))
    first, again, other = one.cut(scan, 0, 4, 1), one.cut(scan, 0, 4, 1), one.cut(scan, 0, 4, 2)
    assert first.x_BCXYZ.shape == (1, 1, *one.piece(SHAPE))
    assert (first.given.channels is None) == (one.known == 0)
    for seen, same in ((first.x_BCXYZ, again.x_BCXYZ), (first.given.channels, again.given.channels)):
        if seen is not None and same is not None:
            assert seen.shape[2:] == one.piece(SHAPE) and seen.dtype == torch.float32 and torch.isfinite(seen).all()
            assert torch.equal(seen, same)
    assert first.given.channels is None or first.given.channels.shape[:2] == (1, one.known)
    assert one.piecewise == (one.piece(SHAPE) != SHAPE)
    assert not one.piecewise or not torch.equal(first.x_BCXYZ, other.x_BCXYZ)
    assert one.cuts(SHAPE) >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_tile_the_volume_and_know_what_training_knew(kind: str) -> None:
    one = config(kind)
    assembly = one.fit(scans, PEOPLE, 0)
    covered = torch.zeros(SHAPE)
    calls = 0

    def draw(indices: Sequence[int], place: Box, given: Sequence[Given]) -> list[Tensor]:
        nonlocal calls
        calls += 1
        covered[place] += 1
        assert covered[place].shape == one.piece(SHAPE)
        known = [None if each.channels is None else each.channels.shape for each in given]
        assert known == [(1, one.known, *one.piece(SHAPE)) if one.known else None] * len(indices)
        return numbered(indices, place, given)

    assembly.generate(draw, SHAPE, 0, [0, 1])
    assert calls == assembly.pieces(SHAPE)
    assert (covered == 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_sample_i_depends_on_the_seed_and_i_alone(kind: str) -> None:
    assembly = config(kind).fit(scans, PEOPLE, 0)
    together = assembly.generate(numbered, SHAPE, 3, [5, 2, 9])
    assert all(volume.shape == (1, *SHAPE) for volume in together)
    for index, volume in zip([5, 2, 9], together, strict=True):
        assert torch.equal(assembly.generate(numbered, SHAPE, 3, [index])[0], volume)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("kind", KINDS)
def test_state_survives_safetensors(kind: str) -> None:
    first = config(kind).fit(scans, PEOPLE, 0)
    again = config(kind).restore(load(save(first.state())))
    assert torch.equal(first.generate(numbered, SHAPE, 1, [0])[0], again.generate(numbered, SHAPE, 1, [0])[0])
