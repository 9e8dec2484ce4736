"""A newcomer's house: the package in a temporary folder, to which one file is added."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import volgen

PACKAGE = Path(volgen.__file__).parent


@dataclass(frozen=True)
class House:
    """A copy of the package, and a shell in which it is the one that is found.

    Attributes:
        folder: where commands run.
    """

    folder: Path

    def add(self, path: str, text: str) -> None:
        """Adds the one file of a newcomer, such as ``sampling/samplers/toy.py``; a file that is there may not be replaced."""
        file = self.folder / "volgen" / path
        assert not file.exists(), f"{path} is there already"
        file.parent.mkdir(exist_ok=True)  # a command is a folder with one file
        file.write_text(text, encoding="utf-8")

    def run(self, *words: str | Path, code: int = 0) -> str:
        """What ``volgen WORDS`` prints, after it ended with ``code``."""
        place = {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "volgen", *map(str, words)]
        ended = subprocess.run(command, cwd=self.folder, env=place, capture_output=True, text=True, timeout=240, check=False)
        assert ended.returncode == code, f"{' '.join(command[2:])}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout + ended.stderr


@pytest.fixture
def house(tmp_path: Path) -> Callable[[], House]:
    """Makes a :class:`House`; its files are links to those of the package, so nothing is copied."""

    def build() -> House:
        folder = tmp_path / "house"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PACKAGE, folder / "volgen", copy_function=_link, ignore=ignored)
        return House(folder)

    return build


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
