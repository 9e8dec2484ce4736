"""The sampling loop. A solver knows one step; everything about order, batches, seeds and memory is here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from volgen.core.channels import join
from volgen.core.errors import UserError
from volgen.core.protocols import Denoiser, Sampler, Shape3, Step
from volgen.core.rng import normal


class Noise(Protocol):
    """Draws noise."""

    def __call__(self, shape: Shape3, seed: int, *key: int | str) -> Tensor:
        """Standard normal numbers [1, X, Y, Z], a function of seed and key alone."""
        ...


def white(shape: Shape3, seed: int, *key: int | str) -> Tensor:
    """Independent numbers."""
    return normal((1, *shape), seed, *key)


def sample(
    denoise: Denoiser,
    sampler: Sampler,
    grid: Sequence[float],
    *,
    seed: int,
    indices: Sequence[int],
    shape: Shape3,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    start: Callable[[Tensor, float], Tensor] = lambda noise, sigma: noise * sigma,
    noise: Noise = white,
    known: Sequence[Tensor] = (),
    done: Callable[[int, str], None] = lambda count, note: None,
) -> list[Tensor]:
    """Draws one volume, or one piece of a volume, per index.

    Volume i is a function of ``seed`` and i alone: it starts from the noise ``noise(shape, seed, "start", i)`` and its fresh noise in
    step n is ``noise(shape, seed, "step", n, i)``, whatever the other volumes, their order and the batch size are. (A network may
    round differently in another batch size; differences are those of float32.)

    The order is expert-major: all volumes pass through one step before the next begins, so that a bank of T experts loads each of
    them once. Between steps the volumes wait in host memory: 4 bytes per voxel, and as much again for a solver that remembers.

    Args:
        denoise: a denoiser, such as an expert bank.
        sampler: the solver.
        grid: noise levels, strictly descending and positive; a last step to 0 is added.
        seed: seed of all noise.
        indices: which volumes, each at most once.
        shape: voxels along X, Y, Z.
        batch_size: volumes that go through the denoiser together.
        device: where the denoiser computes.
        start: makes a sample of the noisiest marginal from standard normal noise [B, C, X, Y, Z] and ``grid[0]``.
        noise: draws standard normal noise of a key.
        known: what is known beside the volume of each index, [C, X, Y, Z]; the denoiser sees it as further channels.
        done: is told how many more steps of volumes are done, with a word on where the loop is.

    Returns:
        x0_CXYZ (C = 1, float32, on the CPU, nominally in [-1, 1] but not clamped), in the order of ``indices``.

    Raises:
        UserError: a step gave values that are not finite.
    """
    assert all(high > low for high, low in itertools.pairwise([*grid, 0.0])), "the grid must be descending and positive"
    assert len(set(indices)) == len(indices), "an index may be drawn once"
    device = torch.device(device)
    batches = [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]
    beside = dict(zip(indices, known, strict=True)) if known else {}
    starts = (torch.stack([noise(shape, seed, "start", i) for i in batch]) for batch in batches)
    states = [start(drawn.to(device), grid[0]).to("cpu") for drawn in starts]
    memories: list[Any] = [None] * len(batches)
    with torch.no_grad():
        for number, (sigma, sigma_next) in enumerate(itertools.pairwise([*grid, 0.0])):
            for place, batch in enumerate(batches):
                step = Step(sigma, sigma_next, _fresh(noise, seed, number, batch, shape, device))
                knowing = _knowing(denoise, torch.stack([beside[i] for i in batch]).to(device)) if beside else denoise
                x, memory = sampler.step(knowing, states[place].to(device), step, _moved(memories[place], device))
                if not torch.isfinite(x).all():
                    raise UserError(
                        f"step {number + 1} of {len(grid)} (sigma {sigma:.4g})", "the volume has values that are not finite", "numbers",
                        "the expert that owns this noise level has diverged: look at its losses in metrics.jsonl and train it again",
                    )  # fmt: skip
                states[place] = x.to("cpu")
                memories[place] = _moved(memory, torch.device("cpu"))
                done(len(batch), f"sigma {sigma:.3g}")
    return [volume for state in states for volume in state]


def _knowing(denoise: Denoiser, known_BCXYZ: Tensor) -> Denoiser:
    """A denoiser of what a solver sees, the volume alone."""
    return lambda y_BCXYZ, sigma_B: denoise(join(y_BCXYZ, known_BCXYZ), sigma_B)


def _fresh(noise: Noise, seed: int, number: int, batch: Sequence[int], shape: Shape3, device: torch.device) -> Callable[[], Tensor]:
    """Fresh noise of one step for one batch, drawn only if the solver asks."""
    return lambda: torch.stack([noise(shape, seed, "step", number, i) for i in batch]).to(device)


def _moved(memory: Any, device: torch.device) -> Any:
    """What a solver remembers (tensors, numbers, None, tuples of them) on another device."""
    if isinstance(memory, tuple):
        return tuple(_moved(item, device) for item in memory)
    return memory.to(device) if isinstance(memory, Tensor) else memory
