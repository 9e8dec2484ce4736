"""An attack on a private run from its released weights, by somebody who holds everything but one patient's participation.

They know the source, the recipe, its seed and all scans. One step is trained, in which everybody takes part, so that the mechanism is
the plain Gaussian one with nothing to average away: the weights move by the learning rate against the sign of the noised sum (Adam). The
score of a run is the sum of these signs along the direction in which the sum of contributions moves when the patient is left out, in
units of its spread. An honest ledger bounds how far apart the scores of runs with and without the patient can lie: sqrt(2 / pi) / sigma.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.core.given import Examples
from volgen.data.record import SubjectRecord
from volgen.data.store import Store
from volgen.data.stream import Stream, StreamConfig
from volgen.methods import Fitted
from volgen.parallel.group import Group
from volgen.parallel.launch import Launch
from volgen.parallel.private_engine import Pass
from volgen.privacy import protected
from volgen.privacy.ledger import Budget, Ledger
from volgen.privacy.mechanism import GradientMechanism
from volgen.privacy.plans.dp_sgd import Mechanism
from volgen.privacy.secret import Secret
from volgen.recipe import Recipe
from volgen.training.interrupt import Interrupt
from volgen.training.protocols import NO_PULSE

SIGN = math.sqrt(2.0 / math.pi)
"""What a unit shift of a standard normal number does to the mean of its sign."""


def recipe(store: Path, runs: Path, name: str, shape: Sequence[int], population: int, epsilon: float = 8.0) -> Recipe:
    content = {
        "name": name, "runs": str(runs), "seed": 1,
        "data": {"store": str(store), "shape": list(shape), "batch_size": population, "workers": 1},
        "schedule": {"kind": "log_snr", "points": 8, "sigma_min": 0.1, "sigma_max": 1.5},
        "network": {"kind": "wavelet_unet3d", "channels": [32], "norm_groups": 4, "haar_levels": 2},
        "preconditioner": {"kind": "edm"}, "stopping": {"max_steps": 1, "min_steps": 1},
        "optimiser": {"warmup_steps": 0, "gradient_clip": 0.0, "learning_rate": 5e-3},
        "privacy": {
            "kind": "dp_sgd", "epsilon": epsilon, "delta": 1e-5, "clip_norm": 0.05, "spare": 0.0, "population": population,
        },
    }  # fmt: skip
    return validate(Recipe, content, "test")


@contextmanager
def world(store: Path, gone: str = "", contrasts: bool = False) -> Iterator[None]:
    """The cohort without one patient; with ``contrasts`` every second patient of the whole cohort was scanned with the opposite one."""
    people = sorted({record.patient for record in Store.open(store).split("train")})
    odd, plain, whole = set(people[1::2]), Stream._example, StreamConfig.records
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StreamConfig, "records", lambda *a: [record for record in whole(*a) if record.patient != gone])
        if contrasts:

            def contrasted(self: Stream, record: SubjectRecord, *key: int | str) -> Examples:
                found = plain(self, record, *key)
                return Examples(found.x_BCXYZ * (-1.0 if record.patient in odd else 1.0), found.given)

            patch.setattr(Stream, "_example", contrasted)
        yield


class KnownDraws(GradientMechanism):
    """Everything that is random about patients follows from a key that the attacker is given; the noise does not. Keeps what is added."""

    key = bytes(32)
    added: list[Tensor]
    order: Sequence[str] = ()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        KnownDraws.added = []

    def draw(self, patients: Sequence[str]) -> list[str]:
        self.order = patients
        return super().draw(patients)

    def seed(self, patient: str) -> int:
        return Secret(self.key).number("patient", patient)

    def add(self, total: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        alone = [torch.zeros_like(tensor) for tensor in total]
        super().add(alone, gradients)
        KnownDraws.added.append(torch.cat([tensor.flatten() for tensor in alone]).double())
        for tensor, mine in zip(total, alone, strict=True):
            tensor += mine


class _Engine:
    """Gradients at the weights that the run begins with."""

    at_once, in_step, device = Pass(), False, torch.device("cpu")

    def __init__(self, network: torch.nn.Module) -> None:
        self.network, self.weights = network.train(), list(network.parameters())
        self.shapes = [weight.shape for weight in self.weights]

    def __call__(self, inputs: Tensor, noise: Tensor) -> Tensor:
        output: Tensor = self.network(inputs, noise)
        return output

    def gradients(self, loss: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(loss, self.weights, allow_unused=True)
        return [torch.zeros_like(w) if g is None else g for g, w in zip(found, self.weights, strict=True)]

    def give(self, gradients: Sequence[Tensor]) -> None:
        pass


def contributions(asked: Recipe, folder: Path, key: bytes) -> dict[str, Tensor]:
    """What each patient adds to the first step, flat, in units of the clip norm."""
    group = Group(Launch(), torch.device("cpu"))
    asked.directory.mkdir(parents=True, exist_ok=True)
    if not Ledger.exists(asked.directory):
        Ledger.create(asked.directory, Budget(8.0, 1e-5, "rdp"), Mechanism(1.0, 1.0, asked.privacy.clip_norm), 1, {})
    (phase,) = asked.phases()[-1:]
    engine, preconditioner = _Engine(asked.build().network(phase)), asked.preconditioner.fit(lambda: iter(()), [], 0)
    with pytest.MonkeyPatch.context() as patch, closing(Stream(Store.open(asked.data.store), "train", asked.data, asked.seed)) as stream:
        patch.setattr(protected, "GradientMechanism", KnownDraws)
        patch.setattr(KnownDraws, "key", key)
        rule = asked.privacy.build(asked).gradient(stream, group, Interrupt(watch_parent=False), NO_PULSE)
        objective = asked.build().objective(phase, Fitted(preconditioner))
        rule.take(phase.name, engine, objective, 1, 0)
    return {person: added / asked.privacy.clip_norm for person, added in zip(rule.patients, KnownDraws.added, strict=True)}


@dataclass(frozen=True)
class Found:
    """What a patient's absence does.

    Attributes:
        moves: norm of what the sum of contributions moves by, in units of the clip norm; at most 1 is claimed.
        changed: how many other patients' contributions changed.
        others: how many others there are.
        direction: of the move, of norm 1.
    """

    moves: float
    changed: int
    others: int
    direction: Tensor


def leave_out(asked: Recipe, store: Path, gone: str, folder: Path, key: bytes, contrasts: bool) -> Found:
    """Compares the contributions of two worlds."""
    with world(store, contrasts=contrasts):
        here = contributions(asked, folder, key)
    with world(store, gone, contrasts):
        without = contributions(asked, folder, key)
    changed = sum(not torch.equal(here[person], mine) for person, mine in without.items())
    move = torch.stack(list(here.values())).sum(dim=0) - torch.stack(list(without.values())).sum(dim=0)
    return Found(float(move.norm()), changed, len(without), move / move.norm())


def score(run: Path, asked: Recipe, direction: Tensor) -> tuple[float, float]:
    """The score of a trained run, and the noise multiplier that its ledger claims."""
    (phase,) = asked.phases()[-1:]
    before = dict(asked.build().network(phase).named_parameters())
    weights = load_file(run / "experts" / phase.name / "weights.safetensors")
    moved = torch.cat([(weights[name] - weight.detach()).flatten() for name, weight in before.items()]).double()
    (entry,) = json.loads((run / "privacy_ledger.json").read_text())["entries"]
    return float((torch.sign(-moved) * direction).sum()), float(entry["noise_multiplier"])


def separation(
    store: Path, runs: Path, shape: Sequence[int], population: int, gone: str, direction: Tensor, count: int, *, contrasts: bool,
    key: bytes | None,
) -> tuple[float, float, float]:  # fmt: skip
    """Distance of the mean scores with and without the patient, its standard error, and the most that the ledger allows.

    Args:
        store: the cohort.
        runs: a new folder.
        shape: of its volumes.
        population: public number of patients.
        gone: the patient.
        direction: along which to score.
        count: runs of each world.
        contrasts: as in :func:`world`.
        key: of the draws for patients, if the attacker was told them; of the launch's own secret if None.
    """
    scores: dict[str, list[float]] = {"": [], gone: []}
    sigma = math.nan
    with pytest.MonkeyPatch.context() as patch:
        if key is not None:
            patch.setattr(protected, "GradientMechanism", KnownDraws)
            patch.setattr(KnownDraws, "key", key)
        for number in range(count):
            for left_out, told in scores.items():
                asked = recipe(store, runs, f"run{number}{'without' if left_out else 'with'}", shape, population)
                with world(store, left_out, contrasts):
                    found, sigma = score(train(asked), asked, direction)
                told.append(found)
    inside, outside = (torch.tensor(values, dtype=torch.float64) for values in scores.values())
    error = float((inside.var() / count + outside.var() / count).sqrt())
    return float(inside.mean() - outside.mean()), error, SIGN / sigma
