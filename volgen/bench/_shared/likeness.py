"""How like the truth volumes are that a row of a benchmark made of a measurement, how they spread, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from volgen.bench._shared.record import mean_of
from volgen.bench._shared.scene import Made, Scene
from volgen.evaluation import posterior
from volgen.evaluation.mask import head_mask
from volgen.images.intensity import from_model


def truth_of(scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The head that was measured, [X, Y, Z] in [0, 1], and where it is."""
    truth = scene.head.truth
    assert truth is not None, "simulated measurements have a truth"
    return truth, head_mask(truth)


def unit_of(scene: Scene, x_CXYZ: Tensor) -> NDArray[np.float32]:
    """[X, Y, Z] in [0, 1] of what was drawn."""
    unit: NDArray[np.float32] = from_model(scene.trained.geometry.whole(x_CXYZ[0].float().cpu())).numpy()
    return unit


def figures(method: Callable[[Scene], Made], scene: Scene) -> dict[str, Any]:
    """What is told of one row, one person and one acceleration."""
    begun = time.process_time()
    drawn: Made = method(scene)
    seconds = (time.process_time() - begun) / max(len(drawn.samples) + (drawn.estimate is not None), 1)
    truth, mask = truth_of(scene)
    units = [unit_of(scene, sample) for sample in drawn.samples]
    estimate = np.mean(units, axis=0) if drawn.estimate is None else unit_of(scene, drawn.estimate)
    found: dict[str, Any] = {"CPU time": seconds}
    like = posterior.likeness(estimate, truth, mask)
    found |= {"PSNR": like["psnr_head"], "SSIM": like["ssim_head"]}
    if len(units) > 1:
        each = [posterior.likeness(unit, truth, mask) for unit in units]
        found |= {"sample PSNR": mean_of([one["psnr_head"] for one in each]), "sample SSIM": mean_of([one["ssim_head"] for one in each])}
        counted = posterior.tallied(np.stack([unit[mask] for unit in units]), truth[mask], scene.seed)
        found["coverage of 90 %"] = counted.told()["coverage"]["0.9"]
        chi_squares = [scene.head.seen.chi_square(sample[None].to(scene.device)) for sample in drawn.samples]
        known = [one for one in chi_squares if one is not None]
        found["chi-square"] = float(np.median(known)) if known else None
    return found
