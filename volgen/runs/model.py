"""A finished run as one denoiser, for loops that are not volgen's own: what ``volgen.load`` gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Shape3
from volgen.data import derivative
from volgen.images import nifti
from volgen.models.condition import asked_for
from volgen.parallel.device import usable_device
from volgen.runs.conditions import conditions_of
from volgen.runs.trained import open_run
from volgen.sampling.descent import white


class Model:
    """A run's experts as a single :class:`~volgen.core.protocols.Denoiser`; each is read when its noise level is first asked for.

    ``y = x0 + sigma z`` with z standard normal; ``model(y, sigma)`` is E[x0 | y]. Volumes are [B, 1, X, Y, Z] in RAS+ and, where they are
    clean, in [-1, 1].

    Attributes:
        name: name of the run.
        directory: where the run is.
        device: where the networks compute; what they are given may be anywhere, and what they give is there.
        shape: voxels along X, Y, Z of what is denoised at once.
        grid: the run's noise levels, descending; those of a sampler with all steps.
        sigma_min: the lowest noise level of the grid.
        sigma_max: the highest noise level that there is an expert for.
        voxel_size: edges of a voxel in mm.
        affine: 4 x 4, voxel indices of these -> RAS+ mm.
        config: the run's whole configuration, as its ``config.yaml`` has it.
        fingerprint: SHA-256 of everything that decides what the model computes.
        privacy: one sentence on what the run promises the people it was trained on.
    """

    def __init__(self, run: Path, *, device: str | None = None, capacity: int = 2) -> None:
        """Opens a run; no weights are read yet.

        Args:
            run: directory that ``volgen train`` finished, or ``volgen release`` made; or ``pretrained:NAME``.
            device: torch device; a GPU if there is one, if None.
            capacity: experts in memory at once.

        Raises:
            UserError: the run is not finished or damaged, there is no such device, or ``capacity`` is below 1.
        """
        if capacity < 1:
            raise UserError("capacity", str(capacity), "at least 1")
        self.device = usable_device(device)
        found = open_run(run)
        self.name, self.directory = found.recipe.name, found.directory
        self.shape: Shape3 = found.piece
        self.grid: tuple[float, ...] = tuple(found.ensemble.grid)
        self.sigma_min, self.sigma_max = min(self.grid), found.ensemble.sigma_max
        self.voxel_size: tuple[float, float, float] = found.geometry.voxel_size
        self.affine: NDArray[np.float64] = found.geometry.grid_affine
        self.config: dict[str, Any] = found.recipe.model_dump(mode="json")
        self.fingerprint, self.privacy = found.fingerprint, found.privacy
        self._geometry, self._conditions = found.geometry, conditions_of(found)[0]
        self._preconditioner, self._space = found.preconditioner(self.device), found.space(self.device)
        self._bank = found.bank(self._preconditioner, self.device, self.grid, capacity)

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor | float, given: Given | Mapping[str, Any] = NOTHING) -> Tensor:
        """The expected clean volumes x0_BCXYZ, float32, on ``device``; a graph is kept if ``y_BCXYZ`` requires a gradient.

        Args:
            y_BCXYZ: noisy volumes.
            sigma_B: noise level of each, or one of all; positive, up to ``sigma_max``.
            given: what is known beside each volume; or what all of them are asked to be, such as ``{"age": 70}``, if the run was trained
                with such conditions.

        Raises:
            UserError: a weight file is damaged, or the run has no such condition.
            ValueError: volumes of another shape, or a noise level that no expert was trained for.
        """
        if y_BCXYZ.ndim != 5 or tuple(y_BCXYZ.shape[1:]) != (1, *self.shape):
            raise ValueError(f"noisy volumes of shape {list(y_BCXYZ.shape)}; expected [B, 1, {', '.join(map(str, self.shape))}]")
        levels = torch.as_tensor(sigma_B, dtype=torch.float32).to(self.device)
        if not bool(((levels > 0.0) & levels.isfinite()).all()):
            raise ValueError(f"noise levels {levels.tolist()}; expected positive ones up to {self.sigma_max:g}")
        y = y_BCXYZ.to(self.device, torch.float32)
        return self._bank(y, levels.expand(len(y)), self._asked(given, len(y)))

    def noise(self, seed: int = 0, index: int = 0) -> Tensor:
        """The standard normal noise [1, 1, X, Y, Z] that volume ``index`` of a seed begins from, as ``volgen.sample`` draws it."""
        return white((1, *self.shape), seed, "start", index)[None].to(self.device)

    def prior(self, noise_BCXYZ: Tensor, given: Given | Mapping[str, Any] = NOTHING) -> Tensor:
        """Samples of the noisiest marginal, at ``grid[0]``, from standard normal noise: what a sampler begins with.

        Args:
            noise_BCXYZ: standard normal noise.
            given: what volumes are asked to be, as in a call.

        Raises:
            UserError: there is no such condition, or no such value of it.
        """
        told = self._asked(given, len(noise_BCXYZ))
        return self._preconditioner.told(told).prior(noise_BCXYZ.to(self.device), self.grid[0])

    def _asked(self, given: Given | Mapping[str, Any], count: int) -> Given:
        """What a batch is told, on the device."""
        if not isinstance(given, Given):
            given = asked_for(self._conditions, {name: str(value) for name, value in given.items()})[[0] * count]
        return given.to(self.device)

    def image(self, x_BCXYZ: Tensor) -> nifti.Image:
        """One volume [X, Y, Z], with axes of length 1 in front or not, as an image in RAS+, mm and the cohort's intensity units.

        Of a run that computes in a box, the image has the background around it too.

        Raises:
            ValueError: it is not one volume.
        """
        if x_BCXYZ.ndim < 3 or x_BCXYZ.numel() != x_BCXYZ.shape[-3:].numel():
            raise ValueError(f"{list(x_BCXYZ.shape)} is not one volume")
        with torch.no_grad():
            decoded = self._space.decode(x_BCXYZ.detach().reshape(1, 1, *x_BCXYZ.shape[-3:]).float())
        x_XYZ = decoded[0, 0].cpu()
        return nifti.to_image(self._geometry.volume(x_XYZ), derivative.description(derivative.NOBODY))

    def close(self) -> None:
        """Ends the thread that reads weights; the model cannot be used any more."""
        self._bank.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        size = " x ".join(f"{edge:g}" for edge in self.voxel_size)
        return f"Model({self.name}: {len(self.grid)} noise levels, {' x '.join(map(str, self.shape))} voxels of {size} mm, {self.device})"
