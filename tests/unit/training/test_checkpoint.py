"""Checkpoints on disk: whole or absent, the newest good one by checksum, and clear errors when they cannot be written."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from volgen.core.errors import UserError
from volgen.training import checkpoint
from volgen.training.checkpoint import Moment
from volgen.training.ema import EMA, EMAConfig
from volgen.training.stopping import Stopping, StoppingConfig


class OneRank:
    rank, world_size = 0, 1

    def sum(self, values: list[float]) -> list[float]:
        return list(values)

    def gather(self, text: str) -> list[str]:
        return [text]

    def barrier(self) -> None:
        pass


class Toy:
    """An engine whose masters are its weights."""

    kinds = ("weights", "exp_avg")
    accumulation = 1

    def __init__(self, value: float, size: int = 64) -> None:
        self.state = {
            kind: {"a": torch.full((size, 3), value + place), "b": torch.full((5,), -value)} for place, kind in enumerate(self.kinds)
        }
        self.updates = int(value)

    def masters(self) -> list[Tensor]:
        return list(self.state["weights"].values())

    def read(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        yield from ((name, tensor.clone()) for name, tensor in self.state[kind].items())

    def write(self, kind: str, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in self.state[kind].items():
            tensor.copy_(tensors[name])


RANKS = OneRank()


def save(folder: Path, step: int, size: int = 64) -> Path:
    """A checkpoint whose numbers all follow from ``step``."""
    engine = Toy(step, size)
    ema, stopping = EMA(EMAConfig(), [tensor * 10 for tensor in engine.masters()]), Stopping(StoppingConfig(), 100)
    stopping.update(step, 1.0 / step)
    checkpoint.save(Moment("0", 7, step, 40), engine, ema, stopping, RANKS, folder / "weights.safetensors")
    return folder / f"checkpoint-{step:08d}"


def load(path: Path) -> tuple[Toy, EMA, Stopping, Moment]:
    engine = Toy(0.0)
    ema, stopping = EMA(EMAConfig(), engine.masters()), Stopping(StoppingConfig(), 100)
    place = checkpoint.load(path, Moment("0", 7, 0, 0), engine, ema, stopping, RANKS, path.parent / "weights.safetensors")
    return engine, ema, stopping, place


def test_everything_comes_back(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"best so far")
    path = save(tmp_path, 5)
    (tmp_path / "weights.safetensors").write_bytes(b"of a later step")
    engine, ema, stopping, place = load(path)
    expected = Toy(5)
    assert all(torch.equal(engine.state[kind][name], expected.state[kind][name]) for kind in engine.kinds for name in ("a", "b"))
    assert all(torch.equal(average, 10 * tensor) for average, tensor in zip(ema.average, expected.masters(), strict=True))
    assert (ema.steps, engine.updates, stopping.best, stopping.best_step) == (5, 5, 0.2, 5)
    assert place == Moment("0", 7, 5, 40), "the data stream goes on where it was"
    assert (tmp_path / "weights.safetensors").read_bytes() == b"best so far", "the best weights are those of this state"
    assert "ledger" in json.loads((path / "state.json").read_text())


def test_the_average_comes_back_with_its_updates_not_with_the_steps(tmp_path: Path) -> None:
    engine = Toy(3)  # of five steps two were skipped
    checkpoint.save(Moment("0", 7, 5, 40), engine, EMA(EMAConfig(), engine.masters()), Stopping(StoppingConfig(), 9), RANKS, tmp_path / "w")
    assert load(tmp_path / "checkpoint-00000005")[1].steps == 3


def test_the_last_two_stay(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000004", "checkpoint-00000006"]
    checkpoint.remove(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["truncated", "flipped", "missing", "longer"])
@pytest.mark.parametrize("name", ["weights-00000.safetensors", "exp_avg-00000.safetensors", "average-00000.safetensors", "state.json"])
def test_a_damaged_one_is_named_set_aside_and_the_one_before_it_taken(
    name: str, how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = save(tmp_path, 2), save(tmp_path, 4)
    file = bad / name
    content = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    else:
        content[random.Random(name).randrange(len(content))] ^= 4
        file.write_bytes({"truncated": content[: len(content) // 2], "flipped": content, "longer": file.read_bytes() + b" "}[how])
    if (name, how) == ("state.json", "longer"):
        assert checkpoint.find(tmp_path, RANKS) == bad, "a blank at the end of JSON means nothing"
        return
    assert checkpoint.latest(tmp_path) == good
    assert checkpoint.find(tmp_path, RANKS) == good
    said = capsys.readouterr().err
    assert said.count("is damaged") == 1 and name in said and "goes on from step 2" in said
    assert (tmp_path / ".damaged-checkpoint-00000004").is_dir(), "kept until a later good one exists"
    assert checkpoint.find(tmp_path, RANKS) == good and "damaged" not in capsys.readouterr().err, "said once"
    save(tmp_path, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000002", "checkpoint-00000004"]
    assert load(tmp_path / "checkpoint-00000004")[3].step == 4


@pytest.mark.parametrize("errno_", [errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE])
def test_a_file_that_cannot_be_read_now_is_not_taken_for_damaged(errno_: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 2), save(tmp_path, 4)
    before = sorted(tmp_path.rglob("*"))

    def fail(path: Path) -> str:
        raise OSError(errno_, os.strerror(errno_))

    monkeypatch.setattr("volgen.training.checkpoint_files.sha256", fail)
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.find(tmp_path, RANKS)
    assert sorted(tmp_path.rglob("*")) == before


def test_without_a_good_one_training_starts_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path, 2)
    (path / "weights-00000.safetensors").unlink()
    assert checkpoint.find(tmp_path, RANKS) is None
    assert "from the start of this network: there is no other" in capsys.readouterr().err
    assert checkpoint.find(tmp_path / "never", RANKS) is None


def test_a_partial_one_is_no_checkpoint_and_goes(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-00000008.partial").mkdir()
    assert checkpoint.find(tmp_path, RANKS) is None
    save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000002"]


def test_that_of_another_phase_or_seed_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 2)
    engine, stopping = Toy(0.0), Stopping(StoppingConfig(), 100)
    for place in (Moment("1", 7, 0, 0), Moment("0", 8, 0, 0)):
        with pytest.raises(UserError, match="is of '0' with seed 7"):
            checkpoint.load(path, place, engine, EMA(EMAConfig(), engine.masters()), stopping, RANKS, tmp_path / "w")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this machine mounts no tmpfs: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_full_disk_is_a_clear_error_and_the_last_good_state_survives(small: Path) -> None:
    before = save(small, 2)
    with pytest.raises(UserError, match=r"(?s)No space left on device \(rank 0\).*room.*goes on from the last good checkpoint"):
        save(small, 4, size=20_000)
    assert [path.name for path in small.iterdir()] == [before.name], "nothing half-written takes up the little room there is"
    assert checkpoint.find(small, RANKS) == before
    save(small, 4)
    assert checkpoint.latest(small) == small / "checkpoint-00000004"


def test_a_read_only_folder_is_a_clear_error(small: Path) -> None:
    before = save(small, 2)
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    with pytest.raises(UserError, match="Read-only file system"):
        save(small, 4)
    assert checkpoint.find(small, RANKS) == before
