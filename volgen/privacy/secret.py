"""Randomness that nobody else knows. A run's `seed` is public; noise that follows from it could be subtracted again.

From a secret of 256 bits, which is never written anywhere, follow independent streams by label, so that ranks draw the same number where
they must agree and different ones where they must not.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

PARTS = 4
"""Draws behind one Gaussian number. What a single draw of float64 leaves out between two numbers could give a value away (Mironov 2012);
a sum of several is as hard to undo as guessing all of them (Holohan & Braghin 2021)."""
BYTES = 32
DIGEST = 16


class Secret:
    """A source of secret numbers: functions of the secret and a label.

    torch's own CPU generator keeps 32 bits of a seed, which can be tried out one by one; Philox takes 128.

    Args:
        key: 32 bytes; from the operating system if None.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = secrets.token_bytes(BYTES) if key is None else key
        assert len(self._key) == BYTES

    def hex(self) -> str:
        """The secret, for other ranks of the same launch and for nobody else."""
        return self._key.hex()

    def normal(self, shape: Sequence[int], *label: int | str) -> Tensor:
        """Standard normal numbers, float64 on the CPU."""
        generator = self._generator(label)
        total = generator.standard_normal(tuple(shape))
        for _ in range(PARTS - 1):
            total += generator.standard_normal(tuple(shape))
        return torch.from_numpy(np.asarray(total / PARTS**0.5))

    def number(self, *label: int | str) -> int:
        """A number of 128 bits: a seed for draws that are functions of a seed."""
        return int.from_bytes(self._digest(label), "little")

    def chance(self, *label: int | str) -> float:
        """One number in [0, 1), without the time that a generator takes to be made."""
        return (self.number(*label) >> (8 * DIGEST - 53)) * 2.0**-53

    def _generator(self, label: Sequence[int | str]) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=self.number(*label)))

    def _digest(self, label: Sequence[int | str]) -> bytes:
        text = "\x1f".join(f"{type(part).__name__}:{part}" for part in label)
        return hashlib.blake2b(text.encode(), key=self._key, digest_size=DIGEST).digest()
