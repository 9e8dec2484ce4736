"""Training on the device and on the CPU, in fp32 and in bf16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from part import Part, apart_by, volgen
from safetensors.torch import load_file

from volgen.parallel import launch
from volgen.parallel.engine import Engine

LIMIT = {"cuda": 120, "cpu": 180}
TURN = 2
pytestmark = pytest.mark.gpu
FAST = {"learning_rate": 1e-2, "warmup_steps": 0}


def _backward_of_more(patch: pytest.MonkeyPatch) -> None:
    real = Engine.backward
    patch.setattr(Engine, "backward", lambda self, loss: real(self, 1.5 * loss.square()))


def _other_rate(patch: pytest.MonkeyPatch) -> None:
    real = Part.config
    faster = {**FAST, "learning_rate": 0.1}
    patch.setattr(
        Part, "config", lambda self, name, **more: real(self, name, **{**more, **({"optimiser": faster} if "bf16" in name else {})})
    )


def _rounded(patch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = torch.nn.functional.conv3d
    patch.setattr(torch.nn.functional, "conv3d", lambda x, w: real(x.bfloat16().to(x.dtype), w))


def _of_the_cpu(part: Part) -> list[float]:
    """Losses of the same run in a process that sees no GPU, and in which nothing is broken."""
    if not (part.run("cpu_fp32") / "ensemble.json").exists():
        done = part.on_the_cpu("train", "--config", part.config("cpu_fp32"))
        assert done.returncode == 0, done.stderr[-2000:]
    return part.losses("cpu_fp32")


@pytest.mark.mutant.with_args(_backward_of_more)
def test_losses_are_those_of_the_cpu(part: Part) -> None:
    volgen("train", "--config", part.config("device_fp32"))
    losses, expected = part.losses("device_fp32"), _of_the_cpu(part)
    apart = apart_by(losses, expected)
    weights, theirs = (load_file(part.run(name) / "experts" / "0" / "weights.safetensors") for name in ("device_fp32", "cpu_fp32"))
    squares = [(float((weights[name] - theirs[name]).square().sum()), float(theirs[name].square().sum())) for name in theirs]
    moved = (sum(difference for difference, _ in squares) / sum(whole for _, whole in squares)) ** 0.5
    part.say("fp32 losses on the device and on the CPU, apart", apart)
    part.say("fp32 weights on the device and on the CPU, apart", moved)
    assert apart < 1e-4
    assert moved < 1e-2


@pytest.mark.mutant.with_args(_other_rate)
def test_bf16_is_near_fp32(part: Part) -> None:
    """With steps that are large enough for the network to matter."""
    for precision in ("fp32", "bf16"):
        volgen("train", "--config", part.config(f"fast_{precision}", engine={"precision": precision}, optimiser=FAST))
    apart = apart_by(part.losses("fast_bf16"), part.losses("fast_fp32"))
    part.say("bf16 losses and fp32 losses on the device, apart", apart)
    assert apart < 3e-2


@pytest.mark.mutant.with_args(_rounded)
def test_fp32_is_not_rounded_to_fewer_bits(part: Part) -> None:
    """Of its own accord torch rounds what a GPU convolves to 10 bits (TF32)."""
    launch.take_part(launch.Launch())
    x, w = (torch.randn(*shape, generator=torch.Generator().manual_seed(7)) for shape in ((1, 16, 8, 8, 8), (16, 16, 3, 3, 3)))
    exact = torch.conv3d(x.double(), w.double())
    found = torch.nn.functional.conv3d(x.to(part.device), w.to(part.device))
    apart = float((found.double().cpu() - exact).norm() / exact.norm())
    part.say("fp32 convolution against float64, apart", apart)
    assert apart < 1e-5
