"""ZeRO 0 to 3 with one rank, over the device's own backend: equal losses and gradients, offloading, Muon, and a run that is continued."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest
from part import Part, apart_by, volgen
from torch import distributed

from volgen.core.exit_codes import SAVED
from volgen.parallel.engine import Engine
from volgen.training.metrics import MetricsFile

LIMIT = {"cuda": 150, "cpu": 180}
TURN = 2
pytestmark = pytest.mark.gpu
BACKEND = {"cuda": "nccl", "cpu": "gloo"}
STAGES = (1, 2, 3)
OFFLOADS = ((1, "optimiser"), (2, "optimiser"), (3, "optimiser"), (3, "optimiser_and_weights"))


def _uneven(patch: pytest.MonkeyPatch) -> None:
    real = Engine.backward
    patch.setattr(Engine, "backward", lambda self, loss: real(self, loss * (1 + 0.5 * self._stage)))


def _uphill(patch: pytest.MonkeyPatch) -> None:
    """Muon's steps are as long whatever the loss is multiplied with."""
    real = Engine.backward
    patch.setattr(Engine, "backward", lambda self, loss: real(self, -loss if self._stage else loss))


def _numbers(part: Part, name: str, code: int = 0, **engine: Any) -> list[float]:
    """Losses and gradient norms of every step."""
    optimiser = {"gradient_clip": 0.0}
    if engine.pop("muon", False):
        optimiser |= {"matrix_learning_rate": 5e-2, "learning_rate": 1e-2, "warmup_steps": 0}
    volgen("train", "--config", part.config(name, engine=engine, optimiser=optimiser), code=code)
    lines = [json.loads(line) for line in (part.run(name) / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines for key in ("loss", "gradient_norm")]


@pytest.mark.mutant.with_args(_uneven)
@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-4), ("bf16", 2e-2)])
def test_every_stage_trains_alike(part: Part, precision: str, most: float) -> None:
    expected = _numbers(part, f"zero0_{precision}", precision=precision, zero_stage=0)
    assert distributed.get_backend() == BACKEND[part.device]
    for stage in STAGES:
        apart = apart_by(_numbers(part, f"zero{stage}_{precision}", precision=precision, zero_stage=stage), expected)
        part.say(f"ZeRO-{stage} and ZeRO-0 in {precision}, apart", apart)
        assert apart < most


@pytest.mark.mutant.with_args(_uneven)
def test_offloading_changes_nothing(part: Part) -> None:
    expected = _numbers(part, "offload_none", zero_stage=0)
    for stage, offload in OFFLOADS:
        apart = apart_by(_numbers(part, f"offload{stage}_{offload}", zero_stage=stage, offload=offload), expected)
        part.say(f"ZeRO-{stage} with {offload} on the host and ZeRO-0, apart", apart)
        assert apart < 1e-4


@pytest.mark.mutant.with_args(_uphill)
def test_muon_needs_no_compiler(part: Part) -> None:
    """DeepSpeed would compile its products of matrices, and its own AdamW beside them; losses alone, because norms differ by stage."""
    expected = _numbers(part, "muon0", muon=True, zero_stage=0, precision="bf16")
    for stage in (2, 3):
        found = _numbers(part, f"muon{stage}", muon=True, zero_stage=stage, precision="bf16")
        apart = apart_by(found[::2], expected[::2])
        part.say(f"Muon at ZeRO-{stage} and ZeRO-0, apart", apart)
        assert apart < 3e-2


@pytest.mark.mutant.with_args(_uneven)
def test_a_run_goes_on_at_another_stage(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _numbers(part, "uninterrupted", zero_stage=1)
    real = MetricsFile.write

    def stopping(self: MetricsFile, phase: str, step: int, values: dict[str, float]) -> None:
        real(self, phase, step, values)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "write", stopping)
        with pytest.raises(SystemExit) as left:
            volgen("train", "--config", part.config("stopped", engine={"zero_stage": 2}, optimiser={"gradient_clip": 0.0}))
        assert left.value.code == SAVED
    apart = apart_by(_numbers(part, "stopped", zero_stage=3), whole)
    part.say("stopped at ZeRO-2 and continued at ZeRO-3, and ZeRO-1 without a stop, apart", apart)
    assert apart < 1e-4
