"""Slabs: their order, what each may know, what training cuts out of a scan, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from volgen.core.given import Examples, Given
from volgen.core.rng import normal
from volgen.data.scan import VolumeScan
from volgen.models.assemblies.autoregressive import Config, Slab
from volgen.models.assembly import Box

SHAPE = (8, 16, 24)


def volume(seed: int = 0) -> Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def config(**settings: Any) -> Config:
    return Config.model_validate({"coarse_folds": 2, **settings})


@pytest.mark.parametrize("axis", ["R", "A", "S"])
@pytest.mark.parametrize("start", ["middle", "end"])
@pytest.mark.parametrize(("thickness", "context"), [(1, 3), (2, 1), (4, 6), (8, 2)])
def test_a_slab_is_drawn_from_slices_that_were_drawn_before(axis: str, start: str, thickness: int, context: int) -> None:
    slabs = config(axis=axis, start=start, thickness=thickness, context=context).order(SHAPE)
    count = SHAPE["RAS".index(axis)]
    assert sorted(slab.number for slab in slabs) == list(range(count // thickness))
    drawn: set[int] = set()
    for slab in slabs:
        assert set(slab.before) <= drawn, slab
        assert len(slab.before) <= context
        nearest = list(slab.before)
        if slab.direction > 0:
            assert nearest == list(range(slab.start - 1, slab.start - 1 - len(nearest), -1))
        elif slab.direction < 0:
            assert nearest == list(range(slab.stop, slab.stop + len(nearest)))
        else:
            assert not nearest
        assert not drawn & set(range(slab.start, slab.stop))
        drawn |= set(range(slab.start, slab.stop))
    assert drawn == set(range(count))
    directions = [slab.direction for slab in slabs]
    assert directions[0] == 0 and 0 not in directions[1:]
    assert (-1 in directions) == (start == "middle" and count > thickness)


def test_the_middle_chain_grows_both_ways_and_never_looks_beyond_the_first_slab() -> None:
    slabs = config(axis="R", thickness=2, context=4).order(SHAPE)
    assert slabs == [
        Slab(2, 4, 6, 0, ()), Slab(3, 6, 8, 1, (5, 4)), Slab(1, 2, 4, -1, (4, 5)), Slab(0, 0, 2, -1, (2, 3, 4, 5)),
    ]  # fmt: skip


def joined(examples: Examples) -> Tensor:
    """Pieces and the channels that are known beside them, side by side."""
    known = examples.given.channels
    return examples.x_BCXYZ if known is None else torch.cat([examples.x_BCXYZ, known], dim=1)


@pytest.mark.parametrize("axis", ["R", "A", "S"])
def test_an_example_is_the_slab_and_its_channels_cut_by_hand(axis: str) -> None:
    one = config(axis=axis, thickness=2, context=3, context_noise=0.2, coarse_levels=2, coarse_noise=0.1)
    place, clean = "RAS".index(axis), volume()
    seen: set[int] = set()
    for key in range(40):
        example = joined(one.cut(VolumeScan(SHAPE, lambda: clean), 7, key))[0]
        # Which slab it is follows from its place channel.
        where = float(example[5].mean())
        slab = min(one.order(SHAPE), key=lambda s: abs((s.start + s.stop) / SHAPE[place] - 1 - where))
        seen.add(slab.number)
        torch.testing.assert_close(example[0], clean.narrow(place, slab.start, 2))
        if slab.before:
            before = torch.stack([clean.select(place, index) for index in slab.before])
            noisy = before + 0.2 * normal(before.shape, 7, "context", key)
            for channel, expected in enumerate(noisy):
                for inside in range(2):
                    torch.testing.assert_close(example[1 + channel].select(place, inside), expected)
        assert not example[1 + len(slab.before) : 4].any()
        assert example[4].unique().tolist() == pytest.approx([len(slab.before) / 3])
        assert example[6].unique().tolist() == [slab.direction]
        means = clean.unfold(0, 4, 4).unfold(1, 4, 4).unfold(2, 4, 4).mean(dim=(3, 4, 5))
        noisy = means + 0.1 * normal(means.shape, 7, "coarse", key)
        fine = interpolate(noisy[None, None], size=SHAPE, mode="trilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(example[7], fine.narrow(place, slab.start, 2), rtol=1e-4, atol=1e-5)
    assert len(seen) > len(one.order(SHAPE)) // 2


def test_generation_conditions_on_what_ends_in_the_volume() -> None:
    one = config(axis="S", thickness=1, context=2, context_noise=0.0, coarse_levels=0)
    assembly = one.fit(lambda: iter(()), [], 0)
    order = iter(one.order(SHAPE))
    made: dict[int, Tensor] = {}

    def draw(indices: Sequence[int], place: Box, given: Sequence[Given]) -> list[Tensor]:
        slab = next(order)
        for channel, index in enumerate(slab.before):
            assert given[0].channels is not None and torch.equal(given[0].channels[0, channel, :, :, 0], made[index])
        piece = 3 * torch.randn(1, *SHAPE[:2], 1, generator=torch.Generator().manual_seed(slab.number))
        made[slab.start] = piece[0, :, :, 0].clamp(-1, 1)
        return [piece]

    (result,) = assembly.generate(draw, SHAPE, 0, [0])
    assert torch.equal(result[0], torch.stack([made[index] for index in range(SHAPE[2])], dim=2))


def test_coarse_views_of_samples_are_drawn_from_the_cohorts_gaussian() -> None:
    one = config(coarse_levels=2, context_noise=0.0, coarse_noise=0.0)
    smooth = torch.linspace(-0.5, 0.5, SHAPE[0]).view(-1, 1, 1).expand(SHAPE)

    def scans() -> Any:
        for seed in range(12):
            yield VolumeScan(SHAPE, lambda seed=seed: (smooth + 0.2 * volume(seed).mean() + 0.05 * volume(seed)).clamp(-1, 1))  # type: ignore[misc]

    assembly = one.fit(scans, [str(seed) for seed in range(12)], 0)
    seen: list[Tensor] = []

    def draw(indices: Sequence[int], place: Box, given: Sequence[Given]) -> list[Tensor]:
        seen.extend(one.channels[0, -1, :, :, 0] for one in given if one.channels is not None)
        return [torch.zeros(1, *SHAPE[:2], 1) for _ in indices]

    assembly.generate(draw, SHAPE, 0, range(5))
    mean = interpolate(smooth[None, None, ::4, ::4, ::4] + 1.5 / 7 / 2, size=SHAPE, mode="trilinear")[0, 0, :, :, 0]
    found = torch.stack(seen).mean(dim=0)
    assert torch.corrcoef(torch.stack([found.flatten(), mean.flatten()]))[0, 1] > 0.95
    assert (seen[0] - seen[1]).abs().max() > 1e-3, "everybody has a view of their own"


@pytest.mark.parametrize(("settings", "message"), [
    ({"thickness": 5}, "thickness 5 does not divide the 24 slices along S"),
    ({"coarse_levels": 4}, "coarse_levels 4 needs edges that are multiples of 16"),
])  # fmt: skip
def test_volumes_that_slabs_do_not_tile_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**settings).piece(SHAPE)
