"""Where the networks of a run lie in its directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from volgen.core.run_files import EXPERTS, WEIGHTS


@dataclass(frozen=True)
class Paths:
    """Folders and files of a run directory that have the name of a network in them.

    Attributes:
        root: the directory.
    """

    root: Path

    @property
    def experts(self) -> Path:
        """The folder with one for each network."""
        return self.root / EXPERTS

    def phase(self, name: str) -> Path:
        """The folder of an expert or of the shared network."""
        return self.experts / name

    def weights(self, name: str) -> Path:
        """The exported weights of a phase."""
        return self.phase(name) / WEIGHTS

    def folders(self) -> list[Path]:
        """Folders of networks that are there, sorted, none of which is outside of the run."""
        if self.experts.is_symlink() or not self.experts.is_dir():
            return []
        return sorted(path for path in self.experts.iterdir() if path.is_dir() and not path.is_symlink())
