"""A training step from 64^3 to 256^3: seconds and peak memory of the wavelet denoiser, its settings, and MONAI's U-Net beside it.

Every arm trains one volume a step (unless its name has another number) in a process of its own, under a limit of memory: to run out of
it is a figure too. The arms take turns, round after round, and the best step of all rounds counts. "bare" is the same step in plain
PyTorch, without DeepSpeed: what volgen's engine adds is the ratio to it. The table in
docs/performance.md comes from here: ``volgen bench train --out FILE.json``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt

from volgen.bench.train.arm import Arm, Figures, measure
from volgen.commands.bench.result import Better, Row, row
from volgen.core.config import Config as BaseConfig
from volgen.core.progress import progress, say

WAVELET: dict[str, Any] = {"kind": "wavelet_unet3d", "channels": [64, 128, 256, 464], "residual_blocks": 2}
"""94 million parameters, as in configs/brain256_experts200.yaml."""
MONAI: dict[str, Any] = {
    "kind": "unet3d", "channels": [128, 256, 256, 256], "attention": [False, False, True, True],
    "residual_blocks": 2, "head_channels": 8, "norm_groups": 32,
}  # fmt: skip
"""MONAI's ``DiffusionModelUNet`` at its defaults, but for widths that make 97 million parameters."""

BATCH = 4
"""Volumes in a step of the arms that compare one pass with several."""


class Config(BaseConfig):
    """Which arms are run, and how long."""

    what: tuple[Literal["growth", "settings", "loop"], ...] = ("growth", "settings", "loop")
    """growth: volgen's network and MONAI's at each edge; settings: recomputation, precision, layout and more; loop: DeepSpeed's cost."""
    edges: tuple[PositiveInt, ...] = (64, 96, 128, 192, 256)
    """Edges of the growth."""
    edge: PositiveInt = 128
    """Edge of settings and loop."""
    width: PositiveFloat = 1.0
    """Factor of every width of both networks, for smaller machines."""
    steps: PositiveInt = 1
    """Timed steps of an arm in a round, after one that is not."""
    rounds: PositiveInt = 1
    """Times that every arm of settings and loop is run; those of the growth run once."""
    memory: PositiveFloat = 20.0
    """GiB that a process may take on a CPU."""
    patience: PositiveFloat = 1800.0
    """Seconds after which an arm is given up."""


def run(config: Config) -> list[Row]:
    """Seconds and peak memory of every arm; ratios are to the arm that it is compared with."""
    arms = list(_arms(config))
    best: dict[str, Figures] = {}
    turns = [arm for number in range(config.rounds) for arm, _ in arms if number == 0 or not arm.name.startswith("growth")]
    with progress("bench", len(turns)) as ticker:
        for arm in turns:
            found = measure(arm, config.steps, config.memory, config.patience)
            best[arm.name] = _better(best.get(arm.name), found)
            say(f"{arm.name}: {found.failed or f'{found.cpu:.2f} CPU s, {found.wall:.2f} s, {found.peak / 2**30:.2f} GiB'}")
            ticker.advance()
    return [entry for arm, reference in arms for entry in _rows(arm.name, best[arm.name], best.get(reference), reference)]


def _arms(config: Config) -> Iterator[tuple[Arm, str]]:
    """Every arm and the name of the one that it is compared with."""
    wavelet, monai = _scaled(WAVELET, config.width), _scaled(MONAI, config.width)
    if "growth" in config.what:
        for edge in config.edges:
            name = f"growth {edge}^3 wavelet"
            yield Arm(name, edge, wavelet), f"growth {config.edges[0]}^3 wavelet"
            yield Arm(f"growth {edge}^3 MONAI", edge, monai, "epsilon", "bare", "fp32", checkpointing=False), name
            yield Arm(f"growth {edge}^3 MONAI, bf16 and checkpointing", edge, monai, "epsilon", "bare"), name
    if "settings" in config.what:
        name = f"settings {config.edge}^3 as it is"
        yield Arm(name, config.edge, wavelet), name
        yield Arm(f"settings {config.edge}^3 without checkpointing", config.edge, wavelet, checkpointing=False), name
        yield Arm(f"settings {config.edge}^3 fp32", config.edge, wavelet, precision="fp32"), name
        yield Arm(f"settings {config.edge}^3 channels last", config.edge, wavelet, channels_last=True), name
        yield Arm(f"settings {config.edge}^3 Muon", config.edge, wavelet, muon=True), name
        yield Arm(f"settings {config.edge}^3 two Haar levels", config.edge, wavelet | {"haar_levels": 2}), name
        together = f"settings {config.edge}^3 {BATCH} volumes at once"
        yield Arm(together, config.edge, wavelet, batch=BATCH), together
        yield Arm(f"settings {config.edge}^3 {BATCH} volumes in {BATCH} passes", config.edge, wavelet, batch=BATCH, passes=BATCH), together
        yield Arm(f"settings {config.edge}^3 compiled", config.edge, wavelet, checkpointing=False, compiled=True), name
    if "loop" in config.what:
        name = f"loop {config.edge}^3 bare PyTorch"
        yield Arm(name, config.edge, wavelet, loop="bare"), name
        yield Arm(f"loop {config.edge}^3 DeepSpeed", config.edge, wavelet), name
        yield Arm(f"loop {config.edge}^3 bare PyTorch, fused AdamW", config.edge, wavelet, loop="bare", fused=True), name


def _better_way(name: str) -> Better | None:
    """What is gated: the lead over MONAI's network, and what DeepSpeed costs."""
    if name.endswith(" MONAI"):
        return "higher"
    return "lower" if name.endswith(" DeepSpeed") else None


def _scaled(network: dict[str, Any], factor: float) -> dict[str, Any]:
    step = network.get("norm_groups", 8)
    return network | {"channels": [max(step, round(width * factor / step) * step) for width in network["channels"]]}


def _better(one: Figures | None, other: Figures) -> Figures:
    return other if one is None or other.cpu < one.cpu or one.failed else one


def _rows(name: str, found: Figures, reference: Figures | None, reference_name: str) -> Iterator[Row]:
    if found.failed:
        yield Row(f"{name}: {found.failed}", 0.0, "")
        return
    values = {"step": (found.cpu, "CPU s"), "wall": (found.wall, "s"), "peak": (found.peak / 2**30, "GiB")}
    others = {} if reference is None else {"step": reference.cpu, "wall": reference.wall, "peak": reference.peak / 2**30}
    for what, (value, unit) in values.items():
        known = what in others and math.isfinite(others[what]) and name != reference_name
        compared = [Row(f"{reference_name}: {what}", others[what], unit)] if known else []
        yield row(f"{name}: {what}", value, unit, *compared, better=_better_way(name) if compared and what != "wall" else None)
    yield Row(f"{name}: parameters", found.parameters, "")


def table(rows: Sequence[Row]) -> str:
    """One line for each arm."""
    lines = ["| | parameters | step, CPU s | ratio | peak, GiB | ratio |", "|---|---|---|---|---|---|"]
    found: dict[str, dict[str, Row]] = {}
    for entry in rows:
        arm, _, what = entry.name.partition(": ")
        found.setdefault(arm, {})[what] = entry
    for arm, values in found.items():
        if "step" not in values:
            lines.append(f"| {arm} | | {next(iter(values))} | | | |")
            continue
        step, peak = values["step"], values["peak"]
        ratios = [next((f"{ratio:.3f}" for ratio in entry.ratio_to.values()), "") for entry in (step, peak)]
        millions = values["parameters"].value / 1e6
        lines.append(f"| {arm} | {millions:.1f} M | {step.value:.2f} | {ratios[0]} | {peak.value:.2f} | {ratios[1]} |")
    return "\n".join(lines)
