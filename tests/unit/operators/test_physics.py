"""What instruments measure, against NumPy, scikit-image and loops that are written down here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.transform import radon as skimage_radon
from torch import Tensor

from volgen.acquisition.kspace import from_kspace
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.registry import config_class
from volgen.images.box import BoxConfig
from volgen.operators.cartesian import Cartesian

SHAPE = (8, 12, 10)
CPU = torch.device("cpu")


def build(kind: str, shape: tuple[int, int, int] = SHAPE, **settings: Any) -> Any:
    config: Any = validate(config_class("volgen.operators", kind), {"kind": kind, **settings}, kind)
    return config.build(shape, CPU)


def volume(shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("readout", "axis"), [("R", 0), ("A", 1), ("S", 2)])
def test_k_space_is_that_of_numpy(readout: Any, axis: int) -> None:
    shape = (6, 9, 7)  # odd edges too
    x, maps = volume(shape), torch.randn(2, *shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    others = [place for place in range(3) if place != axis]
    mask = torch.rand([shape[place] for place in others], generator=torch.Generator().manual_seed(2)) < 0.5
    found = Cartesian(mask, maps, readout).apply(x)[0].numpy()
    for coil in range(2):
        image = (x[0, 0] * maps[coil]).numpy()
        kspace = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(image), norm="ortho"))
        hybrid = from_kspace(torch.from_numpy(kspace), (axis,)).numpy()
        np.testing.assert_allclose(found[coil], np.moveaxis(hybrid, axis, 0)[:, mask.numpy()], atol=2e-6)
    one = Cartesian(mask, None, readout).apply(x)[0, 0].numpy()
    kspace = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(x[0, 0].numpy()), axes=others, norm="ortho"), axes=others)
    centred = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(x[0, 0].numpy(), axes=others), axes=others, norm="ortho"), axes=others)
    np.testing.assert_allclose(one, np.moveaxis(centred, axis, 0)[:, mask.numpy()], atol=2e-6)
    assert kspace.shape == centred.shape


def test_parts_of_the_readout_are_computed_as_the_whole_is(monkeypatch: pytest.MonkeyPatch) -> None:
    operator, x = build("cartesian", coils=3, phase=0.4), volume()
    whole = operator.apply(x)
    back = operator.adjoint(whole)
    monkeypatch.setattr("volgen.operators.cartesian.AT_ONCE", 3 * 3 * 8 * 12)
    torch.testing.assert_close(operator.apply(x), whole)
    torch.testing.assert_close(operator.adjoint(whole), back)


def test_all_of_k_space_gives_the_volume_back() -> None:
    x = volume()
    for settings in ({}, {"coils": 4, "phase": 1.0}):
        operator = build("cartesian", mask={"kind": "full"}, **settings)
        torch.testing.assert_close(operator.adjoint(operator.apply(x)), x, rtol=1e-5, atol=1e-5)


def test_maps_are_read_from_a_file(tmp_path: Path) -> None:
    maps = torch.randn(3, *SHAPE, dtype=torch.complex64)
    np.save(tmp_path / "maps.npy", maps.numpy())
    x = volume()
    config: Any = config_class("volgen.operators", "cartesian")(maps=tmp_path / "maps.npy")
    torch.testing.assert_close(config.build(SHAPE, CPU).apply(x), Cartesian(config.mask.draw((8, 12)), maps).apply(x))
    np.save(tmp_path / "real.npy", np.ones((3, *SHAPE)))
    (tmp_path / "text.npy").write_text("maps")
    np.save(tmp_path / "nan.npy", np.full((1, *SHAPE), np.nan + 0j))
    for name, words in (("real", "complex"), ("text", "cannot be read"), ("gone", "cannot be read"), ("nan", "NaN")):
        with pytest.raises(UserError, match=words):
            build("cartesian", maps=tmp_path / f"{name}.npy")


def test_box_slices_are_means_and_gaps_are_not_seen() -> None:
    x = volume((8, 12, 11))
    found = build("slices", (8, 12, 11), thickness=3.0, gap=1.0, first=1.0)
    expected = torch.stack([x[..., start : start + 3].mean(-1) for start in (1, 5)], dim=-1)
    torch.testing.assert_close(found.apply(x), expected)
    part = build("slices", (8, 12, 11), thickness=2.5, axis="R", first=0.25).apply(x)
    weights = torch.zeros(3, 8)
    for number in range(3):
        for voxel in range(8):  # the share of the voxel that lies in the slice
            low, high = 0.25 + 2.5 * number, 0.25 + 2.5 * (number + 1)
            weights[number, voxel] = max(0.0, min(high, voxel + 1) - max(low, voxel)) / 2.5
    torch.testing.assert_close(part, torch.einsum("sr,bcray->bcsay", weights, x))
    assert build("slices", (8, 12, 11), thickness=2.0, axis="R").apply(x).shape == (1, 1, 4, 12, 11)


def test_gaussian_slices_have_their_width() -> None:
    rows = config_class("volgen.operators", "slices")(profile="gaussian", thickness=6.0, first=30.0).profiles(66)  # type: ignore[attr-defined]
    row, places = rows[0], torch.arange(66) + 0.5
    assert float((row * places).sum()) == pytest.approx(33.0, abs=1e-6)
    assert float((row * (places - 33.0) ** 2).sum()) == pytest.approx(36 / (8 * math.log(2)) + 1 / 12, rel=1e-4)
    torch.testing.assert_close(rows.sum(1), torch.ones(len(rows), dtype=torch.float64))


def test_slices_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="fits into 10 voxels"):
        build("slices", thickness=11.0)
    with pytest.raises(UserError, match="one after the other"):
        build("slices", thickness=2.0, gap=-2.0)


@pytest.mark.parametrize("width", [1.5, 3.0])
def test_blur_is_a_gaussian_of_its_width(width: float) -> None:
    dot = torch.zeros(1, 1, 21, 21, 21)
    dot[..., 10, 10, 10] = 1.0
    found = build("blur", (21, 21, 21), width=[width, 0.0, 0.0]).apply(dot)[0, 0, :, 10, 10]
    sd = width / math.sqrt(8 * math.log(2))
    expected = ndimage.gaussian_filter1d(np.eye(21)[10], sd, truncate=8.0)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    torch.testing.assert_close(build("blur", width=width).apply(torch.ones(1, 1, *SHAPE)), torch.ones(1, 1, *SHAPE))


@pytest.mark.parametrize(("axis", "number"), [("R", 0), ("S", 2)])
def test_rays_are_those_of_scikit_image(axis: str, number: int) -> None:
    shape = (47, 47, 47)  # odd, so that both turn around the middle
    x = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(shape), 3.0).astype(np.float32))
    axes = torch.meshgrid(*[torch.linspace(-1, 1, 47)] * 3, indexing="ij")
    x = x * (1 - sum(place**2 for place in axes)).clamp_min(0)
    found = build("radon", shape, axis=axis, views=9, arc=120.0, start=-20.0).apply(x[None, None])[0, :, :, 20].numpy() * 47
    margin = (found.shape[1] - 47) // 2
    angles = [-20.0 + 120.0 * view / 9 for view in range(9)]
    image = x.movedim(number, 2)[:, :, 20].numpy().T  # scikit-image sums along the first axis at 0 degrees, we along the second
    errors = [np.abs(found[:, margin : margin + 47].T - skimage_radon(image, [sign * angle for angle in angles])).max() for sign in (1, -1)]
    assert min(errors) < 0.02 * np.abs(found).max() < 0.2 * max(errors), "one sense of rotation is right, and the other is not"


def test_a_ray_along_an_axis_is_a_mean_and_mass_is_kept() -> None:
    x = volume((9, 9, 4)).abs()
    found = build("radon", (9, 9, 4), views=2).apply(x)[0]  # 0 and 90 degrees
    middle = (found.shape[1] - 9) // 2
    torch.testing.assert_close(found[0, middle : middle + 9], x[0, 0].mean(1))
    torch.testing.assert_close(found[1, middle : middle + 9], x[0, 0].mean(0))
    views = build("radon", (9, 9, 4), views=12).apply(x)[0]
    assert float((views.sum(1) / found[:1].sum(1) - 1).abs().max()) < 0.15, "what a view sees in all is what is there"


def test_missing_slices_and_a_hole() -> None:
    ones = torch.ones(1, 1, *SHAPE)
    scattered = build("inpaint", axis="A", share=0.75, scattered=True, seed=1)
    kept = scattered.apply(ones)[0, 0, 0, :, 0]
    assert kept.sum() == 9 and not torch.equal(kept, kept.sort(descending=True).values)
    assert torch.equal(scattered.apply(ones)[0, 0, 3, :, 7], kept)
    hole = build("inpaint", hole={"start": [1, 2, 3], "size": [4, 5, 6]}).apply(ones)
    assert hole.sum() == ones.numel() - 120
    assert BoxConfig(start=(1, 2, 3), size=(4, 5, 6)).crop(hole).sum() == 0
    with pytest.raises(UserError, match="a box in"):
        build("inpaint", hole={"start": [5, 2, 3], "size": [4, 5, 6]})


def test_shading_is_positive_smooth_and_of_its_strength() -> None:
    field = build("bias", strength=0.3).apply(torch.ones(1, 1, *SHAPE))
    assert float(field.log().std()) == pytest.approx(0.3, rel=0.01) and field.min() > 0


def test_one_instrument_after_the_other() -> None:
    x = volume()
    both = build("composed", parts=[{"kind": "slices", "thickness": 2.0}, {"kind": "cartesian", "coils": 2, "readout": "R"}])
    slices, kspace = build("slices", thickness=2.0), build("cartesian", (8, 12, 5), coils=2, readout="R")
    assert torch.equal(both.apply(x), kspace.apply(slices.apply(x)))
    for parts, words in (
        ([], "is empty"),
        ([{"kind": "cartesian"}, {"kind": "bias"}], "makes no volumes"),
        ([{"kind": "radon"}, {"kind": "bias"}], "makes no volumes"),
        ([{"kind": "blurr"}], "no operator 'blurr'"),
        ([{"kind": "blur", "widht": 3}], "widht"),
    ):
        with pytest.raises(UserError, match=words):
            build("composed", parts=parts)
