from __future__ import annotations

import json
import multiprocessing
import os
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from volgen.core.errors import UserError
from volgen.training import metrics as metrics_module
from volgen.training.metrics import MetricsFile, put_in_order


def write(directory: Path, phase: str, after: int, until: int) -> None:
    """Trains ``phase`` from the step after ``after`` to ``until``."""
    metrics = MetricsFile(directory)
    metrics.begin(phase, after)
    for step in range(after + 1, until + 1):
        metrics.write(phase, step, {"loss": step / 10})
    metrics.close()


class Short(FileIO):
    """A file on a disk with room for 10 more bytes."""

    def write(self, content: Any) -> int:
        return super().write(content[:10])


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def steps(directory: Path) -> list[tuple[str, int]]:
    return [(line["phase"], line["step"]) for line in lines(directory)]


def test_a_resumed_file_has_neither_gaps_nor_repetitions(tmp_path: Path) -> None:
    write(tmp_path, "shared", 0, 2)
    write(tmp_path, "1", 0, 3)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "1", "st')
    write(tmp_path, "1", 2, 4)
    assert steps(tmp_path) == [("shared", 1), ("shared", 2), ("1", 1), ("1", 2), ("1", 3), ("1", 4)]


def test_what_a_killed_process_left_of_a_line_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path)
    metrics.begin("1", 0)
    metrics.write("1", 1, {"loss": 0.5})
    metrics.flush()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "0", "step": 9, "note": "' + "long " * 3000)
    metrics.write("1", 2, {"loss": 0.25})
    metrics.close()
    assert lines(tmp_path) == [{"phase": "1", "step": 1, "loss": 0.5}, {"phase": "1", "step": 2, "loss": 0.25}]


def test_numbers_that_were_flushed_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    names = "/proc/self/fd/{}"
    monkeypatch.setattr(
        os, "fsync", lambda handle: synced.append(path.read_text() if (path := Path(names.format(handle))).is_file() else "")
    )
    metrics = MetricsFile(tmp_path)
    metrics.begin("0", 0)
    metrics.write("0", 1, {"loss": 0.5})
    synced.clear()
    monkeypatch.setattr("volgen.training.metrics.SECONDS_BETWEEN_WRITES", -1.0)
    metrics.write("0", 2, {"loss": 0.25})
    assert lines(tmp_path)[-1]["step"] == 2 and not synced, "people see it, and no step waits for the disk"
    metrics.flush()
    assert (tmp_path / "metrics.jsonl").read_text() in synced
    metrics.close()


def test_going_on_with_one_phase_leaves_the_others_alone(tmp_path: Path) -> None:
    other = MetricsFile(tmp_path)
    other.begin("2", 0)
    other.write("2", 1, {"loss": 1.0})
    other.flush()
    write(tmp_path, "1", 0, 5)
    other.write("2", 2, {"loss": 0.5})
    write(tmp_path, "1", 3, 4)  # killed at step 5, and its checkpoint was of step 3
    other.close()
    assert sorted(steps(tmp_path)) == [("1", 1), ("1", 2), ("1", 3), ("1", 4), ("2", 1), ("2", 2)]


def test_a_network_that_begins_does_not_read_the_numbers_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for phase in ("1", "10", "shared"):
        write(tmp_path, phase, 0, 5)
    before, read = (tmp_path / "metrics.jsonl").read_bytes(), []
    line = metrics_module._line
    monkeypatch.setattr(metrics_module, "_line", lambda path, number, text: read.append(number) or line(path, number, text))
    MetricsFile(tmp_path).begin("2", 0)
    assert not read and (tmp_path / "metrics.jsonl").read_bytes() == before
    metrics = MetricsFile(tmp_path)
    metrics.begin("1", 3)
    assert read == [1, 2, 3, 4, 5]
    assert steps(tmp_path) == [
        (phase, step) for phase in ("1", "10", "shared") for step in range(1, 6) if (phase, step) not in {("1", 4), ("1", 5)}
    ]
    metrics.close()


def test_lines_that_somebody_has_removed_are_missed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    metrics = MetricsFile(tmp_path)
    metrics.begin("1", 0)
    for step in range(1, 7):
        metrics.write("1", step, {"loss": 1.0})
    metrics.close()
    path = tmp_path / "metrics.jsonl"
    put_in_order(tmp_path, ["1"], {"1": 6})
    assert "warning" not in capfd.readouterr().err
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    metrics.begin("1", 5)
    metrics.close()
    assert "2 of the 5 lines of '1' are gone" in capfd.readouterr().err
    put_in_order(tmp_path, ["1"], {"1": 6})
    assert "metrics.jsonl: 3 of the 6 lines of '1' are gone" in capfd.readouterr().err


def test_lines_that_somebody_has_changed_are_noticed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "0", 0, 3)
    metrics = MetricsFile(tmp_path)
    metrics.begin("1", 0)
    for step in range(1, 7):
        metrics.write("1", step, {"loss": step / 3})
        metrics.flush()
        if step == 4:
            at_the_checkpoint = metrics.digest()
    metrics.begin("1", 4, at_the_checkpoint)
    metrics.write("1", 5, {"loss": 0.1})
    digest = metrics.digest()
    metrics.close()
    put_in_order(tmp_path, ["1", "0"], {"1": 5, "0": 3}, {"1": digest, "0": ""})
    assert "warning" not in capfd.readouterr().err
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace("0.66", "0.67"))
    metrics.begin("1", 4, at_the_checkpoint)
    metrics.close()
    put_in_order(tmp_path, ["1"], {"1": 4}, {"1": at_the_checkpoint})
    assert capfd.readouterr().err.count("metrics.jsonl: lines of '1' are not those that were written") == 2


def test_processes_that_write_at_once_lose_no_line(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=often, args=(tmp_path, str(number))) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    put_in_order(tmp_path, ["1", "0"])
    assert steps(tmp_path) == [(phase, step) for phase in ("1", "0") for step in range(1, 301)]


def often(directory: Path, phase: str) -> None:
    """Begins again and again and flushes after each step, so that rewriting and appending get in each other's way if they can."""
    metrics = MetricsFile(directory)
    for start in range(0, 300, 30):
        metrics.begin(phase, start)
        for step in range(start + 1, start + 31):
            metrics.write(phase, step, {"loss": 1.0 / step})
            metrics.flush()
    metrics.close()


def test_a_full_disk_is_told_at_the_next_checkpoint_and_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = MetricsFile(tmp_path)
    metrics.begin("1", 0)
    metrics.write("1", 1, {"loss": 0.5})
    metrics.flush()
    monkeypatch.setattr("volgen.training.metrics.SECONDS_BETWEEN_WRITES", -1.0)
    with monkeypatch.context() as patch:
        patch.setattr("volgen.training.metrics.open_plain", lambda path, *how, **more: Short(path, "ab+"))
        metrics.write("1", 2, {"loss": 0.25})
        with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be written \(No space left on device\)"):
            metrics.flush()
    assert steps(tmp_path) == [("1", 1)]
    metrics.close()
    assert steps(tmp_path) == [("1", 1), ("1", 2)]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    write(tmp_path, "1", 0, 2)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace("phase", "phrase", 1))
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 1 is damaged"):
        write(tmp_path, "0", 0, 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_a_curve_for_each_phase(tmp_path: Path) -> None:
    write(tmp_path, "1", 0, 2)
    write(tmp_path, "0", 0, 3)
    write(tmp_path, "0", 1, 3)
    for phase, last in (("1", 2), ("0", 3)):
        events = EventAccumulator(str(tmp_path / "tensorboard" / phase))
        events.Reload()
        found = [(event.step, event.value) for event in events.Scalars("loss")]
        assert found == [(step, pytest.approx(step / 10)) for step in range(1, last + 1)], "what was undone is purged"
