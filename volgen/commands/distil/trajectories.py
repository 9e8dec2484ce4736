"""The trajectories of a run in a Zarr store, which training reads like scans: each volume with the states through which it came."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from volgen.core import folder as folders
from volgen.core import manifest
from volgen.core.files import atomic_folder
from volgen.core.progress import progress
from volgen.core.protocols import Problem
from volgen.data import field_of_view
from volgen.data.layout import ROOT, consolidate, group_record, write_group, write_root
from volgen.data.levels import LEVELS
from volgen.data.quantise import encode
from volgen.data.record import SubjectRecord, checksum, cohort_fingerprint
from volgen.data.store import VERSION
from volgen.images.contrasts import UNSAID
from volgen.models.denoiser import Preconditioner
from volgen.parallel.device import usable_device
from volgen.runs.trained import TrainedRun
from volgen.sampling.descent import Descent, State, down
from volgen.sampling.samplers import dpmpp_2m

EACH = 8
"""Each eighth trajectory is for validation."""
NAME = "traj-{:06d}"


class Trajectories:
    """A store of them; each is a function of the run, the seed and its index.

    Trajectories come from ``dpmpp_2m``: of the solvers that ask once in a step its states are nearest to the path.

    Args:
        teacher: the run.
        store: folder, new or begun.
        levels: noise levels whose states are kept, descending, from the teacher's grid.
        seed: seed of all noise.
    """

    def __init__(self, teacher: TrainedRun, store: Path, levels: Sequence[float], seed: int) -> None:
        self._teacher, self._store, self._levels = teacher, store, list(levels)
        settings = {"run": teacher.fingerprint, "levels": self._levels, "sampler": dpmpp_2m.Config().model_dump(mode="json")}
        inputs = {"run": teacher.fingerprint}
        self._provenance = manifest.Provenance("distil", settings, inputs, seed, measured=teacher.recipe.privacy.measured)
        self._seed = seed
        shown = teacher.geometry.contrasts  # left out where nobody said it, so that such stores are what they were
        self._contrast = shown[0] if len(shown) == 1 and shown != (UNSAID,) else ""

    def complete(self, count: int) -> bool:
        """Whether all ``count`` trajectories are complete, and no others, of this run and seed."""
        if not (self._store / manifest.NAME).is_file():
            return False
        before = manifest.read(self._store, "the manifest of trajectories")
        return not self._differs(before) and before.get(folders.COMPLETE) is True and len(before["subjects"]) == count

    def draw(self, count: int, memory: float, device: str | None) -> None:
        """Draws what is not there yet. What is there is kept; a stopped command goes on.

        Args:
            count: how many there shall be.
            memory: bytes of host memory for those under way.
            device: torch device, or None for a GPU if there is one.

        Raises:
            UserError: the folder holds something else, or there is no such device.
        """

        def begun() -> bool:
            return any(self._store.glob(NAME[:5] + "*"))

        with folders.claim(
            self._store, self._provenance, "trajectories", writes=_writes, differs=self._differs, keeps=begun,
            expected="a new folder, or the trajectories of the same run, --steps, --inner and --seed", elsewhere="choose another --pairs",
        ) as folder:  # fmt: skip
            folder.begin()
            write_root(self._store, self._provenance.config)
            records = {index: record for index in range(count) if (record := group_record(self._store / NAME.format(index)))}
            missing = [index for index in range(count) if index not in records]
            for index in missing:
                shutil.rmtree(self._store / NAME.format(index), ignore_errors=True)
            records.update(self._draw(missing, memory, usable_device(device)))
            listed = [records[index] for index in range(count)]
            consolidate(self._store, [record.id for record in listed])
            folder.finish(
                store_version=VERSION, fingerprint=cohort_fingerprint(listed), people="files",
                subjects=[record.to_dict() for record in listed],
            )  # fmt: skip

    def _differs(self, before: Mapping[str, Any]) -> str:
        mine = {"stage": "distil", "config": self._provenance.config, "seed": self._seed}
        different = [key for key, value in mine.items() if before.get(key) != value]
        return f"holds trajectories of another run, or of other settings (its manifest has another '{different[0]}')" if different else ""

    def _draw(self, indices: Sequence[int], memory: float, device: torch.device) -> Iterator[tuple[int, SubjectRecord]]:
        """Wave by wave, each expert by expert: an expert is loaded once for as many trajectories as fit into memory."""
        grid, teacher = list(self._teacher.ensemble.grid), self._teacher
        # A float32 state, what the solver remembers, and states in 16 bits.
        each = math.prod(teacher.geometry.grid) * (8 + 2 * (len(self._levels) + 1))
        wave = max(1, int(memory / each))
        preconditioner = teacher.preconditioner(device)
        with progress("trajectories", len(indices) * len(grid)) as ticker:
            for first in range(0, len(indices), wave):
                chosen = indices[first : first + wave]
                with teacher.bank(preconditioner, device, grid) as bank:
                    descent = self._descent(bank, preconditioner, device)
                    states = {index: descent.begin(index) for index in chosen}
                    held: dict[int, list[np.ndarray[Any, Any]]] = {index: [] for index in chosen}
                    for number, sigma in enumerate(grid):
                        for index in chosen:
                            if sigma in self._levels:
                                held[index].append(_half(states[index]))
                            states[index] = descent.advance(states[index], number, index)
                            ticker.advance(note=f"sigma {sigma:.3g}")
                for index in chosen:
                    clean = states.pop(index)
                    yield index, self._write(index, clean.x_BCXYZ[0, 0], np.stack([*held.pop(index), _half(clean)]))

    def _descent(self, bank: Any, preconditioner: Preconditioner, device: torch.device) -> Descent:
        path, shape = down(self._teacher.ensemble.grid), (1, *self._teacher.geometry.grid)
        return Descent(bank, dpmpp_2m.Config().build(), path, self._seed, shape, device, Problem(preconditioner.prior))

    def _write(self, index: int, x_XYZ: torch.Tensor, states_TZYX: np.ndarray[Any, Any]) -> SubjectRecord:
        """One trajectory as a group like a scan's, which appears whole."""
        geometry = self._teacher.geometry
        volume = geometry.volume(x_XYZ)
        codes = encode(volume.voxels, "uint16")
        codes_ZYX = np.ascontiguousarray(codes.codes.T)
        name = NAME.format(index)
        record = SubjectRecord(
            id=name, patient=name, split="validation" if index % EACH == EACH - 1 else "train", shape=volume.shape, affine=volume.affine,
            intensity=geometry.intensity, slope=codes.slope, inter=codes.inter, dtype="uint16", source_orientation="RAS",
            source_shape=volume.shape, checksum=checksum(codes_ZYX),
            foreground=field_of_view.of_codes(codes.codes, codes.slope, codes.inter, geometry.intensity),
            source_affine=None if geometry.centre == (0.0, 0.0, 0.0) else np.eye(4), levels=LEVELS, contrast=self._contrast,
        )  # fmt: skip
        with atomic_folder(self._store / name) as temporary:
            write_group(temporary, record, codes_ZYX, {}, "volumes", states_TZYX)
        return record


def levels_in(store: Path, teacher: TrainedRun, levels: Sequence[float]) -> list[float]:
    """The noise levels of a store of the run's trajectories, if these are among them, so that students of several steps share one."""
    if (store / manifest.NAME).is_file():
        config = manifest.read(store, "the manifest of trajectories").get("config") or {}
        found = config.get("levels") or []
        if config.get("run") == teacher.fingerprint and {*levels} <= {*found}:
            return list(found)
    return list(levels)


def _half(state: State) -> np.ndarray[Any, Any]:
    """A state in 16 bits, z, y, x."""
    return np.ascontiguousarray(state.x_BCXYZ[0, 0].to(torch.float16).numpy().T)


def _writes(name: str) -> bool:
    return name == ROOT or name.startswith(NAME[:5])
