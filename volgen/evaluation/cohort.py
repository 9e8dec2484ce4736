"""How good a set of generated volumes is as a whole, against real ones on the same grid.

A single volume can pass every check while the cohort is wrong: all volumes alike, or copies of training subjects, or all too large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volgen.evaluation.frechet_ratio import frechet_ratio, plane_ratios
from volgen.evaluation.mask import dilated, head_mask
from volgen.evaluation.ms_ssim import Pyramid, mean_over_pairs, ms_ssim, pyramid
from volgen.evaluation.scan import Scan
from volgen.evaluation.spectrum import high_frequency_energy

AXES = "RAS"
MARGIN_MM = 4.0
NEAREST_CANDIDATES = 3
Unit = NDArray[np.float32]

BACKGROUND_LIMIT = 0.01
VOLUME_SDS = 3.0
MS_SSIM_DIFFERENCE = 0.08
HIGH_FREQUENCY_BAND = (0.7, 1.4)


def cohort_quality(
    generated: Sequence[Unit], real_validation: Sequence[Unit], real_train: Sequence[Unit], voxel_size: float | tuple[float, float, float]
) -> dict[str, Any]:
    """Measures a generated cohort.

    Args:
        generated: volumes [X, Y, Z] in [0, 1], RAS+; at least one.
        real_validation: people that the model has not seen; at least two.
        real_train: people that it was trained on; at least two.
        voxel_size: mm.

    Returns:
        JSON-able measures, each for generated and for real volumes, and ``"targets"``: a list of ``{"name", "label", "value",
        "band": [low, high], "pass"}`` with None for an open end. A measure that needs more volumes than there are is None.

        * ``background``: mean value outside the union of all training heads, dilated by 4 mm. Target: below 0.01.
        * ``volume_ml``: mean size of the head mask; ``z`` is that in standard deviations of real people. Target: within 3.
        * ``ms_ssim``: mean over pairs of generated volumes, and over pairs of real ones; higher is less diverse. Target: within 0.08.
        * ``high_frequency``: energy above a quarter cycle per voxel over that of real volumes. Target: 0.7 to 1.4.
        * ``nearest_training``: likeness to the training subject most like the volume (correlation inside the union of the heads;
          MS-SSIM to the best of the 3 most correlated ones). Target: the mean is at most one sd above that of unseen real people.
        * ``frechet``: distance to the validation people in 24 principal components of the training people; ``floor`` is that of equally
          many training people whom the components have not seen, ``ratio`` the generated one over it (means over 5 draws).
        * ``frechet_planes``: the same over single slices, 9 along each axis, per axis; ``gap`` is the largest ratio over the smallest:
          volumes that were stacked from slices look right across one axis only.
    """
    size = (voxel_size,) * 3 if isinstance(voxel_size, (int, float)) else voxel_size
    masks = {name: [head_mask(v) for v in group] for name, group in (("g", generated), ("v", real_validation), ("t", real_train))}
    union = np.logical_or.reduce(masks["t"])
    outside = ~dilated(union, size, MARGIN_MM)
    real, real_masks = [*real_validation, *real_train], [*masks["v"], *masks["t"]]

    pyramids = {name: [pyramid(v) for v in group] for name, group in (("g", generated), ("v", real_validation), ("t", real_train))}
    high = {name: _high_frequency(group, mask) for name, group, mask in (("g", generated, masks["g"]), ("r", real, real_masks))}
    ratio = {axis: high["g"][i] / max(high["r"][i], 1e-12) for i, axis in enumerate(AXES)}
    volumes, volumes_real = (_millilitres(m, size) for m in (masks["g"], real_masks))
    deviation = float(volumes_real.std(ddof=1))
    near = _nearest(generated, real_train, union, pyramids["g"], pyramids["t"])
    near_real = _nearest(real_validation, real_train, union, pyramids["v"], pyramids["t"])
    alike, alike_real = mean_over_pairs(pyramids["g"]), mean_over_pairs(pyramids["v"])

    result: dict[str, Any] = {
        "count": {"generated": len(generated), "real_validation": len(real_validation), "real_train": len(real_train)},
        "background": {
            "generated": _mean_in(generated, outside), "generated_max": max((_mean_in([v], outside) for v in generated), default=0.0),
            "real": _mean_in(real_validation, outside), "margin_mm": MARGIN_MM,
        },
        "volume_ml": {
            "generated": float(volumes.mean()), "generated_sd": _sd(volumes), "real": float(volumes_real.mean()), "real_sd": deviation,
            "z": float((volumes.mean() - volumes_real.mean()) / max(deviation, 1e-9)),
        },
        "ms_ssim": {
            "generated": alike, "real": alike_real, "scales": len(pyramids["t"][0].levels),
            "difference": None if alike is None or alike_real is None else alike - alike_real,
        },
        "high_frequency": {"ratio": float(np.mean(list(ratio.values()))), "ratio_per_axis": ratio},
        "nearest_training": {"generated": near, "real": near_real},
        "frechet": frechet_ratio(*(_rows(group) for group in (generated, real_validation, real_train))),
        "frechet_planes": plane_ratios(generated, real_validation, real_train, union),
    }  # fmt: skip
    result["targets"] = _targets(result)
    return result


def _targets(measured: dict[str, Any]) -> list[dict[str, Any]]:
    low, high = HIGH_FREQUENCY_BAND
    nearest, reference = measured["nearest_training"]["generated"], measured["nearest_training"]["real"]
    rows: list[tuple[str, str, float | None, float | None, float | None]] = [
        ("background", "Background level, share of the range", measured["background"]["generated"], None, BACKGROUND_LIMIT),
        ("volume z", "Size of the head, sd from the real mean", measured["volume_ml"]["z"], -VOLUME_SDS, VOLUME_SDS),
        ("MS-SSIM difference", "Likeness of volumes to each other (MS-SSIM), minus real", measured["ms_ssim"]["difference"],
         -MS_SSIM_DIFFERENCE, MS_SSIM_DIFFERENCE),
        ("high-frequency ratio", "Fine detail, ratio to real", measured["high_frequency"]["ratio"], low, high),
        ("nearest training: correlation", "Likeness to the nearest training person (correlation)", nearest["correlation"],
         None, reference["correlation"] + reference["correlation_sd"]),
        ("nearest training: MS-SSIM", "Likeness to the nearest training person (MS-SSIM)", nearest["ms_ssim"],
         None, reference["ms_ssim"] + reference["ms_ssim_sd"]),
    ]  # fmt: skip
    return [
        {
            "name": name, "label": label, "value": value, "band": [start, end],
            "pass": None if value is None else (start is None or value >= start) and (end is None or value <= end),
        }
        for name, label, value, start, end in rows
    ]  # fmt: skip


def _mean_in(volumes: Sequence[Unit], mask: NDArray[np.bool_]) -> float:
    return float(np.mean([v[mask].mean(dtype=np.float64) for v in volumes])) if mask.any() else 0.0


def _sd(values: NDArray[np.float64]) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _millilitres(masks: Sequence[NDArray[np.bool_]], size: tuple[float, float, float]) -> NDArray[np.float64]:
    return np.array([mask.sum() for mask in masks]) * (float(np.prod(size)) / 1000.0)


def _high_frequency(volumes: Sequence[Unit], masks: Sequence[NDArray[np.bool_]]) -> list[float]:
    """Mean over the volumes, per array axis."""
    scans = (Scan(v, m, (1.0, 1.0, 1.0)) for v, m in zip(volumes, masks, strict=True))
    means: list[float] = np.mean([[high_frequency_energy(scan, axis) for axis in range(3)] for scan in scans], axis=0).tolist()
    return means


def _nearest(
    volumes: Sequence[Unit], train: Sequence[Unit], union: NDArray[np.bool_], own: Sequence[Pyramid], theirs: Sequence[Pyramid]
) -> dict[str, Any]:
    correlation = standardised(volumes, union) @ standardised(train, union).T
    best = correlation.max(axis=1)
    candidates = np.argsort(correlation, axis=1)[:, ::-1][:, :NEAREST_CANDIDATES]
    similar = np.array([max(ms_ssim(own[i], theirs[j]) for j in row) for i, row in enumerate(candidates)])
    return {
        "correlation": float(best.mean()), "correlation_sd": _sd(best), "correlation_max": float(best.max()),
        "ms_ssim": float(similar.mean()), "ms_ssim_sd": _sd(similar), "ms_ssim_max": float(similar.max()),
    }  # fmt: skip


def standardised(volumes: Sequence[Unit], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[M, voxels inside the mask], each row of mean 0 and length 1 (a constant row stays 0)."""
    rows = np.stack([v[mask] for v in volumes]).astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True)
    scaled: NDArray[np.float64] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return scaled


def _rows(volumes: Sequence[Unit]) -> Unit:
    return np.stack(volumes).reshape(len(volumes), 1, -1)
