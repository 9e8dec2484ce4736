"""What is known beside a noisy volume, and what a network learns from: clean volumes with what is known beside each.

Legend: B batch, C channel, X Y Z voxels, N tokens, E embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

Rows = slice | Sequence[int] | Tensor


@dataclass(frozen=True, eq=False)
class Given:
    """What a denoiser may know beside the noisy volumes of a batch; none of it carries noise of their level.

    Attributes:
        channels: images in the frame of the volumes, [B, C, X, Y, Z], such as the slices before those that are being made.
        tokens: [B, N, E], such as the words of a text.
        values: numbers by name that networks are told, [B] or [B, ...] each, such as the age of a person; NaN where one is not told.
        fitted: numbers by name that what was fitted to people is told, [B] each; NaN where one is not told.
    """

    channels: Tensor | None = None
    tokens: Tensor | None = None
    values: Mapping[str, Tensor] = field(default_factory=dict)
    fitted: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def told(self) -> bool:
        """Whether anything is told of any volume."""
        return not all(bool(value.isnan().all()) for numbers in (self.values, self.fitted) for value in numbers.values())

    def untold(self) -> Given:
        """The same, but of nothing that is told."""
        return replace(self, values={}, fitted={})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Given:
        """The same on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pinned(self) -> Given:
        """The same in pinned memory, from which a GPU copies while it computes."""
        return self._each(lambda tensor: tensor.pin_memory())

    def __getitem__(self, rows: Rows) -> Given:
        """What is known beside some volumes of the batch."""
        return self._each(lambda tensor: tensor[rows])

    def __or__(self, other: Given) -> Given:
        """What is known from either, about the same volumes; images lie side by side, and of two numbers of one name the other's counts."""
        if self is NOTHING or other is NOTHING:
            return other if self is NOTHING else self
        return Given(
            _beside(self.channels, other.channels), _beside(self.tokens, other.tokens), {**self.values, **other.values},
            {**self.fitted, **other.fitted},
        )  # fmt: skip

    @classmethod
    def joined(cls, each: Sequence[Given]) -> Given:
        """What is known beside the volumes of several batches, one after another; the same must be known beside all of them."""
        first = each[0]
        if len(each) == 1:
            return first
        return cls(
            None if first.channels is None else torch.cat([one.channels for one in each if one.channels is not None]),
            None if first.tokens is None else torch.cat([one.tokens for one in each if one.tokens is not None]),
            {name: torch.cat([one.values[name] for one in each]) for name in first.values},
            {name: torch.cat([one.fitted[name] for one in each]) for name in first.fitted},
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> Given:
        if self is NOTHING:
            return self
        return Given(
            None if self.channels is None else change(self.channels),
            None if self.tokens is None else change(self.tokens),
            {name: change(value) for name, value in self.values.items()},
            {name: change(value) for name, value in self.fitted.items()},
        )


NOTHING = Given()
"""Nothing is known but the noisy volume."""


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of each scan of a cohort, as networks are told it.

    Attributes:
        values: [n]; numbers, or numbers of words; NaN where it is not known.
        words: how many words there are; 0: it is a number.
    """

    values: Tensor
    words: int = 0


def _beside(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Channels, or tokens, of both."""
    if one is None or other is None:
        return other if one is None else one
    return torch.cat([one, other], dim=1)


@dataclass(frozen=True, eq=False)
class Examples:
    """Clean volumes, or pieces of volumes, and what is known beside them.

    Attributes:
        x_BCXYZ: float32, in [-1, 1] where they are images.
        given: what is known beside each.
    """

    x_BCXYZ: Tensor
    given: Given = NOTHING

    def __len__(self) -> int:
        """How many there are."""
        return len(self.x_BCXYZ)

    def __getitem__(self, rows: Rows) -> Examples:
        """Some of the examples."""
        return Examples(self.x_BCXYZ[rows], self.given[rows])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Examples:
        """The same on another device."""
        return Examples(self.x_BCXYZ.to(device, non_blocking=non_blocking), self.given.to(device, non_blocking))

    def pinned(self) -> Examples:
        """The same in pinned memory."""
        return Examples(self.x_BCXYZ.pin_memory(), self.given.pinned())

    @classmethod
    def joined(cls, each: Sequence[Examples]) -> Examples:
        """Several, one after another; a single one is not copied: a volume of 256^3 is 64 MiB."""
        x = each[0].x_BCXYZ.contiguous() if len(each) == 1 else torch.cat([one.x_BCXYZ for one in each])
        return cls(x, Given.joined([one.given for one in each]))
