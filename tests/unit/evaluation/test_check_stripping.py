"""Whole heads and stripped brains are told apart, and a report warns when the two are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from volgen.commands.report.reference import Against, mismatches
from volgen.evaluation.check import CheckResult, Metric
from volgen.evaluation.measure import Measures, seen
from volgen.evaluation.reference import Reference
from volgen.evaluation.stripping import SKULL, skull_sign
from volgen.images import nifti

SIZE = (2.4, 2.4, 2.4)


def with_skull(unit: NDArray[np.float32], mask: NDArray[np.bool_], *, neck: bool) -> NDArray[np.float32]:
    """The brain in fluid, bone and scalp, on a larger grid; with a neck, soft tissue leads from the brain to the scalp."""
    brain, inside = np.pad(unit, 10), np.pad(mask, 10)
    away = ndimage.distance_transform_edt(~inside, sampling=SIZE)
    head = np.where(inside, brain, 0.0)
    for nearest, farthest, level in ((0, 2.5, 0.15), (2.5, 9, 0.08), (9, 15, 0.8)):
        head[(away > nearest) & (away <= farthest)] = level
    if neck:
        below = np.arange(head.shape[2]) < 24
        head[(away > 0) & (away <= 9) & below] = 0.5
    return (head + np.random.default_rng(0).normal(0, 0.02, head.shape)).clip(0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def people(cohort: Path) -> list[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    return [seen(nifti.read(path).voxels) for path in sorted(cohort.rglob("*_T1w.nii.gz"))[::12]]


def test_stripped_brains_show_no_skull(people: list) -> None:
    assert len(people) >= 5
    assert max(skull_sign(unit, mask, SIZE) for unit, mask in people) < SKULL / 2


@pytest.mark.parametrize("neck", [False, True])
def test_whole_heads_do(people: list, neck: bool) -> None:
    heads = [seen(with_skull(unit, mask, neck=neck)) for unit, mask in people]
    assert min(skull_sign(unit, mask, SIZE) for unit, mask in heads) > 2 * SKULL


def test_brightness_and_noise_do_not_make_a_skull(people: list) -> None:
    unit, mask = people[0]
    noise = np.random.default_rng(0).normal(0, 0.03, unit.shape)
    slope = np.linspace(0.6, 1.0, unit.shape[1])[None, :, None]
    assert skull_sign(*seen((unit * slope + noise).astype(np.float32)), SIZE) < SKULL / 2
    assert skull_sign(unit, np.zeros_like(mask), SIZE) == 0.0


class _Numbers:
    kind = "numbers"
    metrics = (Metric("a", "a", "low", "high"),)

    def relate(self, values: dict, means: dict) -> dict:
        return dict(values)


def bands(litres: float, skulls: int, people: int = 12) -> Reference:
    real = [
        Measures({"numbers": CheckResult({"a": (float(i),) * 3})}, (None,) * 3, None, 0.0, (), (), (), litres=litres,
                    skull=0.6 if i < skulls else 0.0)
        for i in range(people)
    ]  # fmt: skip
    return Reference.fit(real, [_Numbers()], (1.0, 1.0, 1.0), (8, 8, 8))  # type: ignore[list-item]


def volumes(litres: float, skull: float, shape: tuple[int, int, int] = (8, 8, 8)) -> list[dict[str, Any]]:
    return [{"shape": list(shape), "head": {"litres": litres, "skull": skull}}] * 4


@pytest.mark.parametrize(
    ("reference", "ours", "words"),
    [
        (bands(1.4, 0), volumes(1.3, 0.0), []),
        (bands(4.0, 12), volumes(3.9, 0.7), []),
        (bands(1.4, 0), volumes(3.9, 0.7), ["4 of 4 volumes show a skull", "12 of 12 of the reference show none"]),
        (bands(4.0, 12), volumes(1.3, 0.0), ["4 of 4 volumes show none", "12 of 12 of the reference show a skull"]),
        (bands(1.4, 0), volumes(0.7, 0.0), ["0.70 l in the median volume, 1.40 l in the reference"]),
        (bands(1.4, 0), volumes(1.4, 0.0, (9, 8, 8)), ["9 x 8 x 8 voxels, the reference 8 x 8 x 8"]),
    ],
    ids=["alike", "alike-heads", "heads-against-brains", "brains-against-heads", "half-a-head", "grid"],
)
def test_a_report_warns_of_what_makes_its_verdicts_void(reference: Reference, ours: list, words: list[str]) -> None:
    found = mismatches(ours, reference)
    assert len(found) == bool(words)
    assert all(part in found[0] for part in words)


def test_a_reference_of_both_kinds_and_one_that_does_not_say_are_warned_of(tmp_path: Path) -> None:
    against = Against(tmp_path / "bands.json", "", None, "all")

    def warned(skulls: int) -> list[str]:
        # Of one check of numbers alone, as these bands are, a report says that they are older.
        return [text for text in against.about(bands(2.0, skulls))["warnings"] if "of an earlier volgen" not in text]

    (warning,) = warned(4)
    assert "mixes whole heads (4 of 12)" in warning
    assert warned(1) == []
    content = {key: value for key, value in vars(bands(2.0, 0)).items() if key != "head"}
    assert "make them again" in mismatches(volumes(1.4, 0.0), Reference(**content))[0]
