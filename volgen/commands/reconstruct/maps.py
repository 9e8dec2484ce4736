"""What the samples of a head say together: mean, spread, percentiles, what is left of the data, and the truth where it is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from volgen.commands.reconstruct.target import Head
from volgen.evaluation import posterior
from volgen.evaluation.mask import head_mask
from volgen.images.intensity import to_model
from volgen.reporting import reconstruction_page
from volgen.reporting.reconstruction_page import Shown
from volgen.runs.observed import Observation

PERCENTILES = (5, 50, 95)
SLAB = 2**24
"""Numbers of which percentiles are taken at a time."""


@dataclass(frozen=True)
class Summary:
    """What is told of a head.

    Attributes:
        told: its entry in ``reconstruction.json``.
        counted: how the truth lies among the samples, if it is known and there are several.
    """

    told: dict[str, Any]
    counted: posterior.Counted | None


def summarise_head(head: Head, seen: Observation, count: int, truth: NDArray[np.float32] | None) -> Summary:
    """Writes the maps and pictures of a head whose samples are all there.

    Args:
        head: the head.
        seen: what was measured.
        count: samples.
        truth: the scan that was measured, [X, Y, Z] in [0, 1]; None if nobody knows it.
    """
    samples = np.stack([head.unit(seen, index) for index in range(count)])
    mean = samples.mean(axis=0, dtype=np.float64).astype(np.float32)
    spread = samples.std(axis=0, ddof=1, dtype=np.float64).astype(np.float32) if count > 1 else np.zeros_like(mean)
    residual = _residual(head, seen, mean)
    maps = {
        "mean": Shown(mean, "Mean", f"Mean of {count} samples: the most likely value of each voxel, smoother than any head.", "level"),
        "std": Shown(spread, "Standard deviation", "How far samples differ: what is not known.", "above"),
    }
    for percent, plane in zip(PERCENTILES, _percentiles(samples), strict=True):
        text = f"{percent} % of the samples are below this value."
        maps[f"p{percent:02d}"] = Shown(plane, f"{percent}th percentile", text, "level")
    left = "What of the data the mean does not explain, taken back to voxels: noise where all is well, a head where it is not."
    maps["residual"] = Shown(residual, "Residual", left, "signed")
    told: dict[str, Any] = {"name": f"sub-{head.label}", "samples": count, "placed": seen.field.placed, "truth": None, "calibration": None}
    counted: posterior.Counted | None = None
    if truth is not None:
        error = mean - truth
        maps["truth"] = Shown(truth, "Truth", "The scan that was measured.", "level")
        far = "How far the mean is from the truth: to be compared with the standard deviation."
        maps["error"] = Shown(np.abs(error), "Error", far, "above")
        mask = head_mask(truth)
        told["truth"] = {"mean": posterior.likeness(mean, truth, mask), "sample": posterior.likeness(samples[0], truth, mask)}
        if count > 1 and mask.any():
            counted = posterior.tallied(samples[:, mask], truth[mask], head.target.seed)
            told["calibration"] = counted.told()
            told["calibration"]["correlation"] = posterior.likeness_of_maps(spread[mask], error[mask])
    chi_squares, distances = head.agreement(count)
    told["chi_squares"], told["distances"], told["noise"] = chi_squares, distances, seen.measurement.noise
    told["chi_square"] = float(np.median(chi_squares)) if chi_squares else None
    told["middle"] = reconstruction_page.middle_of(head.target.run.geometry.shape)
    told["disagreement"] = posterior.disagreement(chi_squares) if chi_squares else ""
    for name, shown in maps.items():
        head.write_map(name, shown.unit_XYZ, seen, text=shown.text, level=shown.scale == "level")
    pictures = {**maps, "sample": Shown(samples[0], "One sample", "One of the heads that may have been measured.", "level")}
    told["maps"] = reconstruction_page.write_pictures(head.target.out, f"sub-{head.label}", pictures, head.target.run.geometry.voxel_size)
    return Summary(told, counted)


def _percentiles(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """[P, X, Y, Z] of [N, X, Y, Z], slab by slab: all at once would take as much memory again, and more."""
    slabs = max(1, math.ceil(samples.size / SLAB))
    parts = [np.percentile(slab, PERCENTILES, axis=0) for slab in np.array_split(samples, min(slabs, samples.shape[1]), axis=1)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _residual(head: Head, seen: Observation, mean: NDArray[np.float32]) -> NDArray[np.float32]:
    geometry = head.target.run.geometry
    device = seen.measurement.data.device
    drawn = geometry.place.crop(to_model(torch.from_numpy(mean)[None, None])).to(device)
    with torch.no_grad():
        left = seen.residual(drawn).real.cpu()
    return (geometry.place.pad(left, geometry.shape, 0.0)[0, 0] / 2).numpy()
