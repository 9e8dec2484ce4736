"""Which device a stage computes on."""

from __future__ import annotations

import pytest
import torch

from volgen.core.errors import UserError
from volgen.parallel import device


def test_a_rank_computes_on_its_own_gpu_unless_told_to_take_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    own = torch.device("cuda", 3)
    assert device.device_of_rank(None, own) == own
    assert device.device_of_rank("cuda", own) == own, "not number 0 for all of them"
    assert device.device_of_rank("cpu", own) == torch.device("cpu")
    monkeypatch.setattr(device, "usable_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device.device_of_rank("cuda:0", torch.device("cuda", 0)) == torch.device("cuda", 0), "srun --gpus-per-task=1"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(UserError, match="'cuda:0' is one GPU for all ranks"):
        device.device_of_rank("cuda:0", own)


def test_fp32_is_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    device.usable_device("cpu")
    assert not torch.backends.cudnn.allow_tf32, "what a network computes in fp32 is not rounded to ten bits"


def test_a_gpu_without_a_number_gets_that_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(1))
    assert device.usable_device("cuda") == torch.device("cuda", 2)
    assert device.usable_device("cuda:1") == torch.device("cuda", 1)
    assert device.usable_device("cpu") == torch.device("cpu")
