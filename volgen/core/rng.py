"""Randomness as a value: every draw is a function of a seed and a key, never of batch size, rank or order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def generator(seed: int, *key: int | str) -> torch.Generator:
    """A CPU generator for one purpose, e.g. ``generator(seed, "noise", step, sample)``.

    The key is hashed (BLAKE2b), so neighbouring keys are independent streams and the result is the same on every machine.
    """
    text = "\x1f".join(str(part) for part in (seed, *key))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@contextmanager
def seeded(seed: int, *key: int | str) -> Iterator[None]:
    """Inside the block, what is drawn from torch's global CPU generator is a function of the key; afterwards the generator is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, *key).initial_seed())
        yield


def normal(shape: Sequence[int], seed: int, *key: int | str) -> Tensor:
    """Standard normal float32 numbers of one key, drawn on the CPU: the same on every device and for every batch."""
    return torch.randn(tuple(shape), generator=generator(seed, *key))


def uniform(seed: int, *key: int | str) -> float:
    """One number in [0, 1) of one key."""
    return float(torch.rand((), generator=generator(seed, *key), dtype=torch.float64))


def permutation(count: int, seed: int, *key: int | str) -> list[int]:
    """A random order of ``range(count)`` of one key."""
    order: list[int] = torch.randperm(count, generator=generator(seed, *key)).tolist()
    return order
