from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from volgen.training.metrics import MetricsFile


def write(directory: Path, finished: set[str], current: str | None, step: int, lines: list[tuple[str, int]]) -> None:
    metrics = MetricsFile(directory, finished, current, step)
    for phase, at in lines:
        metrics.write(phase, at, {"loss": at / 10})
    metrics.flush()
    metrics.close()


def test_a_resumed_file_has_neither_gaps_nor_repetitions(tmp_path: Path) -> None:
    write(tmp_path, set(), "shared", 0, [("shared", 1), ("shared", 2), ("1", 1), ("1", 2), ("1", 3)])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "1", "st')
    write(tmp_path, {"shared"}, "1", 2, [("1", 3), ("1", 4)])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["phase"], line["step"]) for line in lines] == [("shared", 1), ("shared", 2), ("1", 1), ("1", 2), ("1", 3), ("1", 4)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_counts_the_steps_of_the_whole_run(tmp_path: Path) -> None:
    write(tmp_path, set(), "1", 0, [("1", 1), ("1", 2), ("0", 1), ("0", 2), ("0", 3)])
    write(tmp_path, {"1"}, "0", 1, [("0", 2), ("0", 3)])
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5], "what was undone is purged"
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([0.1, 0.2, 0.1, 0.2, 0.3])
