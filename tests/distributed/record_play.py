"""Re:cord-play (Cebere et al. 2026): what everybody else adds to a private step must not change when somebody is left out.

Runs on the ranks that started it: ``record_play.py STORE FOLDER``; rank 0 prints, as JSON, how many contributions were compared in each
case and how many of them differ in any bit. Stream, views, draws, passes, preconditioner, clipping and noise are those of training. The
sum of contributions is dropped before the noise, in both worlds alike, so that the weights of later steps are the same.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from volgen.core.config import validate
from volgen.data.store import Store
from volgen.data.stream import Stream, StreamConfig
from volgen.methods import Fitted
from volgen.parallel import launch as launches
from volgen.parallel.group import Group
from volgen.parallel.private_engine import Pass, PrivateEngine
from volgen.planning import patients as private_pass
from volgen.privacy import protected
from volgen.privacy.ledger import Budget, Ledger
from volgen.privacy.mechanism import GradientMechanism
from volgen.privacy.per_sample import PerSample
from volgen.privacy.plans.dp_sgd import Mechanism
from volgen.recipe import Recipe
from volgen.training.interrupt import Interrupt
from volgen.training.protocols import NO_PULSE

STEPS, RATE, EDGE = 2, 0.7, 8
ONE, WHOLE, FOUR = Pass(), Pass(1, all_views=True), Pass(4, all_views=True)
MOVED = {"rotation_degrees": 10.0, "translation_mm": 4.0, "scale": 0.1, "flip_left_right": True}
NETWORKS: dict[str, dict[str, Any]] = {
    "wavelet_unet3d": {"channels": [4], "norm_groups": 2},
    "unet3d": {"channels": [4, 8], "attention": [False, True], "head_channels": 4, "norm_groups": 2},
    "slice_unet2d": {"channels": [4], "norm_groups": 2, "neighbours": 1},
    "triplanar": {"channels": [4], "norm_groups": 2, "neighbours": 1},
}
Case = tuple[str, str, str, int, Pass, dict[str, Any]]
CASES: dict[str, Case] = {
    # network, preconditioner, adapter, views, what goes through at once, engine
    "one view": ("wavelet_unet3d", "edm", "all", 1, ONE, {}),
    "views one by one": ("unet3d", "x0", "attention", 2, ONE, {}),
    "views together": ("slice_unet2d", "v", "bias", 2, WHOLE, {}),
    "four patients": ("wavelet_unet3d", "epsilon", "lora", 1, FOUR, {"zero_stage": 2}),
    "four patients, views": ("unet3d", "gaussian", "all", 2, FOUR, {}),
    "singular values": ("wavelet_unet3d", "edm", "svdiff", 1, ONE, {}),
    "bf16": ("triplanar", "flow", "bias", 2, WHOLE, {"precision": "bf16", "zero_stage": 3}),
}
"""Together they have every network, preconditioner and adapter that private training allows."""
SHARED = ("four patients", "bf16")
"""Those that two ranks run too."""
MUTANT = "by place"
"""What volgen 0.1.0 did: the key of a patient's draws is their place in the sorted list of ids."""


def recipe(case: Case, store: str, folder: Path) -> Recipe:
    network, preconditioner, adapter, views, _, engine = case
    fitted = {"rank": 2, "levels": 1} if preconditioner == "gaussian" else {}
    content = {
        "name": "run", "runs": str(folder), "seed": 1,
        "data": {"store": store, "shape": [EDGE] * 3, "batch_size": 4, "workers": 1, "augment": MOVED},
        "schedule": {"kind": "log_snr", "points": 4}, "network": {"kind": network, **NETWORKS[network]}, "engine": engine,
        "preconditioner": {"kind": preconditioner, **fitted},
        "adapter": {"kind": adapter, **({"rank": 2} if adapter == "lora" else {})},
        "start": {"kind": "public", "run": "nowhere"}, "experts": {"warm_start": "none"},
        "optimiser": {"gradient_clip": 0.0}, "stopping": {"max_steps": STEPS, "min_steps": STEPS},
        "privacy": {"kind": "dp_sgd", "epsilon": 8.0, "delta": 1e-3, "views": views, "clip_norm": 0.05},
    }  # fmt: skip
    return validate(Recipe, content, "test")


@contextmanager
def without(gone: str) -> Iterator[None]:
    """The cohort as it would be if somebody had never been asked."""
    whole = StreamConfig.records
    StreamConfig.records = lambda self, *which, **more: [r for r in whole(self, *which, **more) if r.patient != gone]  # type: ignore[method-assign]
    yield
    StreamConfig.records = whole  # type: ignore[method-assign]


class Recorder(GradientMechanism):
    """Remembers a digest of what each patient adds."""

    key = bytes(range(32))
    by_place = False

    def __init__(self, mechanism: Mechanism, divisor: float, secret: Any, rank: int, world_size: int) -> None:
        super().__init__(mechanism, divisor, type(secret)(self.key), rank, world_size)
        self.found: dict[str, str] = {}
        self._turn = iter(())
        self._places: dict[str, int] = {}

    def draw(self, patients: Sequence[str]) -> list[str]:
        self._places = {patient: place for place, patient in enumerate(patients)}
        drawn = super().draw(patients)
        self._turn = iter(drawn[self._rank :: self._world_size])
        return drawn

    def add(self, total: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        alone = [torch.zeros_like(tensor) for tensor in total]
        super().add(alone, gradients)
        digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in alone)).hexdigest()
        self.found[f"{self._step} {next(self._turn)}"] = digest if any(bool(tensor.any()) for tensor in alone) else "nothing"

    def seed(self, patient: str) -> int:
        return super().seed(f"{self._places[patient]}" if self.by_place else patient)

    def finish(self, total: Sequence[Tensor]) -> list[Tensor]:
        return super().finish([torch.zeros_like(tensor) for tensor in total])


def play(case: Case, store: Store, folder: Path, gone: str, group: Group) -> dict[str, str]:
    """What each patient added in each step, on any rank."""
    asked, at_once = recipe(case, str(store.path), folder), case[4]
    with without(gone), closing(Stream(store, "train", asked.data, asked.seed, group.rank, group.world_size)) as stream:
        protected.GradientMechanism = Recorder  # type: ignore[misc]
        rule = asked.privacy.build(asked).gradient(stream, group, Interrupt(watch_parent=False), NO_PULSE)
        network = asked.build().network(asked.phases()[-1])
        for weight in network.parameters():
            if not weight.any():  # nothing would reach what is before it
                weight.data += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
        if at_once.patients > 1 and any(text.strip() for text in group.gather(private_pass._meets(asked, network, at_once, group) or " ")):
            at_once = WHOLE  # as training would on such a machine
        each = PerSample(network) if at_once.patients > 1 else None
        engine = PrivateEngine(network, asked.engine, at_once=at_once, per_sample=each)
        noises = [torch.randn((EDGE,) * 3, generator=torch.Generator().manual_seed(number)) for number in range(8)]
        preconditioner = asked.preconditioner.fit(lambda: iter(noises), [str(number) for number in range(8)], 0)
        objective = asked.build().objective(asked.phases()[-1], Fitted(preconditioner), lambda quantile: 0.2 + 3.0 * quantile)
        for step in range(1, STEPS + 1):
            rule.take("0", engine, objective, step, step - 1)
            engine.step(1e-2)
        engine.destroy()
    found: dict[str, str] = {}
    for text in group.gather(json.dumps(rule.sanitiser.found)):
        found |= json.loads(text)
    return found


def main(place: str, folder: str) -> None:
    launch = launches.discover()
    launches.publish(launch)
    group = Group(launch, launches.take_part(launch))
    store, told = Store.open(place), {}
    people = sorted({record.patient for record in store.split("train")})
    for number, (name, case) in enumerate({**CASES, MUTANT: CASES["one view"]}.items()):
        if group.world_size > 1 and name not in SHARED:
            continue
        Recorder.by_place = name == MUTANT
        runs = Path(folder) / f"{number}"
        if group.rank == 0:
            (runs / "run").mkdir(parents=True)
            Ledger.create(runs / "run", Budget(8.0, 1e-3, "rdp"), Mechanism(RATE, 1.0, 0.05), STEPS, {})
        group.barrier()
        everybody = play(case, store, runs, "", group)
        count: Counter[str] = Counter(drawn=len(everybody), people=len({key.split()[1] for key in everybody}))
        count["nothing"] = sum(digest == "nothing" for digest in everybody.values())
        for gone in (people[0], people[len(people) // 2], people[-1]):
            others = play(case, store, runs, gone, group)
            count["others drawn"] += others.keys() != {key for key in everybody if key.split()[1] != gone}
            count["compared"] += len(others)
            count["differ"] += sum(digest != everybody.get(key) for key, digest in others.items())
        told[name] = count
    if group.rank == 0:
        print("FOUND" + json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
