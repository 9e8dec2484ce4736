"""A few private steps on the ranks that started this, beside a plain loop over patients; rank 0 prints what it found as JSON.

``private_steps.py short`` compares what the default tests look at, ``private_steps.py long`` everything else.

The loop knows nothing of ranks, ZeRO or DeepSpeed: a gradient for each patient by torch.autograd.grad, clipped, summed, noised, divided.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import sys
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from volgen.models.adapters import attention, bias, lora, svdiff
from volgen.models.dropout import features_kept
from volgen.models.networks import slice_unet2d, triplanar, unet3d, wavelet_unet3d
from volgen.parallel import launch as launches
from volgen.parallel.engine import EngineConfig
from volgen.parallel.private_engine import Pass, PrivateEngine
from volgen.privacy.mechanism import GradientMechanism
from volgen.privacy.per_sample import PerSample
from volgen.privacy.plans.dp_sgd import Mechanism
from volgen.privacy.secret import Secret

KEY = bytes(range(32))
EDGE = 8
OWN = {
    "wavelet_unet3d": wavelet_unet3d.Config(channels=(4, 8), norm_groups=2),
    "unet3d": unet3d.Config(channels=(4, 8), attention=(False, True), head_channels=4, norm_groups=2),
    "slice_unet2d": slice_unet2d.Config(channels=(4, 8), norm_groups=2),
    "triplanar": triplanar.Config(channels=(4,), norm_groups=2),
    "dropout_3d": wavelet_unet3d.Config(channels=(4, 8), norm_groups=2, dropout=0.3),
}
"""volgen's own networks, small."""
BATCHES = (5, 0, 1, 4)
"""Patients in each step: nobody, fewer than ranks, more."""
RATE, DIVISOR, VIEWS = 1e-2, 3.0, 2
ONE_VIEW, ALL_VIEWS, PATIENTS = Pass(), Pass(1, all_views=True), Pass(3, all_views=True)


class Attention(nn.Module):
    """A part that the adapter of this name finds."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.level = nn.Linear(1, hidden)

    def forward(self, noise: Tensor) -> Tensor:
        return self.level(noise[:, None])[..., None, None, None]  # type: ignore[no-any-return]


class Network(nn.Module):
    """Sizes that no number of ranks divides."""

    def __init__(self, hidden: int = 7) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv3d(1, hidden, 3, padding=1), nn.GroupNorm(1, hidden), nn.Conv3d(hidden, 1, 3, padding=1)
        self.attended = Attention(hidden)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return self.last(nn.functional.silu(self.norm(self.first(x)) + self.attended(noise)))  # type: ignore[no-any-return]


def patient(step: int, person: int, view: int) -> Tensor:
    return torch.randn(1, 1, EDGE, EDGE, EDGE, generator=torch.Generator().manual_seed(1000 * step + 10 * person + view)) * (1 + person)


def views_of(step: int, person: int) -> list[Tensor]:
    return [patient(step, person, view) for view in range(VIEWS)]


def told(own: str, step: int, people: Sequence[int], views: Sequence[int] = range(VIEWS)) -> dict[str, Tensor]:
    """Which features are kept of some views of each person, if any are left out."""
    if not getattr(OWN.get(own), "dropout", 0.0):
        return {}
    seeds = [1000 * step + 10 * person + view for person in people for view in views]
    drawn = [torch.randn(OWN[own].features, generator=torch.Generator().manual_seed(7 + seed)) for seed in seeds]
    return {"kept_BK": features_kept(torch.stack(drawn), OWN[own].dropout)}


def reference(module: nn.Module, bf16: bool, mechanism: Mechanism, world_size: int, whole: bool, own: str) -> list[dict[str, Tensor]]:
    """Weights after each step of the plain loop, and Adam's first moments: the weights alone would forgive a wrong factor."""
    trained = {name: w for name, w in module.named_parameters() if w.requires_grad}
    weights, secret, history = list(trained.values()), Secret(KEY), []
    optimiser = torch.optim.AdamW(weights, lr=RATE, betas=(0.9, 0.99), weight_decay=0.0)
    for step, people in enumerate(BATCHES, 1):
        total = [torch.zeros_like(w, dtype=torch.float64) for w in weights]
        for person in range(people):
            losses, views = [], views_of(step, person)
            # bf16 rounds the gradient of two views together otherwise than those of each.
            for which in [range(VIEWS)] if bf16 and whole else [[view] for view in range(VIEWS)]:
                x = torch.cat([views[view] for view in which])
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                    y = module(x, torch.ones(len(x)), **told(own, step, [person], which))
                losses.append((y.float() - x).square().mean())
            gradient = [g.double() for g in torch.autograd.grad(sum(losses) / len(losses), weights)]
            norm = float(torch.cat([g.flatten() for g in gradient]).norm())
            for mine, g in zip(total, gradient, strict=True):
                mine += g * min(1.0, mechanism.clip_norm / norm)
        for index, (w, mine) in enumerate(zip(weights, total, strict=True)):
            parts = [w.numel() * place // world_size for place in range(world_size + 1)]
            z = [secret.normal((b - a,), "noise", step, index, rank) for rank, (a, b) in enumerate(itertools.pairwise(parts))]
            std = mechanism.noise_multiplier * mechanism.clip_norm
            w.grad = ((mine + std * torch.cat(z).view_as(mine)) / DIVISOR).float()
        optimiser.step()
        moments = {f"moment of {name}": optimiser.state[w]["exp_avg"].clone() for name, w in trained.items()}
        history.append({name: w.detach().clone() for name, w in module.named_parameters()} | moments)
    return history


class WithoutClipping(GradientMechanism):
    """Mutants: the comparison has to notice each."""

    def add(self, total: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        for tensor, gradient in zip(total, gradients, strict=True):
            tensor += gradient


class WithoutNoise(GradientMechanism):
    def finish(self, total: Sequence[Tensor]) -> list[Tensor]:
        return [tensor * self._world_size / self._divisor for tensor in total]


class WithoutTheNoiseOfOneRank(WithoutNoise):
    def finish(self, total: Sequence[Tensor]) -> list[Tensor]:
        return super().finish(total) if self._rank == self._world_size - 1 else GradientMechanism.finish(self, total)


class DividedByTheNumberDrawn(GradientMechanism):
    def finish(self, total: Sequence[Tensor]) -> list[Tensor]:
        return [tensor * self._divisor / max(BATCHES[self._step - 1], 1) for tensor in super().finish(total)]


MUTANTS = (WithoutClipping, WithoutNoise, WithoutTheNoiseOfOneRank, DividedByTheNumberDrawn)


def made(own: str) -> nn.Module:
    """The network of this file, or one of volgen's, with no weights that are zero at first: nothing would reach what is before them."""
    torch.manual_seed(0)
    if not own:
        return Network()
    module = OWN[own].build(inputs=1)
    for weight in module.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    return module


def compare(
    stage: int,
    precision: str,
    noise: float,
    clip: float,
    at_once: Pass = ONE_VIEW,
    adapter: str = "",
    own: str = "",
    kind: type[GradientMechanism] = GradientMechanism,
) -> dict[str, float]:
    """Largest difference of weights and moments, and of moments alone, after any step; with an adapter only what it trains."""
    launch = launches.discover()
    module, mechanism = made(own), Mechanism(0.5, noise, clip)
    if adapter == "bias":
        bias.Config().attach(module)
    if adapter == "attention":
        attention.Config().attach(module)
    if adapter == "svdiff":
        svdiff.Config().attach(module)
    if adapter == "lora":
        lora.Config(rank=2).attach(module)
        for layer in module.modules():
            if isinstance(layer, lora.LowRank):
                torch.nn.init.normal_(layer.lora_up.weight, std=0.3)  # at 0 nothing would reach the other half
    frozen = {name: w.detach().clone() for name, w in module.named_parameters() if not w.requires_grad}
    history = reference(copy.deepcopy(module), precision == "bf16", mechanism, launch.world_size, at_once.all_views, own)
    each = PerSample(module) if at_once.patients > 1 else None
    config = EngineConfig(zero_stage=stage, precision=precision)  # type: ignore[arg-type]
    engine = PrivateEngine(module, config, betas=(0.9, 0.99), at_once=at_once, per_sample=each)
    sanitiser = kind(mechanism, DIVISOR, Secret(KEY), launch.rank, launch.world_size)
    worst = {"weights": 0.0, "moments": 0.0}
    for step, people in enumerate(BATCHES, 1):
        sanitiser.draw(["p"])
        mine = list(range(people))[launch.rank :: launch.world_size]
        rounds = -(-people // launch.world_size) if engine.in_step else len(mine)
        total = sanitiser.zeros(engine.shapes, engine.device)
        turns = [*mine, *[0] * (rounds - len(mine))]
        for first in range(0, rounds, at_once.patients):
            for place, contribution in enumerate(contributions(engine, step, turns[first : first + at_once.patients], own), first):
                if place < len(mine):
                    sanitiser.add(total, contribution)
        engine.give(sanitiser.finish(total))
        engine.step(RATE)
        state = engine.full_state() | {f"moment of {name}": moment for name, moment in engine.read("exp_avg")}
        for name, w in history[step - 1].items():
            apart = float((state[name] - w).abs().max())
            for what in ("weights", "moments") if name.startswith("moment of ") else ("weights",):
                worst[what] = max(worst[what], apart) if math.isfinite(apart) else math.inf
    moved = sum(not torch.equal(state[name], w) for name, w in frozen.items())
    engine.destroy()
    return {**worst, "frozen": float(len(frozen)), "frozen_moved": float(moved)}


def contributions(engine: PrivateEngine, step: int, people: list[int], own: str) -> Iterator[list[Tensor]]:
    """What the trainer does with one pass, or with one for each view."""
    if engine.at_once.all_views:
        x = torch.cat([view for person in people for view in views_of(step, person)]).to(engine.device)
        y = engine(x, torch.ones(len(x), device=x.device), **told(own, step, people))
        yield from engine.gradients_of((y - x).square().mean(dim=(1, 2, 3, 4)), len(people))
        return
    one, views = torch.ones(1, device=engine.device), [x.to(engine.device) for x in views_of(step, people[0])]
    each = [
        engine.gradients((engine(x, one, **told(own, step, people[:1], [view])) - x).square().mean() / VIEWS)
        for view, x in enumerate(views)
    ]
    yield [torch.stack(gradients).sum(dim=0) for gradients in zip(*each, strict=True)]


def spread(stage: int) -> dict[str, float]:
    """Standard deviation of a step's gradient without patients, as a multiple of sigma C / divisor, and the least of it in any tensor."""
    launch = launches.discover()
    module = Network(64)
    engine = PrivateEngine(module, EngineConfig(zero_stage=stage), betas=(0.0, 0.0))  # type: ignore[arg-type]
    before = engine.full_state()
    sanitiser = GradientMechanism(Mechanism(0.5, 3.0, 0.5), DIVISOR, Secret(KEY), launch.rank, launch.world_size)
    moments: list[Tensor] = []
    for _ in range(8):
        sanitiser.draw(["p"])
        engine.give(sanitiser.finish(sanitiser.zeros(engine.shapes, engine.device)))
        engine.step(0.0)
        # With betas of 0 Adam's first moment is the gradient itself.
        moments.append(torch.cat([m.flatten() for _, m in engine.read("exp_avg")]))
    moved = max(float((w - before[name]).abs().max()) for name, w in engine.full_state().items())
    z = torch.stack(moments).double() / (3.0 * 0.5 / DIVISOR)
    half = z.shape[1] // 2
    engine.destroy()
    return {
        "std": float(z.std()), "first_half": float(z[:, :half].std()), "second_half": float(z[:, half:].std()),
        "least": float(z.abs().min()), "between_steps": float((z[0] * z[1]).mean()), "moved": moved,
    }  # fmt: skip


def short() -> dict[str, dict[str, float]]:
    """What a minute allows: every stage, both precisions, and the mutants."""
    found: dict[str, dict[str, float]] = {}
    for stage in (0, 1, 2, 3):
        for precision in ("fp32", "bf16"):
            found[f"{stage} {precision}"] = compare(stage, precision, noise=0.7, clip=0.3)
        for mutant in MUTANTS if stage in (0, 3) else ():
            found[f"{stage} {mutant.__name__}"] = compare(stage, "fp32", noise=0.7, clip=0.3, kind=mutant)
        found[f"{stage} noise"] = spread(stage)
    return found


def long() -> dict[str, dict[str, float]]:
    """What else may differ: views and patients at once, adapters, volgen's own networks."""
    found: dict[str, dict[str, float]] = {}
    for stage in (0, 1, 2, 3):
        for precision in ("fp32", "bf16"):
            found[f"{stage} {precision} views"] = compare(stage, precision, noise=0.7, clip=0.3, at_once=ALL_VIEWS)
        if stage < 3:
            found[f"{stage} patients"] = compare(stage, "fp32", noise=0.7, clip=0.3, at_once=PATIENTS)
        found[f"{stage} plain"] = compare(stage, "fp32", noise=0.0, clip=1e9)
        for adapter in ("attention", "bias", "lora", "svdiff"):
            found[f"{stage} {adapter}"] = compare(stage, "fp32", noise=0.7, clip=0.3, adapter=adapter)
            if stage in (0, 2) and adapter != "svdiff":  # its layers have buffers, so that patients go one by one
                at_once = compare(stage, "fp32", noise=0.7, clip=0.3, adapter=adapter, at_once=PATIENTS)
                found[f"{stage} {adapter} patients"] = at_once
        for own in OWN:
            found[f"{stage} {own}"] = compare(stage, "fp32", noise=0.7, clip=0.3, own=own)
            if stage >= 2:
                found[f"{stage} {own} bf16"] = compare(stage, "bf16", noise=0.7, clip=0.3, own=own)
            if stage in (0, 2) and own.endswith("3d"):  # slices of one volume are several samples to a 2D layer
                found[f"{stage} {own} patients"] = compare(stage, "fp32", noise=0.7, clip=0.3, own=own, at_once=PATIENTS)
        for mutant in MUTANTS if stage in (0, 3) else ():
            found[f"{stage} {mutant.__name__} slices"] = compare(stage, "bf16", noise=0.7, clip=0.3, own="slice_unet2d", kind=mutant)
    return found


FORMS = {"short": short, "long": long}


def main(form: str) -> None:
    launch = launches.discover()
    launches.publish(launch)
    launches.take_part(launch)
    found = FORMS[form]()
    if launch.rank == 0:
        print("FOUND" + json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
