"""What settings that are not chosen would change: layouts, cuDNN's choice of algorithms, TF32. Times, and whether they compute the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from part import Part
from torch import Tensor

from volgen.models.networks.wavelet_unet3d import Config

LIMIT = {"cuda": 75, "cpu": 180}
TURN = 1
pytestmark = pytest.mark.gpu
EDGE = {"cuda": 128, "cpu": 16}
REPEATS = {"cuda": 5, "cpu": 1}
SETTINGS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "channels last": {"channels_last": True},
    "cuDNN tries algorithms": {"benchmark": True},
    "cuDNN's deterministic algorithms": {"deterministic": True},
    "channels last, and cuDNN tries algorithms": {"channels_last": True, "benchmark": True},
    "fp32": {"bf16": False},
    "TF32": {"bf16": False, "allow_tf32": True},
}


def _doubled(patch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Tensor] = Tensor.contiguous
    patch.setattr(Tensor, "contiguous", lambda x, **format: 2 * real(x, **format))


def _flags(benchmark: bool = False, deterministic: bool = False, allow_tf32: bool = False) -> AbstractContextManager[None]:
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=benchmark, deterministic=deterministic, allow_tf32=allow_tf32)
    return flags if torch.cuda.is_available() else nullcontext()


@pytest.mark.mutant.with_args(_doubled)
def test_settings_compute_the_same(part: Part) -> None:
    edge, device = EDGE[part.device], torch.device(part.device)
    widths = part.sizes.large_widths or (64, 128, 256, 464)
    torch.manual_seed(0)
    network = Config(channels=widths, residual_blocks=2).build(inputs=2).to(device)
    for weight in network.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.05)
    x, noise = torch.randn(1, 2, edge, edge, edge).to(device), torch.zeros(1, device=device)
    losses: dict[str, float] = {}
    for name, asked in SETTINGS.items():
        setting = dict(asked)
        bf16, channels_last = setting.pop("bf16", True), setting.pop("channels_last", False)
        seen = x.contiguous(memory_format=torch.channels_last_3d) if channels_last else x
        with _flags(**setting):
            for turn in range(REPEATS[part.device] + 1):
                if turn == 1:
                    _wait(device)
                    began = time.perf_counter()
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    loss = network(seen, noise).float().square().mean()
                loss.backward()
            _wait(device)
        part.say(f"forward and backward of {edge}^3, {name}", (time.perf_counter() - began) / REPEATS[part.device], "s")
        losses[name] = float(loss.detach())
        network.zero_grad()
    for name, loss_then in losses.items():
        assert abs(loss_then / losses["fp32"] - 1) < 2e-2, f"{name}: {losses}"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
