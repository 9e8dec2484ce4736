"""The folder of a benchmark: figures of each person and row as they come, so that a stopped benchmark continues."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from volgen.commands.bench.result import Row
from volgen.core import folder as folders
from volgen.core import manifest
from volgen.core.errors import UserError
from volgen.core.files import read_json, write_json, write_text

PEOPLE = "people"


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of what there is; None if there is nothing."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known else None


class Record:
    """A folder of figures, made with some settings: ``NAME.json``, ``NAME.md`` and ``NAME.png``, and those of each person.

    Args:
        name: what the benchmark is called.
        folder: where it is.
        settings: what decides the figures of every row.
        inputs: fingerprints of the run and of the store.
        seed: seed of noise and samples.

    Attributes:
        settings: see there.
    """

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any], inputs: Mapping[str, str], seed: int) -> None:
        self.settings, self._name, self._folder, self._inputs = settings, name, folder, inputs
        self._stage = f"bench {name}"
        self._provenance = manifest.Provenance(self._stage, dict(settings), dict(inputs), seed)
        self._claimed: folders.Folder | None = None

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Has the folder to itself.

        Raises:
            UserError: it holds something else, or another process is writing to it.
        """

        def differs(before: Mapping[str, Any]) -> str:
            mine = {"stage": self._stage, "config": self._provenance.config, "inputs": self._provenance.inputs}
            different = [key for key, value in mine.items() if before.get(key) != value]
            return f"holds other figures (its manifest has another '{different[0]}')" if different else ""

        with folders.claim(
            self._folder, self._provenance, "figures", differs=differs,
            writes=lambda name: name == PEOPLE or name in [f"{self._name}.{kind}" for kind in ("json", "md", "png")],
            expected="a new folder, or the same run, store and settings to continue", keeps=lambda: (self._folder / PEOPLE).is_dir(),
        ) as folder:  # fmt: skip
            folder.begin()
            self._claimed = folder
            yield

    def kept(self, name: str, identity: Mapping[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Figures that are there, or that are computed now.

        Args:
            name: whose they are.
            identity: what decides them beside the settings.
            compute: makes them.
        """
        path = self._path(name)
        if path.is_file():
            found = read_json(path, "figures that volgen bench wrote")
            if found.get("identity") != dict(identity):
                raise UserError(str(path), "was computed with other settings", f"{dict(identity)}", "delete it, or choose another --folder")
            return dict(found["figures"])
        path.parent.mkdir(parents=True, exist_ok=True)
        figures = compute()
        write_json(path, {"identity": dict(identity), "figures": figures})
        return figures

    def read(self, name: str) -> dict[str, Any]:
        """Figures that are there."""
        return dict(read_json(self._path(name), "figures that volgen bench wrote")["figures"])

    def means(self, cells: Mapping[str, Sequence[str]], units: Mapping[str, str]) -> list[Row]:
        """A row ``NAME: figure`` for each figure that is there, the mean of what is known of it.

        Args:
            cells: names of figures of which means are told, by the name that they are told under.
            units: figure -> its unit.
        """
        found = []
        for name, those in cells.items():
            each = [self.read(one) for one in those]
            for figure, unit in units.items():
                value = mean_of([one.get(figure) for one in each])
                if value is not None:
                    found.append(Row(f"{name}: {figure}", value, unit))
        return found

    def beside(self, name: str, suffix: str = "") -> Path:
        """A path beside figures, of the same name, for what they are made of."""
        # What is behind a point in the name is none of its suffixes.
        return self._path(name, suffix)

    def finish(self, rows: Sequence[Row], table: str, picture: Callable[[Path], None]) -> None:
        """Writes figures, table, picture and manifest."""
        assert self._claimed is not None, "the folder is claimed"
        told = {"rows": [row.to_json() for row in rows], "settings": dict(self.settings), "inputs": dict(self._inputs)}
        write_json(self._folder / f"{self._name}.json", told)
        write_text(self._folder / f"{self._name}.md", f"{table}\n")
        picture(self._folder / f"{self._name}.png")
        self._claimed.finish()

    def _path(self, name: str, suffix: str = ".json") -> Path:
        return self._folder / PEOPLE / f"{re.sub(r'[^a-z0-9/.]+', '-', name.lower())}{suffix}"
