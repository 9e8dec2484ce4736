"""Two ranks: on CPUs over gloo; on one GPU NCCL may refuse them, and volgen has to say so instead of hanging."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from part import Part, apart_by, volgen

from volgen.core.exit_codes import BAD_INPUT

LIMIT = {"cuda": 170, "cpu": 180}
TURN = 2
pytestmark = pytest.mark.gpu
SECONDS = 40
PORT = 29731
FASTER = {"learning_rate": 0.1, "warmup_steps": 0}


def _two(words: list[str], **variables: str) -> list[tuple[int | None, str]]:
    """Exit code (None: it hung) and last words of two ranks of one machine, which see what this process sees."""
    there = {name: value for name, value in os.environ.items() if not name.startswith("VOLGEN_CHECK_RECORD")}
    there |= {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(PORT), **variables}
    ranks = []
    for rank in ("0", "1"):
        mine = {**there, "RANK": rank, "LOCAL_RANK": rank}
        ranks.append(subprocess.Popen([sys.executable, *words], env=mine, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    ended: list[tuple[int | None, str]] = []
    for rank in ranks:
        try:
            said, _ = rank.communicate(timeout=SECONDS)
            ended.append((rank.returncode, said))
        except subprocess.TimeoutExpired:
            rank.kill()
            ended.append((None, rank.communicate()[0]))
    return ended


def _other_rate(patch: pytest.MonkeyPatch) -> None:
    """One rank trains with another learning rate than two."""
    real = Part.config
    patch.setattr(Part, "config", lambda self, name, **more: real(self, name, **more, **({} if name == "two" else {"optimiser": FASTER})))


@pytest.mark.mutant.with_args(_other_rate)
def test_two_ranks_train_what_one_does(part: Part) -> None:
    config = part.config("two", engine={"zero_stage": 2})
    words = ["-m", "volgen", "train", "--config", str(config)]
    if part.device == "cpu" or torch.cuda.device_count() > 1:
        ended = _two(words)
        assert [code for code, _ in ended] == [0, 0], ended[0][1][-2000:] + ended[1][1][-2000:]
        volgen("train", "--config", part.config("one", engine={"zero_stage": 2}))
        apart = apart_by(part.losses("two"), part.losses("one"))
        part.say("losses of two ranks and of one, apart", apart)
        assert apart < 1e-4
        return
    # One GPU is one rank's: of two that torchrun starts the second one is told so, and torchrun would end the first.
    ended = _two(words, TORCHELASTIC_RUN_ID="check")
    part.say("two ranks on one GPU", f"exit codes {[code for code, _ in ended]}: {ended[1][1].strip().splitlines()[-1:]}")
    assert ended[1][0] == BAD_INPUT
    assert "GPU" in ended[1][1]
    assert ended[0][0] != 0


@pytest.mark.mutant.with_args(lambda patch: patch.setattr("subprocess.Popen.communicate", lambda *_, **__: ("nothing", None)))
def test_whether_the_backend_takes_two_ranks_on_one_device(part: Part) -> None:
    """A question, whose answer is recorded: what torch's collectives do, as they are and with NCCL's switch for it."""
    script = Path(__file__).with_name("harness") / "two_ranks.py"
    for name, variables in (("as it is", {}), ("NCCL_MULTI_RANK_GPU_ENABLE", {"NCCL_MULTI_RANK_GPU_ENABLE": "1"})):
        ended = _two([str(script), part.device], **variables)
        last = [said.strip().splitlines()[-1:] or [""] for _, said in ended]
        part.say(f"two ranks and one {part.device}, {name}", f"{[code for code, _ in ended]}: {last[0][0][:300]}")
        if part.device == "cpu":
            assert [line[0] for line in last] == ["sum 3.0", "sum 3.0"]
