"""Bytes that DeepSpeed holds on one rank, in closed form: before an engine is made, and for any number of ranks.

P is the number of trained parameters, F of those that an adapter leaves as they are, M of the trained that Muon steers, S = P / ranks
(rounded up). All state is fp32 whatever the precision: bf16 is
autocast, whose copies are activations. `tests/unit/parallel/test_memory.py` compares every line with what DeepSpeed allocates.

| between steps | stage 0 | 1 | 2 | 3 |
|---|---|---|---|---|
| weights | 4 (P + F) | 4 (P + F) | 4 (P + F) | 4 (P + F) / ranks |
| optimiser: masters and moments | 8P - 4M | 4S + 8S | as 1 | 4S + (8P - 4M) / ranks, with Muon 4M more |
| gradients, from the backward pass to the update | 4P | 4S | 4S | 4S (kept) |
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from volgen.parallel.engine import BUCKET, EngineConfig

FP32, BF16 = 4, 2
LIVE = 1_000_000_000
"""DeepSpeed's ``stage3_max_live_parameters``: gathered weights are kept from the forward to the backward pass up to this many."""


@dataclass(frozen=True)
class NetworkSize:
    """What the closed forms need of a network.

    Attributes:
        parameters: P, elements that are trained.
        frozen: F, elements that are not.
        added: elements of P that are an adapter's own, and merged into the others in weights that are released.
        matrices: M, elements that Muon takes; 0 without it.
        largest: elements of the largest parameter.
        low: elements whose gradients DeepSpeed sends in bf16 under autocast.
        buffers: bytes of the network's buffers.
    """

    parameters: int
    matrices: int
    largest: int
    low: int
    buffers: int
    frozen: int = 0
    added: int = 0

    @property
    def released(self) -> int:
        """Elements of the network that others get."""
        return self.parameters + self.frozen - self.added

    @classmethod
    def of(cls, network: nn.Module, muon: bool, added: int = 0) -> NetworkSize:
        """Counts a network as it is trained, ``added`` elements of it an adapter's own; its tensors may be fake."""
        named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
        matrices = sum(p.numel() for name, p in named if muon and p.dim() > 1 and "embed" not in name)
        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        layers = [module for module in network.modules() if type(module) in kinds]
        low = sum(p.numel() for module in layers for p in module.parameters(recurse=False) if p.requires_grad)
        buffers = sum(b.numel() * b.element_size() for b in network.buffers())
        sizes = [p.numel() for _, p in named]
        return cls(sum(sizes), matrices, max(sizes), low, buffers, frozen, added)


@dataclass(frozen=True)
class EngineMemory:
    """Bytes on one rank's device, and in its host memory if the engine offloads.

    Attributes:
        weights: the network's parameters between steps.
        gathered: whole parameters that are there as well during forward and backward (stage 3).
        gradients: this rank's gradients, from the backward pass to the update.
        resident_gradients: the part of ``gradients`` that also exists between steps.
        optimizer: masters and moments.
        buckets: what DeepSpeed allocates for communication when the first gradient arrives, whatever the network's size.
        touched: the part of ``buckets`` that gradients are ever written to: a system gives a process no memory for the rest.
        reduction: what the end of a backward pass takes beyond weights, optimiser and the gradients as they came.
        update: during a step, beyond what exists between steps.
        host: what offloading puts into host memory.
    """

    weights: int
    gathered: int
    gradients: int
    resident_gradients: int
    optimizer: int
    buckets: int
    touched: int
    reduction: int
    update: int
    host: int


def engine_memory(config: EngineConfig, size: NetworkSize, ranks: int, gpu: bool) -> EngineMemory:
    """The closed forms at the top of this file.

    Args:
        config: stage, precision, offload.
        size: sizes of the network.
        ranks: that share a network (of one group).
        gpu: whether it is to be trained on one, whatever this machine has.
    """
    stage, whole, there = config.zero_stage, FP32 * size.parameters, size.parameters + size.frozen
    shard = FP32 * -(-size.parameters // ranks)
    moments = 2 * FP32 * size.parameters - FP32 * size.matrices
    largest = FP32 * size.largest
    if stage == 0:
        # The gradients are flattened for the all-reduce, if there is one; AdamW on a GPU takes roots of all moments at once.
        root, flat = whole if gpu else largest, min(whole, FP32 * BUCKET) if ranks > 1 else 0
        return EngineMemory(FP32 * there, 0, whole, 0, moments, 0, 0, flat, whole + root, 0)
    mixed = config.precision == "bf16"
    kinds = [FP32] if not mixed else [FP32, *([BF16 if stage == 3 else FP32] if size.low else [])]
    buckets = min(BUCKET, size.parameters) * sum(kinds)
    # One bucket for each type of gradient under autocast, each with room for all of them.
    counts = [size.parameters - size.low, size.low] if len(kinds) > 1 else [size.parameters]
    touched = sum(min(BUCKET, count) * kind for count, kind in zip(counts, kinds, strict=True))
    # At stages 1 and 2 Muon's one momentum is there twice, in ZeRO and in the optimiser.
    optimizer = shard + (-(-moments // ranks) if stage == 3 else 2 * shard)
    # Flat gradients, their copy for the optimiser and a root of the second moments.
    update = 3 * shard + (largest if size.matrices else 0)
    if stage == 3:
        gathered = FP32 * min(there, LIVE) if ranks > 1 else 0
        if size.matrices and ranks > 1:
            # Muon orthogonalises whole matrices: gradients and momenta of all ranks are gathered, one momentum stays.
            optimizer += FP32 * size.matrices
            update += 6 * FP32 * size.matrices
        memory = EngineMemory(FP32 * -(-there // ranks), gathered, shard, shard, optimizer, buckets, touched, 2 * whole, update, 0)
    else:
        memory = EngineMemory(FP32 * there, 0, shard, 0, optimizer, buckets, touched, whole, update, 0)
    return _offloaded(config, memory, shard)


def _offloaded(config: EngineConfig, memory: EngineMemory, shard: int) -> EngineMemory:
    """Moves optimiser (with its gradients), and at stage 3 also weights, to the host."""
    if config.offload == "none":
        return memory
    moved = memory.optimizer + shard
    weights = memory.weights if config.offload == "optimiser" else 0
    return EngineMemory(
        weights, memory.gathered, 0, 0, 0, memory.buckets, memory.touched, memory.reduction, 0,
        moved + memory.weights - weights + memory.update,
    )  # fmt: skip


def network_bytes(config: EngineConfig, size: NetworkSize, ranks: int) -> int:
    """Bytes that one rank sends in an optimiser step, with collectives in rings.

    An all-reduce of n bytes sends 2 n (ranks - 1) / ranks, a reduce-scatter or an all-gather half of it.
    """
    if ranks == 1:
        return 0
    share = (ranks - 1) / ranks
    low = size.low if config.precision == "bf16" else 0
    gradients = FP32 * (size.parameters - low) + BF16 * low
    whole = FP32 * size.parameters
    if config.zero_stage == 0:
        return round(2 * share * whole)
    times = config.accumulation if config.zero_stage > 1 else 1
    scattered = gradients * (2 if size.matrices else 1) * times
    if config.zero_stage < 3:
        return round(share * (scattered + whole))
    # Whole weights for forward and again for backward, unless so few are gathered that they are kept.
    gathers = times * (1 if size.parameters + size.frozen <= LIVE else 2) * (gradients + FP32 * size.frozen)
    return round(share * (gradients * times + gathers + 2 * FP32 * size.matrices))
