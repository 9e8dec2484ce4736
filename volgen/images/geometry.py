"""Where generated volumes are in space and in which units their intensities are: ``geometry.json`` of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.files import read_json, write_json
from volgen.core.limits import GRID, MAX_INTENSITY, SMALL_JSON_BYTES, VOXEL_MM, grid_fits
from volgen.core.protocols import Shape3
from volgen.core.run_files import GEOMETRY
from volgen.images.box import BoxConfig
from volgen.images.contrasts import SUFFIXES, UNSAID
from volgen.images.intensity import IntensityMap, from_model
from volgen.images.volume import Volume

BACKGROUND = -1.0
"""Air in the model's range: the minimum of the intensity window, which real scans have around a stripped head."""
FARTHEST = 1e4
"""mm from the origin at which the middle of a grid may lie."""
FOREGROUND = 0.1
"""Share of the intensity range that is above air and below tissue."""
LARGEST_BRAIN_LITRES = 2.2
"""Brains have 1 to 2 litres of foreground, heads with skull, face and neck more than 3."""


def litres(unit_XYZ: NDArray[np.float32], voxel_size: tuple[float, float, float]) -> float:
    """Foreground of a volume in [0, 1], given its voxels' edges in mm: below :data:`LARGEST_BRAIN_LITRES` it is a brain without a skull."""
    x, y, z = voxel_size
    return float(np.count_nonzero(unit_XYZ > FOREGROUND) * x * y * z / 1e6)


@dataclass(frozen=True)
class Geometry:
    """The frame that a cohort's volumes share once each has been put on the grid.

    Attributes:
        shape: voxels along the RAS+ axes.
        voxel_size: edges of a voxel in mm.
        intensity: the window of a typical training volume; a generated volume is exported in its units.
        skull_stripped: whether the volumes show brains rather than heads.
        box: where in a volume there is more than background; None: anywhere.
        centre: where the middle of the grid is, in mm of RAS+; 0, 0, 0 unless scans were brought into a frame in which it is elsewhere.
        contrasts: what the volumes show, as suffixes of BIDS: that of the cohort, or each that there is in it.
    """

    shape: Shape3
    voxel_size: tuple[float, float, float]
    intensity: IntensityMap
    skull_stripped: bool
    box: BoxConfig | None = None
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    contrasts: tuple[str, ...] = (UNSAID,)

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or not all(np.isfinite(self.voxel_size)) or min(self.voxel_size) <= 0.0:
            raise ValueError(f"{self.shape} voxels of {self.voxel_size} mm are not a grid")
        shortest, longest = VOXEL_MM
        if not grid_fits(self.shape):
            raise ValueError(f"a grid has {GRID}")
        if min(self.voxel_size) < shortest or max(self.voxel_size) > longest:
            raise ValueError(f"voxels of {self.voxel_size} mm are not between {shortest:g} and {longest:g} mm")
        if max(abs(self.intensity.low), abs(self.intensity.high)) > MAX_INTENSITY:
            raise ValueError(f"an intensity window goes up to {MAX_INTENSITY:g} at most")
        if not max(map(abs, self.centre)) <= FARTHEST:  # NaN too
            raise ValueError(f"the middle of a grid is not at {self.centre} mm")
        if not self.contrasts or not set(self.contrasts) <= set(SUFFIXES):
            raise ValueError(f"contrasts are of {', '.join(SUFFIXES)}, not {', '.join(self.contrasts)[:99] or 'none'}")
        if not BoxConfig.whole(self.shape).holds(self.place):
            raise ValueError(f"the box at {self.place.start} with {self.place.size} voxels is not inside of {self.shape}")

    @property
    def place(self) -> BoxConfig:
        """What of a volume is drawn: the box, or all."""
        return self.box or BoxConfig.whole(self.shape)

    @property
    def grid(self) -> Shape3:
        """Voxels along the RAS+ axes of what is drawn."""
        return self.place.size

    @property
    def grid_affine(self) -> NDArray[np.float64]:
        """4 x 4, indices of what is drawn -> RAS+ mm."""
        affine = self.affine
        affine[:3, 3] += affine[:3, :3] @ np.asarray(self.place.start)
        return affine

    @property
    def affine(self) -> NDArray[np.float64]:
        """4 x 4, voxel indices -> RAS+ mm. A generated person was in no scanner: the middle of the grid is the origin, or in a template."""
        size = np.asarray(self.voxel_size, dtype=np.float64)
        affine = np.diag([*size, 1.0])
        affine[:3, 3] = np.asarray(self.centre) - size * (np.asarray(self.shape) - 1) / 2
        return affine

    def coarser(self, level: int) -> Geometry:
        """The frame of means over cubes of 2^level voxels.

        Raises:
            ValueError: such cubes do not fill the grid, or the box.
        """
        shape, place = BoxConfig.whole(self.shape).coarser(level).size, self.place.coarser(level)
        x, y, z = (edge * 2**level for edge in self.voxel_size)
        return replace(self, shape=shape, voxel_size=(x, y, z), box=None if self.box is None else place)

    @property
    def shows(self) -> str:
        """What the volumes show, in words."""
        what = "brains without skull" if self.skull_stripped else "whole heads"
        return what if self.contrasts == (UNSAID,) else f"{what}, {' or '.join(SUFFIXES[each] for each in self.contrasts)}"

    def alike(self, other: Geometry) -> bool:
        """Whether volumes of both have the same voxels, and more than background in the same of them."""
        return (self.shape, self.place) == (other.shape, other.place)

    def whole(self, x: Tensor) -> Tensor:
        """A whole volume [..., X, Y, Z] in the model's range, of what was drawn of it: around that is background, the minimum."""
        return self.place.pad(x, self.shape, BACKGROUND)

    def volume(self, x_XYZ: Tensor) -> Volume:
        """What was drawn of a volume, in the model's range, as an image of all of it; in the cohort's units, cut off beyond the range."""
        return Volume(self.intensity.from_unit(from_model(self.whole(x_XYZ)).numpy()), self.affine)

    @classmethod
    def of_cohort(
        cls,
        shape: Shape3,
        affines: Iterable[NDArray[np.float64]],
        windows: Iterable[IntensityMap],
        examples: Iterable[NDArray[np.float32]],
        box: BoxConfig | None = None,
        *,
        one_frame: bool = False,
        contrasts: tuple[str, ...] = (UNSAID,),
    ) -> Geometry:
        """The frame of training volumes: their voxel size and the median of their intensity windows.

        Args:
            shape: voxels of every volume.
            affines: one 4 x 4 affine per volume, RAS+ up to rotation.
            windows: one intensity map per volume.
            examples: a few volumes [X, Y, Z] in [0, 1], to tell brains from heads by their size.
            box: where in a volume there is more than background.
            one_frame: whether all were brought into one frame, so that they have one affine.
            contrasts: what they show.

        Raises:
            ValueError: there are no volumes, or their voxel sizes differ.
        """
        affines = list(affines)
        sizes = np.array([np.linalg.norm(affine[:3, :3], axis=0) for affine in affines])
        limits = np.array([(window.low, window.high) for window in windows])
        if not len(sizes) or not len(limits):
            raise ValueError("a cohort without volumes has no geometry")
        if np.ptp(sizes, axis=0).max() > 1e-3:
            raise ValueError(f"voxel sizes differ: from {sizes.min(axis=0).tolist()} to {sizes.max(axis=0).tolist()} mm")
        # Affines carry rounding of about 1e-7 mm; a header should say 2.0.
        x, y, z = (round(float(size), 6) for size in np.median(sizes, axis=0))
        low, high = (float(limit) for limit in np.median(limits, axis=0))
        size = float(np.median([litres(unit, (x, y, z)) for unit in examples]))
        centre = middle(affines[0], shape) if one_frame else (0.0, 0.0, 0.0)
        stripped = size < LARGEST_BRAIN_LITRES
        return cls(shape, (x, y, z), IntensityMap(low, high), stripped, box=box, centre=centre, contrasts=contrasts)

    def write(self, directory: Path) -> None:
        """Writes ``geometry.json``; the affine is there for other programs and follows from the rest."""
        content = {
            "shape": self.shape,
            "voxel_size": self.voxel_size,
            "intensity": self.intensity.to_dict(),
            "skull_stripped": self.skull_stripped,
            "affine": self.affine.tolist(),
            **({} if self.box is None else {"box": self.box.model_dump(mode="json")}),
            **({} if self.centre == (0.0, 0.0, 0.0) else {"centre": self.centre}),
            **({} if self.contrasts == (UNSAID,) else {"contrasts": self.contrasts}),
        }
        write_json(directory / GEOMETRY, content)

    @classmethod
    def read(cls, directory: Path) -> Geometry:
        """Reads a run's ``geometry.json``.

        Raises:
            UserError: it is missing or of another form.
        """
        content: dict[str, Any] = read_json(directory / GEOMETRY, "the geometry of a trained run", limit=SMALL_JSON_BYTES)
        try:
            x, y, z = (int(edge) for edge in content["shape"])
            i, j, k = (float(size) for size in content["voxel_size"])
            window = IntensityMap(float(content["intensity"]["low"]), float(content["intensity"]["high"]))
            box = BoxConfig.model_validate(content["box"]) if "box" in content else None
            r, a, s = (float(place) for place in content.get("centre", (0.0, 0.0, 0.0)))
            shown = tuple(str(each) for each in content.get("contrasts", (UNSAID,)))
            return cls((x, y, z), (i, j, k), window, bool(content["skull_stripped"]), box=box, centre=(r, a, s), contrasts=shown)
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise UserError(str(directory / GEOMETRY), f"has another form ({error})", "the form that `volgen train` writes") from None


def middle(affine: NDArray[np.float64], shape: Shape3) -> tuple[float, float, float]:
    """Where the middle of a grid is in mm, to a millionth, by the affine that maps its voxels to mm."""
    x, y, z = (round(float(place), 6) for place in affine[:3, :3] @ ((np.asarray(shape) - 1) / 2) + affine[:3, 3])
    return x, y, z


def boxed(geometry: Geometry) -> str:
    """Behind the size of a volume: what of it is drawn, if that is not all."""
    if geometry.box is None:
        return ""
    size, start = (" x ".join(map(str, numbers)) for numbers in (geometry.box.size, geometry.box.start))
    return f"; {size} of them are drawn, from {start} on, and the rest is background"
