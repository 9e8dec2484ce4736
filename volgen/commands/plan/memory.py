"""Memory of one rank: what is there all the time, and which moment of training needs most."""

from __future__ import annotations

import math
from dataclasses import dataclass

from volgen.parallel.memory import FP32, EngineMemory, NetworkSize, engine_memory
from volgen.planning.step import StepTrace
from volgen.recipe import Recipe

GIB = 2**30
AHEAD = 3
"""Batches that the stream holds: the one in use and those that are decoded ahead."""
CODE = 2
"""Bytes of a stored voxel, at most."""
GPU_RESERVE = int(1.5 * GIB)
"""An assumption: CUDA context, NCCL's buffers and cuDNN's workspaces."""
RETAINED = {"fp32": 0.45, "bf16": 0.8}
"""What a CPU process holds beyond its tensors, as a share of activations: heap that the C library keeps, and copies inside oneDNN, of which
bf16 needs more. Fitted to runs on one machine (docs/plan.md), not derived."""
FRAGMENTATION = 0.05
"""An assumption: what a caching allocator loses, as a share of what it holds."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank's device at the worst moment.

    Attributes:
        weights: parameters of the trained network, with what ZeRO-3 gathers.
        gradients: what they take at that moment.
        optimizer: fp32 masters, moments and the average.
        activations: everything that forward and backward, or whatever the moment does, hold beyond that.
        buffers: communication, validation network, preconditioner, batches, and the process itself.
        moment: name of the worst moment.
        host: bytes in the host memory of the rank; on a CPU, of offloading alone.
        parts: what ``buffers`` is made of.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    buffers: int
    moment: str
    host: int
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Sum over the columns."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.buffers


def memory(recipe: Recipe, traced: StepTrace, ranks: int, people: int, process: int | None) -> Memory:
    """Peak memory of one rank.

    Args:
        recipe: stage, offload, batch and data.
        traced: one micro-batch of it.
        ranks: that share a network.
        people: training volumes.
        process: what the process takes before it trains, on a CPU; None plans for a GPU.
    """
    size, gpu = traced.network, process is None
    engine = engine_memory(recipe.privacy.reduced(recipe.engine), size, ranks, gpu)
    average = FP32 * -(-size.parameters // ranks) if recipe.engine.zero_stage else FP32 * size.parameters
    parts = _buffers(recipe, traced, engine.buckets if gpu else engine.touched, ranks)
    host, decoded = _host(recipe, size, ranks, people), _cached(recipe, people, _codes(recipe))
    if process is None:
        parts["CUDA context and workspaces (assumed)"] = GPU_RESERVE
    else:
        parts |= {"process before training": process, **host}
    retained = 0.0 if gpu else RETAINED[recipe.engine.precision]
    fit = recipe.preconditioner.fit_bytes(recipe.grid, people)
    moments = _moments(
        traced, engine, size, retained, gpu and recipe.privacy.buckets, gpu, ranks, average if recipe.engine.zero_stage else 0
    )
    moment = max(moments, key=lambda name: sum(moments[name]))
    gradients, rest = moments[moment]
    gathered = engine.gathered if moment in ("forward and backward", "reduction") else 0
    held = engine.weights + gathered + engine.optimizer + average + gradients + rest
    if gpu:
        parts["fragmentation (assumed)"] = round(FRAGMENTATION * (held + sum(parts.values()) - GPU_RESERVE))
    # On the host, a copy of all weights (to be validated, or as the bytes of a file) comes to what lies there; or the fit was more.
    on_host = engine.host + (max(sum(host.values()) + FP32 * size.released, decoded + fit) if gpu else 0)
    training = Memory(
        engine.weights + gathered, gradients, engine.optimizer + average, rest, sum(parts.values()), moment, on_host, parts
    )  # fmt: skip
    if process is None or process + decoded + fit <= training.total:
        return training
    # Before there is a network, on rank 0.
    before = {"process before training": process, "cache": decoded}
    return Memory(0, 0, 0, fit, sum(before.values()), "fit of the preconditioner", on_host, before)


def _moments(
    traced: StepTrace, engine: EngineMemory, size: NetworkSize, retained: float, in_buckets: bool, gpu: bool, ranks: int, masters: int
) -> dict[str, tuple[int, int]]:
    """Gradients and other bytes at each moment that could be the worst; a patient's gradients never see a bucket."""
    whole, kept = FP32 * size.parameters, engine.resident_gradients
    # With buckets (stages 1 to 3) gradients live in them, and a GPU holds the whole bucket from the first gradient on.
    backward = (
        (kept, traced.apart)
        if in_buckets and engine.buckets
        else (min(whole, traced.peak), round(max(0, traced.peak - whole) * (1 + retained)) + kept)
    )
    return {
        "forward and backward": backward,
        "reduction": (whole, engine.reduction + kept),
        "update": (engine.gradients, max(0, engine.update - engine.gradients)),
        # The best weights as bytes of a file; then a rank's share of one kind of state, as tensors and as bytes. On a GPU they pass by one
        # after another, but to be read a state takes the place of the masters, which are copied.
        "checkpoint": (
            kept,
            (masters or FP32 * size.largest) + FP32 * size.largest if gpu else max(FP32 * size.released, -(-2 * whole // ranks)),
        ),
        # The weights and the average change places tensor by tensor, then one volume at a time is denoised; a copy of all lies on the host.
        "validation": (kept, round(traced.validation * (1 + retained)) + FP32 * (size.largest + (0 if gpu else size.released))),
    }


def _buffers(recipe: Recipe, traced: StepTrace, buckets: int, ranks: int) -> dict[str, int]:
    size = traced.network
    network = {"validation network": FP32 * size.released + size.buffers}
    return {
        **(network if recipe.privacy.validates else {}),
        **recipe.privacy.held(size.parameters),
        "preconditioner": traced.preconditioner,
        "batch": FP32 * (1 + recipe.known) * math.prod(recipe.example) * recipe.data.batch_size // ranks,
        "communication": buckets,
    }


def _host(recipe: Recipe, size: NetworkSize, ranks: int, people: int) -> dict[str, int]:
    """What lies in host memory whatever the device: decoded volumes and the best weights so far."""
    example, views = (1 + recipe.known) * math.prod(recipe.example), recipe.examples_of_each
    validated = recipe.stopping.validation_volumes if recipe.privacy.validates else 0
    return {
        "validation volumes": FP32 * example * views * validated,
        "batches ahead": FP32 * example * (recipe.data.batch_size // ranks) * (AHEAD - 1),
        "cache": _cached(recipe, people, FP32 * math.prod(recipe.model.shape(recipe.data.grid)) if recipe.level else _codes(recipe)),
        "best weights": FP32 * size.released + size.buffers,
    }


def _codes(recipe: Recipe) -> int:
    """Bytes of one scan, decoded."""
    return CODE * math.prod(recipe.data.decoded.size)


def _cached(recipe: Recipe, people: int, each: int) -> int:
    return min(int(recipe.data.cache_gib * GIB), each * people)
