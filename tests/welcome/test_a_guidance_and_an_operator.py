"""A guidance is one file, and so is an operator: they are found, offered, and what they do is seen in the volumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

GUIDANCE = '''"""A toy: the volume is grey, whatever the denoiser says."""

from __future__ import annotations

from typing import Literal

import torch

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import Guidance


class Grey(Guidance):
    def __init__(self, level: float) -> None:
        self.level = level

    def guide(self, denoise, problem, noises):
        return lambda y, sigma, given=None: torch.full_like(denoise(y, sigma), self.level)


class Config(BaseConfig):
    """Grey."""

    kind: Literal["toy"] = "toy"
    level: float = 0.0
    """From -1 to 1."""

    def build(self) -> Grey:
        return Grey(self.level)
'''

OPERATOR = '''"""A toy: an instrument that sees every other slice, and sees it twice as bright."""

from __future__ import annotations

import math
from typing import Literal

import torch

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import Operator


class Every(Operator):
    def __init__(self, step: int) -> None:
        self.step = step

    def apply(self, x):
        return 2 * x[..., :: self.step]

    def adjoint(self, data):
        x = data.new_zeros(*data.shape[:-1], self.step * data.shape[-1])
        x[..., :: self.step] = 2 * data
        return x

    def closed(self, gamma):
        def solve(z, data):
            x = z.clone()
            seen = z[..., :: self.step]
            x[..., :: self.step] = data / 2 if math.isinf(gamma) else (seen + 2 * gamma * data) / (1 + 4 * gamma)
            return x

        return solve


class Config(BaseConfig):
    """Every other slice."""

    kind: Literal["toy"] = "toy"
    step: int = 2
    """Slices from one that is seen to the next."""

    def build(self, shape, device) -> Every:
        return Every(self.step)
'''


def voxels(folder: Path) -> np.ndarray:  # type: ignore[type-arg]
    (path,) = folder.rglob("sub-*.nii.gz")
    return nib.load(path).get_fdata()  # type: ignore[no-any-return]


def test_a_guidance_is_one_file(house: Callable[[], Any], unpacked_0_1_0: Path) -> None:
    newcomer = house()
    newcomer.add("sampling/guidances/toy.py", GUIDANCE)
    run = unpacked_0_1_0 / "runs/finished"
    newcomer.run("sample", run, "--out", "grey", "--count", "1", "--guidance", "toy", "--guidance.level", "-0.5")
    volume = voxels(newcomer.folder / "grey")
    assert np.ptp(volume) < 1e-3 * abs(volume.mean()) and volume.mean() > 0
    assert "toy" in newcomer.run("sample", "--help")


def test_an_operator_is_one_file(house: Callable[[], Any], unpacked_0_1_0: Path) -> None:
    newcomer = house()
    newcomer.add("operators/toy.py", OPERATOR)
    run = unpacked_0_1_0 / "runs/finished"
    newcomer.run("sample", run, "--out", "scan", "--count", "1")
    (scan,) = (newcomer.folder / "scan").rglob("sub-*.nii.gz")
    words = ("--guidance", "projection", "--operator", "toy", "--operator.step", "4", "--data", scan, "--seed", "7")
    newcomer.run("sample", run, "--out", "out", "--count", "1", *words)
    truth, found = voxels(newcomer.folder / "scan"), voxels(newcomer.folder / "out")
    np.testing.assert_allclose(found[:, :, ::4], truth[:, :, ::4], atol=1e-4 * np.ptp(truth))
    assert np.abs(found - truth)[:, :, 2::4].max() > 0.01 * np.ptp(truth)
