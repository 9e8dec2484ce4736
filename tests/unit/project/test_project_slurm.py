"""What launch/slurm.sbatch does after each end of training, in a Slurm made of shell scripts (tests/distributed/cluster has a real one)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from volgen.training import relaunch

ROOT = Path(__file__).resolve().parents[3]
SAVES = "+"
"""Before an exit code: training has saved something in that attempt."""
LOST, SAVED = "75", "85"


class Job:
    """A job of a Slurm that starts it again whenever it asks for that."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder, self.restarts, self.said = folder, 0, ""
        self._programs = folder / "programs"
        self._programs.mkdir()
        self._write("python", "exit 0")  # find_volgen asks whether it knows volgen
        self._write("srun", f'[ "${{END#+}}" = "$END" ] || rm -f "${relaunch.FAILURES}"; exit "${{END#+}}"')
        self._write("scontrol", 'echo "$2" > requeued')
        self._variables = variables

    def end(self, how: str) -> int | None:
        """Training ends with a code; returns that of the job, or None if it is requeued."""
        environment = {
            "PATH": f"{self._programs}:{os.environ['PATH']}", "VOLGEN_ROOT": str(ROOT), "VENV": str(self.folder / "none"),
            "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(self.restarts), "END": how, **self._variables,
        }  # fmt: skip
        command = ["bash", str(ROOT / "launch" / "slurm.sbatch"), "--config", "x.yaml"]
        done = subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True, check=False)
        self.said = done.stderr
        asked = self.folder / "requeued"
        if not asked.exists():
            return done.returncode
        assert done.returncode == 0, self.said
        self.requeued = asked.read_text().strip()
        asked.unlink()
        self.restarts += 1
        return None

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path != self._programs)

    def _write(self, name: str, line: str) -> None:
        (self._programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (self._programs / name).chmod(0o755)


def test_a_job_that_was_preempted_often_may_still_lose_ranks(tmp_path: Path) -> None:
    job = Job(tmp_path)
    for _ in range(6):
        assert job.end(SAVES + SAVED) is None, job.said
    for _ in range(3):
        assert job.end(LOST) is None, job.said
    assert job.end(LOST) == 2
    assert "a rank was lost" in job.said and "after 3 restarts in which nothing was saved" in job.said
    assert not job.files(), "nothing is left behind"


def test_a_job_that_saves_between_its_failures_goes_on(tmp_path: Path) -> None:
    job = Job(tmp_path)
    for _ in range(4):
        for end in (LOST, "137", SAVES + LOST):
            assert job.end(end) is None, job.said
    assert job.end("0") == 0
    assert not job.files()


def test_what_would_end_in_the_same_way_is_not_started_again(tmp_path: Path) -> None:
    job = Job(tmp_path)
    assert job.end(LOST) is None
    assert job.end("2") == 2
    assert not job.files()


def test_a_job_that_waits_for_what_nobody_trains_does_not_do_so_for_ever(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.end(SAVED)
    (ends,) = job.files()
    (tmp_path / ends).write_text(f"{SAVED}\n" * 99)
    assert job.end(SAVED) is None, "the hundredth time"
    assert job.end(SAVED) == 2
    assert "nobody trains what this job waits for" in job.said


def test_a_task_of_an_array_is_requeued_and_counted_alone(tmp_path: Path) -> None:
    job = Job(tmp_path, SLURM_ARRAY_JOB_ID="5", SLURM_ARRAY_TASK_ID="3")
    assert job.end(LOST) is None
    assert job.requeued == "5_3"
    assert job.files() == [".volgen-5_3.ends"]


def test_where_no_file_can_be_written_all_restarts_count(tmp_path: Path) -> None:
    job = Job(tmp_path, VOLGEN_FAILURES=str(tmp_path / "absent" / "file"))
    assert [job.end(LOST) for _ in range(4)] == [None, None, None, 2]


@pytest.mark.parametrize("there", [True, False])
def test_training_that_saves_deletes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    ends = tmp_path / "ends"
    if there:
        ends.write_text("75\n")
    monkeypatch.setenv(relaunch.FAILURES, str(ends))
    relaunch.saved()
    assert not ends.exists()
    monkeypatch.delenv(relaunch.FAILURES)
    relaunch.saved()
