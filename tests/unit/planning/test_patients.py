"""How many patients go through the network at once: as memory allows, and one where more would not be exact; the result is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from volgen.commands.train import parts
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.parallel.group import Group
from volgen.parallel.launch import Launch
from volgen.parallel.memory import NetworkSize
from volgen.parallel.private_engine import Pass
from volgen.planning import patients
from volgen.planning.patients import SHARE, Choice, choose, need, peaks
from volgen.privacy import secret
from volgen.recipe import Recipe

UNET = {"kind": "unet3d", "channels": [8, 16], "attention": [False, False], "head_channels": 8, "norm_groups": 4}
WAVELET = {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4}


def recipe(store: Path, runs: Path, network: dict[str, Any] = WAVELET, **engine: Any) -> Recipe:
    content = {
        "name": "private", "runs": str(runs), "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 4, "workers": 1},
        "schedule": {"kind": "log_snr", "points": 4}, "network": network, "preconditioner": {"kind": "edm"}, "engine": engine,
        "optimiser": {"warmup_steps": 0, "gradient_clip": 0.0}, "stopping": {"max_steps": 2, "min_steps": 2},
        "privacy": {"kind": "dp_sgd", "epsilon": 8.0, "delta": 1e-3, "views": 2, "accountant": "rdp"},
    }  # fmt: skip
    return validate(Recipe, content, "test")


def chosen(recipe: Recipe) -> Choice:
    network = recipe.build().network(recipe.phases()[-1])
    return choose(recipe, network, Group(Launch(), torch.device("cpu")))


def test_memory_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recipe(tmp_path, tmp_path)
    passes = asked.privacy.passes(4, several=True)
    assert passes == [Pass(), Pass(1, True), Pass(2, True), Pass(3, True), Pass(4, True)]
    held = peaks(asked, passes, gpu=False)
    needs = [need(asked, NetworkSize.of(asked.build().network(asked.phases()[-1]), False), 1, peak, gpu=False) for peak in held]
    assert needs == sorted(needs) and needs[-1] > needs[0]
    monkeypatch.setattr(patients, "peaks", lambda *_, **__: held)
    for place, bytes_needed in [(4, needs[4]), (3, needs[4] - 1), (1, needs[1]), (0, needs[0]), (0, 0)]:
        monkeypatch.setattr(patients, "_free", lambda _, count=bytes_needed: round(count / SHARE))
        assert chosen(asked).at_once == passes[place]
    assert "GiB free" in chosen(asked).why


@pytest.mark.parametrize(
    ("engine", "network", "reason"),
    [
        ({"zero_stage": 3}, WAVELET, "ZeRO-3"),
        ({"precision": "bf16"}, WAVELET, "bf16"),
        ({"activation_checkpointing": True}, WAVELET, "checkpointing"),
        ({}, {"kind": "slice_unet2d", "channels": [8]}, "Opacus"),
    ],
)
def test_one_patient_where_more_would_not_be_exact(engine: dict[str, Any], network: dict[str, Any], reason: str, tmp_path: Path) -> None:
    found = chosen(recipe(tmp_path, tmp_path, network, **engine))
    assert found.at_once == Pass(1, all_views=True) and reason in found.why


@pytest.mark.parametrize("network", [pytest.param(UNET, id="unet3d"), pytest.param(WAVELET, id="wavelet_unet3d", marks=pytest.mark.slow)])
def test_training_is_the_same_whatever_goes_through_at_once(
    network: dict[str, Any], blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret.secrets, "token_bytes", lambda count: bytes(range(count)))  # the same noise, once
    weights = []
    for at_once in (Pass(), Pass(1, all_views=True), Pass(3, all_views=True)):
        monkeypatch.setattr(parts, "choose", lambda *_, at_once=at_once: Choice(at_once, 0, "test"))
        run = train(recipe(blob_store, tmp_path / f"{at_once.patients}{at_once.all_views}", network))
        weights.append(load_file(run / "experts/0/weights.safetensors"))
    for name, first in weights[0].items():
        for other in weights[1:]:
            torch.testing.assert_close(other[name], first, rtol=0.0, atol=1e-6)
