"""One arm of ``volgen bench train``: training steps in a process of their own, so that peak memory, and a death of it, are its own."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from volgen.commands.plan.measure import SOMEBODY, made_up
from volgen.core.config import validate
from volgen.core.given import Examples
from volgen.core.manifest import peak_memory_bytes
from volgen.models.denoiser import Network
from volgen.parallel import launch as launches
from volgen.parallel.engine import Engine
from volgen.recipe import Recipe
from volgen.training.ema import EMA, EMAConfig
from volgen.training.objective import Objective

GIB, PEOPLE = 2**30, 16
_EXHAUSTED = ("can't allocate memory", "out of memory", "cannot allocate memory", "bad_alloc", "could not create a memory")


@dataclass(frozen=True)
class Arm:
    """What is trained, and how.

    Attributes:
        name: what its rows are called.
        edge: voxels along each axis of a volume.
        network: section of a configuration.
        preconditioner: kind of preconditioner.
        loop: "volgen" is DeepSpeed's engine as `volgen train` uses it; "bare" is the same step written with plain PyTorch.
        precision: arithmetic of the network.
        checkpointing: whether activations are recomputed.
        channels_last: whether the network sees its input with channels innermost.
        compiled: whether the network goes through ``torch.compile``.
        fused: whether the bare loop's AdamW is the fused one.
        muon: whether matrices are updated by Muon (volgen's loop only).
        batch: volumes in a step.
        passes: through the network that they share (gradient accumulation, volgen's loop only).
    """

    name: str
    edge: int
    network: Mapping[str, Any]
    preconditioner: str = "gaussian"
    loop: Literal["volgen", "bare"] = "volgen"
    precision: Literal["fp32", "bf16"] = "bf16"
    checkpointing: bool = True
    channels_last: bool = False
    compiled: bool = False
    fused: bool = False
    muon: bool = False
    batch: int = 1
    passes: int = 1


@dataclass(frozen=True)
class Figures:
    """What an arm took.

    Attributes:
        cpu: processor seconds of a step, the best.
        wall: seconds of a step, the best.
        peak: bytes, of the process or of the GPU's allocator.
        parameters: number of the network's weights.
        failed: why there are no figures, or "".
    """

    cpu: float = math.nan
    wall: float = math.nan
    peak: float = math.nan
    parameters: int = 0
    failed: str = ""


def measure(arm: Arm, steps: int, memory_gib: float, patience: float) -> Figures:
    """Runs an arm in a new process.

    Args:
        arm: what to train.
        steps: that are timed, after one that is not.
        memory_gib: what the process may take; more is "out of memory" (a row of its own, not the end of the benchmark).
        patience: seconds after which it is given up.
    """
    environment = {"OMP_WAIT_POLICY": "passive", "DS_ACCELERATOR": "" if torch.cuda.is_available() else "cpu"}
    variables = os.environ | {name: value for name, value in environment.items() if value}
    work = json.dumps({"arm": asdict(arm), "steps": steps, "memory": int(memory_gib * GIB)})
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-m", "volgen.bench.train.arm", work]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=patience, env=variables, cwd=folder)
        except subprocess.TimeoutExpired:
            return Figures(failed=f"longer than {patience:g} s")
    lines = done.stdout.split("\n")
    found = next((line for line in reversed(lines) if line.startswith("{")), None)
    if found is not None:
        return Figures(**json.loads(found))
    if done.returncode < 0 or any(sign in done.stderr.lower() for sign in _EXHAUSTED):
        return Figures(failed="out of memory")
    raise RuntimeError(f"{arm.name} failed:\n{done.stderr[-2000:]}")


def main(work: Mapping[str, Any]) -> Figures:
    """Trains in this process."""
    if not torch.cuda.is_available():
        resource.setrlimit(resource.RLIMIT_DATA, (work["memory"], work["memory"]))
    arm = Arm(**work["arm"])
    try:
        return _train(arm, work["steps"])
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _EXHAUSTED):
            return Figures(failed="out of memory")
        raise


def _train(arm: Arm, steps: int) -> Figures:
    recipe = _recipe(arm)
    device = launches.take_part(launches.Launch())
    torch.manual_seed(0)
    method, phase = recipe.build(), recipe.phases()[-1]
    network = method.network(phase)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if arm.channels_last:
        network.register_forward_pre_hook(_innermost)
    if arm.compiled:
        network.compile()
    objective = method.objective(phase, made_up(recipe, PEOPLE, device), lambda _: 1.0)
    step = (_with_engine if arm.loop == "volgen" else _bare)(recipe, arm, network.to(device))
    cpu, wall = [], []
    for number in range(1 + steps):
        _wait(device)
        began, spent = time.perf_counter(), time.process_time()
        x = torch.rand(arm.batch // arm.passes, 1, *recipe.data.grid, device=device)
        step(partial(_loss, objective=objective, x_BCXYZ=x))
        _wait(device)
        if number:
            cpu.append(time.process_time() - spent)
            wall.append(time.perf_counter() - began)
    peak = peak_memory_bytes() if device.type == "cpu" else torch.cuda.max_memory_allocated(device)
    return Figures(min(cpu), min(wall), peak, parameters)


def _innermost(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x_BCXYZ, *others = inputs
    return x_BCXYZ.contiguous(memory_format=torch.channels_last_3d), *others


def _loss(network: Network, objective: Objective, x_BCXYZ: Tensor) -> Tensor:
    return objective.loss(network, Examples(x_BCXYZ), _Draws(x_BCXYZ), [SOMEBODY] * len(x_BCXYZ)).mean()


@dataclass(frozen=True)
class _Draws:
    """Noise that is drawn where the volumes are: what is measured is the network, not torch's generators."""

    like_BCXYZ: Tensor
    step: int = 1

    def quantiles(self, purpose: str = "sigma") -> list[float]:
        return [0.5] * len(self.like_BCXYZ)

    def normal(self, shape: Sequence[int], purpose: str = "noise") -> Tensor:
        return torch.randn_like(self.like_BCXYZ)


Step = Callable[[Callable[[Network], Tensor]], None]


def _with_engine(recipe: Recipe, arm: Arm, network: nn.Module) -> Step:
    engine = Engine(network, recipe.engine, 1, matrix_rate=30.0 if arm.muon else 0.0)
    ema = EMA(recipe.ema, engine.masters())

    def step(loss: Callable[[Network], Tensor]) -> None:
        for _ in range(engine.accumulation):
            engine.backward(loss(engine))
        engine.step(1e-6)
        ema.update(engine.masters())

    return step


def _bare(recipe: Recipe, arm: Arm, network: nn.Module) -> Step:
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-6, weight_decay=0.0, fused=arm.fused or None)
    weights = list(network.parameters())
    ema = EMA(EMAConfig(), [weight.data for weight in weights])
    forward = recipe.build().forward(network)

    def step(loss: Callable[[Network], Tensor]) -> None:
        loss(forward).backward()
        nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        optimiser.step()
        optimiser.zero_grad()
        ema.update([weight.data for weight in weights])

    return step


def _recipe(arm: Arm) -> Recipe:
    preconditioner: dict[str, Any] = {"kind": arm.preconditioner}
    if arm.preconditioner == "gaussian":
        preconditioner |= {"levels": 3, "rank": 16, "rank_level": 2, "folds": 2}
    content = {
        "name": "bench", "data": {"store": "none", "shape": [arm.edge] * 3, "batch_size": arm.batch},
        "schedule": {"kind": "log_snr", "sigma_min": 0.15, "sigma_max": 10.0, "points": 8},
        "network": dict(arm.network), "preconditioner": preconditioner,
        "engine": {"precision": arm.precision, "accumulation": arm.passes, "activation_checkpointing": arm.checkpointing},
        "optimiser": {"gradient_clip": 0.0},
    }  # fmt: skip
    return validate(Recipe, content, arm.name)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


if __name__ == "__main__":
    print(json.dumps(asdict(main(json.loads(sys.argv[1])))))
