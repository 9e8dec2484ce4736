"""The trajectories of a run in a Zarr store, which training reads like scans: each volume with the states through which it came."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from volgen.core import folder as folders
from volgen.core import manifest
from volgen.core.files import atomic_folder
from volgen.core.progress import progress
from volgen.data import field_of_view
from volgen.data.layout import ROOT, consolidate, group_record, write_group, write_root
from volgen.data.levels import LEVELS
from volgen.data.quantise import encode
from volgen.data.record import SubjectRecord, checksum, cohort_fingerprint
from volgen.data.store import VERSION
from volgen.experts.bank import ExpertBank
from volgen.images.contrasts import UNSAID
from volgen.models.haar import corner_scale, means
from volgen.parallel.device import usable_device
from volgen.parallel.pages import kept_pages
from volgen.runs.draw import BYTES_PER_VOXEL, Drawing
from volgen.runs.trained import TrainedRun
from volgen.runs.weak import weak
from volgen.sampling.descent import Descent, State, down
from volgen.sampling.noises import white
from volgen.sampling.samplers import dpmpp_2m

EACH = 8
"""Each eighth trajectory is for validation."""
NAME = "traj-{:06d}"
CLIMBS = "climbs"
"""Key of the settings of trajectories on which volumes climbed."""


class Trajectories:
    """A store of them; each is a function of the run, the seed and its index.

    Trajectories come from ``dpmpp_2m``: of the solvers that ask once in a step its states are nearest to the path. They are guided as the
    run's samples are where nothing is said, so that a student needs no second network; and volumes climb where those do.

    Args:
        teacher: the run.
        store: folder, new or begun.
        levels: noise levels whose states are kept, descending, from the teacher's grid.
        seed: seed of all noise.

    Attributes:
        store: the folder.
        climbs: whether volumes climb.
    """

    def __init__(self, teacher: TrainedRun, store: Path, levels: Sequence[float], seed: int) -> None:
        self._teacher, self.store, self._levels = teacher, store, list(levels)
        self.climbs = in_corners(store, teacher)
        solver = dpmpp_2m.Config().model_dump(mode="json")
        settings: dict[str, Any] = {"run": teacher.fingerprint, "levels": self._levels, "sampler": solver}
        if teacher.recipe.stated("guidance"):
            guidance = teacher.recipe.guidance  # without what is at its default: keys that come later say nothing
            settings["guidance"] = {"kind": guidance.kind, **guidance.model_dump(mode="json", exclude_defaults=True)}
        if self.climbs:
            settings[CLIMBS] = True
        inputs = {"run": teacher.fingerprint}
        self._provenance = manifest.Provenance("distil", settings, inputs, seed, measured=teacher.recipe.privacy.measured)
        self._seed = seed
        shown = teacher.geometry.contrasts  # left out where nobody said it, so that such stores are what they were
        self._contrast = shown[0] if len(shown) == 1 and shown != (UNSAID,) else ""

    def complete(self, count: int) -> bool:
        """Whether all ``count`` trajectories are complete, and no others, of this run and seed."""
        if not (self.store / manifest.NAME).is_file():
            return False
        before = manifest.read(self.store, "the manifest of trajectories")
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
            return any(self.store.glob(NAME[:5] + "*"))

        with folders.claim(
            self.store, self._provenance, "trajectories", writes=_writes, differs=self._differs, keeps=begun,
            expected="a new folder, or the trajectories of the same run, --steps, --inner and --seed", elsewhere="choose another --pairs",
        ) as folder:  # fmt: skip
            folder.begin()
            write_root(self.store, self._provenance.config)
            records = {index: record for index in range(count) if (record := group_record(self.store / NAME.format(index)))}
            missing = [index for index in range(count) if index not in records]
            for index in missing:
                shutil.rmtree(self.store / NAME.format(index), ignore_errors=True)
            records.update(self._draw(missing, memory, usable_device(device)))
            listed = [records[index] for index in range(count)]
            consolidate(self.store, [record.id for record in listed])
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
        wave = self.wave(memory)
        preconditioner, guide = teacher.preconditioner(device), teacher.recipe.guidance.build()
        asking = [sigma for sigma in grid if guide.asks_weak(sigma)]
        with progress("trajectories", len(indices) * len(grid)) as ticker, ExitStack() as held:
            held.enter_context(kept_pages())
            beside = weak(teacher, guide.weak, preconditioner, device, asking, 2, corners=self.climbs, mirrored=guide.weak_mirrored)
            worse = held.enter_context(beside)
            drawing = Drawing(
                teacher, preconditioner, teacher.assembly(), dpmpp_2m.Config(), white.Config(), grid, device, guide, climbs=self.climbs,
                weak=worse,
            )  # fmt: skip
            for first in range(0, len(indices), wave):
                chosen = indices[first : first + wave]
                with drawing.bank(grid, 2) as bank:
                    descent = self._descent(drawing, bank)
                    states = {index: descent.begin(index) for index in chosen}
                    held_of = {index: _Kept(self.levels_of_states) for index in chosen}
                    for number, sigma in enumerate(grid):
                        for index in chosen:
                            if sigma in self._levels:
                                held_of[index].keep(descent.climb.level(number), states[index])
                            states[index] = descent.advance(states[index], number, index)
                            ticker.advance(note=f"sigma {sigma:.3g}")
                for index in chosen:
                    clean = states.pop(index)
                    held_of[index].keep(0, clean)
                    yield index, self._write(index, clean.x_BCXYZ[0, 0], held_of.pop(index).arrays)

    def wave(self, memory: float) -> int:
        """How many are drawn at once in some bytes of memory, which their states take, with one that is on its way."""
        return max(1, int(memory / (self.bytes_of_states + BYTES_PER_VOXEL * math.prod(self._teacher.geometry.grid))))

    @property
    def objective(self) -> dict[str, Any]:
        """Configuration of the objective that is trained with them."""
        at = {"at": self.levels_of_states[:-1]} if self.climbs else {}
        return {"kind": "distilled", "levels": self._levels, **at}

    @property
    def levels_of_states(self) -> list[int]:
        """Level of the voxels of each kept state, the clean one too."""
        return states_at(self._teacher, self._levels, self.climbs)

    @property
    def bytes_of_states(self) -> int:
        """Bytes of the states of a trajectory, in memory and on the disk before compression."""
        shape = self._teacher.geometry.grid
        return sum(2 * rows * math.prod(edge >> level for edge in shape) for level, rows in rows_of(self.levels_of_states).items())

    def _descent(self, drawing: Drawing, bank: ExpertBank) -> Descent:
        return Descent(
            bank, drawing.sampler(), down(drawing.grid), self._seed, drawing.shape, drawing.device, drawing.problem, drawing.noise,
            drawing.guide, drawing.climb,
        )  # fmt: skip

    def _write(self, index: int, x_XYZ: torch.Tensor, states: Mapping[int, np.ndarray[Any, Any]]) -> SubjectRecord:
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
        with atomic_folder(self.store / name) as temporary:
            write_group(temporary, record, codes_ZYX, {}, "volumes", states)
        return record


class _Kept:
    """States of a trajectory in 16 bits, by the level on which they were on their way.

    The last state of a level is where its last jump ends: the corner of the next finer one's first, without the bands that are drawn there.
    """

    def __init__(self, at: Sequence[int]) -> None:
        self._last: int | None = None
        self._held: dict[int, list[np.ndarray[Any, Any]]] = {level: [] for level in at}

    def keep(self, level: int, state: State) -> None:
        """Adds a state that lies on corners of a level."""
        x_XYZ = state.x_BCXYZ[0, 0] / corner_scale(level)
        if self._last is not None and self._last > level:
            self._held[self._last].append(_half(means(x_XYZ[None, None], self._last - level)[0, 0]))
        self._held[level].append(_half(x_XYZ))
        self._last = level

    @property
    def arrays(self) -> dict[int, np.ndarray[Any, Any]]:
        """[t, z, y, x] of each level."""
        return {level: np.stack(states) for level, states in self._held.items()}


def rows_of(at: Sequence[int]) -> dict[int, int]:
    """How many states there are of each level: its own, and where the last jump of a coarser one ends.

    Args:
        at: level of each state, the clean one too; never rising.
    """
    return {level: at.count(level) + (level > min(at)) for level in dict.fromkeys(at)}


def in_corners(store: Path, teacher: TrainedRun) -> bool:
    """Whether volumes climb on the trajectories of a run: where its samples do, unless the store was begun with whole volumes."""
    if (store / manifest.NAME).is_file() and CLIMBS not in (manifest.read(store, "the manifest of trajectories").get("config") or {}):
        return False
    return teacher.climbs(teacher.ensemble.grid) and not teacher.recipe.guidance.build().whole


def states_at(teacher: TrainedRun, levels: Sequence[float], climbing: bool) -> list[int]:
    """Level of voxels of each kept state, and of the clean one behind them; 0 for all where volumes are whole on their way."""
    return [*teacher.levels(levels)[:-1], 0] if climbing else [0] * (len(levels) + 1)


def levels_in(store: Path, teacher: TrainedRun, levels: Sequence[float]) -> list[float]:
    """The noise levels of a store of the run's trajectories, if these are among them, so that students of several steps share one."""
    if (store / manifest.NAME).is_file():
        config = manifest.read(store, "the manifest of trajectories").get("config") or {}
        found = config.get("levels") or []
        if config.get("run") == teacher.fingerprint and {*levels} <= {*found}:
            return list(found)
    return list(levels)


def _half(x_XYZ: torch.Tensor) -> np.ndarray[Any, Any]:
    """A state in 16 bits, z, y, x."""
    return np.ascontiguousarray(x_XYZ.to(torch.float16).numpy().T)


def _writes(name: str) -> bool:
    return name == ROOT or name.startswith(NAME[:5])
