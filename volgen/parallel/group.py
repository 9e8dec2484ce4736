"""The few collective operations that training needs, in one place; a single process skips them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import distributed

from volgen.parallel.launch import Launch


class Group:
    """All ranks of a run.

    Attributes:
        rank: number of this process.
        world_size: number of processes.
        device: where this rank computes.
    """

    def __init__(self, launch: Launch, device: torch.device) -> None:
        self.rank, self.world_size, self.device = launch.rank, launch.world_size, device

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over ranks, element by element, in float64; NaN and infinity pass through."""
        if self.world_size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        summed: list[float] = total.tolist()
        return summed

    def gather(self, text: str) -> list[str]:
        """Every rank's text, on every rank; as bytes in tensors, because torch's own gathering of objects pickles them."""
        if self.world_size == 1:
            return [text]
        encoded = text.encode()
        longest = torch.tensor([len(encoded)], device=self.device)
        distributed.all_reduce(longest, op=distributed.ReduceOp.MAX)
        padded = torch.zeros(int(longest), dtype=torch.uint8, device=self.device)
        padded[: len(encoded)] = torch.tensor(list(encoded), dtype=torch.uint8, device=self.device)
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        distributed.all_gather(parts, padded)
        return [bytes(part.tolist()).rstrip(b"\0").decode() for part in parts]

    def barrier(self) -> None:
        """Waits for all ranks."""
        if self.world_size > 1:
            self.sum([0.0])  # unlike barrier(), this needs no guess of the device
