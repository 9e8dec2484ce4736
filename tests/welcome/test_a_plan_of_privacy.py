"""A plan of privacy is one file: it trains, its steps are in the journal under its name, and its guarantee is told and released."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOY = '''"""Everybody takes part in every step: the Gaussian mechanism without sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from volgen.privacy.accounting import Steps
from volgen.privacy.by_patient import ByPatient
from volgen.privacy.mechanism import clipped
from volgen.privacy.secret import Secret


@dataclass(frozen=True)
class Mechanism:
    """A step in which everybody takes part."""

    plan: ClassVar[str] = "everybody"
    name: ClassVar[str] = "Gaussian, everybody in each step"
    sampling_rate: ClassVar[float] = 1.0

    noise_multiplier: float
    clip_norm: float

    @property
    def sound(self) -> bool:
        return self.noise_multiplier > 0.0 and self.clip_norm > 0.0

    def select(self, secret: Secret, step: int, patients: Sequence[str]) -> list[str]:
        return list(patients)

    def clip(self, gradients: Sequence[Tensor]) -> float:
        return clipped(gradients, self.clip_norm)

    def noise(self, normal: Callable[[int], Tensor], step: int) -> Tensor:
        return normal(step) * (self.noise_multiplier * self.clip_norm)

    def cost(self, count: int) -> Steps:
        return Steps(1.0, self.noise_multiplier, count)


class Config(ByPatient):
    """Everybody in every step."""

    sampling: ClassVar[str] = "everybody, in every step"

    kind: Literal["everybody"] = "everybody"

    def mechanism(self, rate: float, planned: int) -> Mechanism:
        return Mechanism(self.calibrated(1.0, planned), self.clip_norm)
'''


@pytest.mark.slow
def test_a_plan_is_one_file(house: Callable[[], Any], blob_store: Path) -> None:
    newcomer = house()
    newcomer.add("privacy/plans/everybody.py", TOY)
    config = newcomer.folder / "config.yaml"
    config.write_text(
        f"name: toy\ndata: {{store: {blob_store}, shape: [16, 16, 16], batch_size: 9, workers: 1}}\n"
        "schedule: {kind: karras, points: 2}\nnetwork: {kind: wavelet_unet3d, channels: [8], norm_groups: 4}\n"
        "preconditioner: {kind: edm}\noptimiser: {gradient_clip: 0.0}\nexperts: {count: 1}\n"
        "stopping: {max_steps: 2, min_steps: 2}\n"
        "privacy: {kind: everybody, epsilon: 6.0, delta: 1.0e-3, accountant: rdp}\n"
    )
    said = newcomer.run("train", "--config", config)
    assert "sampling rate 1" in said
    run = newcomer.folder / "runs/toy"
    header, *lines = [json.loads(line) for line in (run / "privacy_journal.jsonl").read_text().splitlines()]
    assert header["mechanism"]["plan"] == "everybody" and "sampling_rate" not in header["mechanism"]
    assert [line["mechanism"] for line in lines] == [header["mechanism"]] * 2
    ledger = json.loads((run / "privacy_ledger.json").read_text())
    (entry,) = ledger["entries"]
    assert entry["mechanism"] == "Gaussian, everybody in each step" and entry["steps"] == 2
    assert 0.0 < ledger["epsilon"] < 6.0 and ledger["assumed"]["sampling"].startswith("everybody, in every step; ")
    newcomer.run("release", "runs/toy", "released")  # which computes the ledger anew from the journal
    assert json.loads((newcomer.folder / "released/statement.json").read_text())["guarantee"]
