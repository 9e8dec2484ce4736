"""Scans of a store, measured here: what was measured of a head, and the head itself, which is the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.rng import normal
from volgen.data.coarser import CoarserStore
from volgen.data.record import SubjectRecord
from volgen.data.store import Store
from volgen.images.box import BoxConfig
from volgen.images.geometry import Geometry
from volgen.runs import instrument
from volgen.runs.observed import SAME_SIZE, Field, Observation, observe

NOISE = 0.02
"""Standard deviation of the noise where nobody says it, in units of the model range: a signal-to-noise ratio of 50 or so."""


@dataclass(frozen=True)
class MeasuredHead:
    """One head and what was measured of it.

    Attributes:
        seen: what was measured.
        truth: the scan, [X, Y, Z] in [0, 1], where it is known.
    """

    seen: Observation
    truth: NDArray[np.float32] | None = None


class SimulatedScans:
    """Scans of a store, measured by an operator: the truth is known.

    Args:
        store: the store, in the run's frame.
        split: which scans.
        people: how many of them; all if None.
        operator: configuration of the operator.
        noise: standard deviation of the noise, in units of the model range.
        seed: seed of the noise.
        level: means over cubes of 2^level voxels of the store are what is measured; 0: its voxels.
        field: the instrument's field of view, the run's ``grid`` or the ``box`` that it computes in: what an operator is built for.
    """

    known: bool = True

    def __init__(
        self, store: str, split: Any, people: int | None, operator: Any, noise: float | None, seed: int, level: int = 0,
        field: Literal["grid", "box"] = "grid",
    ) -> None:  # fmt: skip
        opened = Store.open(store)
        self._store = CoarserStore(opened, 2**level) if level else opened
        self._operator, self._seed, self._field = operator, seed, field
        self._noise = NOISE if noise is None else noise
        records = list(self._store.records) if split == "all" else self._store.split(split)
        if not records:
            raise UserError("--split", f"the store has no scan of '{split}'", "a split with scans")
        records = records[:people]
        self._records: dict[str, SubjectRecord] = {f"{number + 1:04d}": record for number, record in enumerate(records)}
        self.labels = tuple(self._records)
        self.text = f"simulated measurements of {len(records)} scans"
        self.settings = {
            "simulate": {"split": split}, "noise": self._noise, **instrument.told_of_operator(operator),
            **({"field": field} if field == "box" else {}),
        }  # fmt: skip
        self.inputs = {"store": self._store.fingerprint}

    def read(self, label: str, geometry: Geometry, device: torch.device) -> MeasuredHead:
        """One scan of the store; its noise is a function of the seed and of the scan."""
        record = self._records[label]
        if record.shape != geometry.shape or not np.allclose(record.voxel_size, geometry.voxel_size, rtol=SAME_SIZE):
            found = f"has scans of {list(record.shape)} voxels of {in_mm(record.voxel_size)} mm"
            raise UserError("--simulate", found, f"the run's {list(geometry.shape)} of {in_mm(geometry.voxel_size)} mm")
        unit = np.ascontiguousarray(self._store.read_unit(record))
        window = record.intensity
        place = geometry.place if self._field == "box" else BoxConfig.whole(geometry.shape)
        operator = self._operator.build(place.size, device)
        clean = operator.apply(torch.from_numpy(window.from_unit(place.crop(unit)))[None, None].to(device))
        noise = self._noise * (window.high - window.low) / 2
        data = clean + noise * noise_like(clean, self._seed, "measurement", record.checksum)
        field = Field(place.size, place.start, record.affine, "run")
        return MeasuredHead(observe(operator, data, noise, window, field, geometry), unit)


def noise_like(data: Tensor, seed: int, *key: int | str) -> Tensor:
    """Standard normal noise shaped like data, in both parts of a complex number."""
    if data.is_complex():
        return torch.view_as_complex(normal((*data.shape, 2), seed, *key)).to(data.device)
    return normal(data.shape, seed, *key).to(data.device)


def in_mm(sizes: Any) -> str:
    """Edges of a voxel in words."""
    return " x ".join(f"{size:.4g}" for size in sizes)
