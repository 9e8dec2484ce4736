"""``metrics.jsonl`` and TensorBoard: what a run has measured so far, without gaps or repetitions after a resume."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

from volgen.core.files import write_text

NAME = "metrics.jsonl"


class Metrics(Protocol):
    """Where numbers go."""

    def write(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Takes in finite numbers of one step of one phase."""
        ...

    def flush(self) -> None:
        """Makes what was written safe against the end of this process."""
        ...


class NoMetrics:
    """For ranks other than 0."""

    def write(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class MetricsFile:
    """Appends one JSON object per line, and the same numbers as TensorBoard scalars over the steps of the whole run."""

    def __init__(self, directory: Path, finished: Collection[str], current: str | None, step: int) -> None:
        """Opens the file at the point where training goes on.

        Args:
            directory: the run.
            finished: phases that have ended; their lines stay.
            current: phase that was interrupted, of which lines up to ``step`` stay.
            step: the step of its checkpoint.
        """
        # Imported here: it takes a second, and only rank 0 needs it.
        from torch.utils.tensorboard import SummaryWriter

        self._path = directory / NAME
        kept = [line for line in _lines(self._path) if line["phase"] in finished or (line["phase"] == current and line["step"] <= step)]
        write_text(self._path, "".join(_text(line) for line in kept))
        self._file = self._path.open("a", encoding="utf-8")
        last: dict[str, int] = {}
        for line in kept:
            last[line["phase"]] = max(last.get(line["phase"], 0), line["step"])
        self._steps = last
        self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=sum(last.values()) + 1)

    def write(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Takes in finite numbers of one step of one phase."""
        self._file.write(_text({"phase": phase, "step": step, **values}))
        self._steps[phase] = step
        total = sum(self._steps.values())
        for name, value in values.items():
            self._board.add_scalar(name, value, total)

    def flush(self) -> None:
        """Makes what was written safe against the end of this process."""
        self._file.flush()
        self._board.flush()

    def close(self) -> None:
        """Ends both."""
        self._file.close()
        self._board.close()


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of the file; one that a killed process left half-written is dropped."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"
