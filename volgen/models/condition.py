"""What a network is told of a person or a scan: named numbers, embedded and added to its embedding of the noise level.

A condition that is not told, because nobody knows it, or it was not asked for, or training left it out, has an embedding of its own, which
is learnt. So one network denoises with all conditions, some or none of them, as guidance without a classifier needs (Ho & Salimans 2022).

Legend: B batch, E embedding.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from volgen.core.config import Config
from volgen.core.errors import UserError, nearest_word
from volgen.core.given import NOTHING, Examples, Given, Known
from volgen.core.protocols import Cut, Scan
from volgen.core.rng import uniform
from volgen.models.sentences import Elsewhere

Numbers = float | Sequence[float]
"""Numbers of one scan; NaN: not told."""


class ConditionConfig(Config):
    """What every file in ``volgen/models/conditions`` offers as ``Config``, beside its ``kind``."""

    drop: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Chance with which a training example is not told it; half of that together with all other conditions, half by itself."""
    embedded: bool = True
    """Whether networks are told it; if not, the fitted Gaussian alone is (``preconditioner.told``), and networks see what that expects."""

    @property
    def name(self) -> str:
        """Key of its values, and of ``volgen sample --given NAME=VALUE``; the kind, unless a file says otherwise."""
        return str(self.kind)  # type: ignore[attr-defined]

    @property
    def edges(self) -> tuple[int, ...]:
        """Shape of the numbers of one scan; () is a single one."""
        return ()

    @abstractmethod
    def value(self, about: Mapping[str, Any]) -> Numbers:
        """What it is for a scan; NaN where nobody knows.

        Args:
            about: what a store's manifest says of the scan.
        """

    def parse(self, text: str) -> Numbers:
        """What somebody asks for.

        Raises:
            ValueError: says what would be right.
        """
        return float(text)

    @property
    def covariate(self) -> str:
        """Column of a store's table that it is told from; "" if it is told from something else."""
        return ""

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it can be asked for; none if it is asked for otherwise."""
        return ()

    @property
    def places(self) -> list[str]:
        """Places on this machine that the configuration names."""
        return []

    def placed(self, beside: Sequence[Path], named: Path | None = None) -> Self:
        """The same, with what it needs where that lies now.

        Args:
            beside: folders that may hold it, in order, if it is not where it was.
            named: where somebody says that it lies.

        Raises:
            ValueError: what is named is something else.
        """
        return self

    def unlike(self, words: Collection[str] | None) -> str:
        """Why it cannot be told from a column, or "".

        Args:
            words: those of the column; None if it is of numbers.
        """
        return ""

    @property
    def settled(self) -> bool:
        """Whether all of it is stated, and nothing is to follow from a cohort."""
        return True

    def settle(self, people: Sequence[Mapping[str, Any]]) -> Self:
        """The same, with what is not stated as it follows from a cohort.

        Args:
            people: what a store says of each scan that is trained on.

        Raises:
            ValueError: nothing follows from them; says why.
        """
        return self

    @property
    def classes(self) -> int | None:
        """How many words its value is the number of one of; 0 if it is a number itself, None if a Gaussian cannot be told it."""
        return None

    @abstractmethod
    def build(self, width: int) -> nn.Module:
        """The module: numbers ``[B, *edges]`` -> embedding ``[B, width]``."""


TOLD = "embed_told."
"""What names of weights begin with that embed what a network is told."""


class Conditioned(nn.Module):
    """A network and what it is told: ``forward(input_BCXYZ, noise_B, values) -> output_BCXYZ``.

    Args:
        network: takes a third input, [B, E], which it adds to its embedding of the noise level.
        conditions: at least one.
        width: E.
    """

    def __init__(self, network: nn.Module, conditions: Sequence[ConditionConfig], width: int) -> None:
        super().__init__()
        self.network = network
        # Names with "embed" keep a matrix out of Muon: the layers at the borders of a network belong to AdamW.
        self.embed_told = nn.ModuleDict({_key(condition.name): condition.build(width) for condition in conditions})
        self.embed_untold = nn.ModuleDict({_key(condition.name): _untold(width) for condition in conditions})
        self._edges = {condition.name: condition.edges for condition in conditions}

    def forward(self, x_BCXYZ: Tensor, noise_B: Tensor, values: Mapping[str, Tensor] | None = None, **kept: Tensor) -> Tensor:
        """What is not among ``values``, or is NaN there, is not told."""
        told = values or {}
        parts = [self._embedded(name, told.get(name), noise_B) for name in self._edges]
        return self.network(x_BCXYZ, noise_B, torch.stack(parts).sum(dim=0), **kept)  # type: ignore[no-any-return]

    def _embedded(self, name: str, value: Tensor | None, noise_B: Tensor) -> Tensor:
        """[B, E]. The module always computes, so that every weight has a gradient, whoever is told."""
        if value is None:
            value = noise_B.new_full((len(noise_B), *self._edges[name]), math.nan)
        told_B = ~value.isnan().reshape(len(value), -1).any(dim=1)
        # Adding nothing of the noise level leaves each number as it is, and puts these layers on the way of a gradient to it: that is
        # where those who take gradients of single patients look for layers.
        nothing_B = 0.0 * noise_B
        numbers = torch.where(value.isnan(), 0.0, value).to(noise_B.dtype) + nothing_B.view(-1, *[1] * len(self._edges[name]))
        embedded_BE: Tensor = self.embed_told[_key(name)](numbers)
        return torch.where(told_B[:, None], embedded_BE, self.embed_untold[_key(name)](nothing_B[:, None] + 1.0).to(embedded_BE.dtype))


def take_over(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Loads weights into a network, in place.

    Weights of a network that was told nothing become those inside of one that is told, whose embeddings begin as zeros: it begins as what
    they make, bit for bit, whatever it is told.

    Raises:
        RuntimeError: they are those of another network.
    """
    if not isinstance(network, Conditioned) or any(name.startswith(TOLD) for name in weights):
        network.load_state_dict(weights)
        return
    network.network.load_state_dict(weights)
    for told in network.embed_told.values():
        layers = [module for module in told.modules() if any(True for _ in module.parameters(recurse=False))]
        for parameter in (each for layer in layers[-1:] for each in layer.parameters(recurse=False)):
            nn.init.zeros_(parameter)


def _untold(width: int) -> nn.Module:
    """The embedding of what is not told, a row that begins as zeros: a layer whose gradients by patient are known, of an input of 1."""
    row = nn.Linear(1, width, bias=False)
    nn.init.zeros_(row.weight)
    return row


def _key(name: str) -> str:
    """What a condition's layers are called: a name of its own could be that of a method of torch's."""
    return f"of_{name}"


def conditioned(network: nn.Module, conditions: Sequence[ConditionConfig], width: int) -> nn.Module:
    """A network that is told conditions; itself if there are none."""
    return Conditioned(network, conditions, width) if conditions else network


def telling(cut: Cut, conditions: Sequence[ConditionConfig]) -> Cut:
    """A cut whose examples are told the conditions of their scan, but for those that are left out; itself if there are none."""
    if not conditions:
        return cut

    def told(scan: Scan, seed: int, *key: int | str) -> Examples:
        examples = cut(scan, seed, *key)
        values = {
            condition.name: _row(
                condition, math.nan if dropped(condition.name, condition.drop, seed, *key) else condition.value(scan.about)
            )
            for condition in conditions
        }
        return replace(examples, given=examples.given | _apart(conditions, values))

    return told


def known(conditions: Sequence[ConditionConfig], people: Sequence[Mapping[str, Any]]) -> dict[str, Known]:
    """What is known of the scans of a cohort, of those conditions that a Gaussian can be told.

    Args:
        conditions: any.
        people: what a store's manifest says of each scan.
    """
    return {
        condition.name: Known(torch.tensor([condition.value(about) for about in people], dtype=torch.float32), condition.classes)
        for condition in conditions
        if condition.classes is not None
    }


def dropped(name: str, chance: float, seed: int, *key: int | str) -> bool:
    """Whether an example is not told a condition: with ``chance``, half of it in one draw for all conditions."""
    alone = (chance / 2) / (1 - chance / 2)
    return uniform(seed, "drop", *key) < chance / 2 or uniform(seed, "drop", name, *key) < alone


def asked_for(conditions: Sequence[ConditionConfig], told: Mapping[str, str]) -> Given:
    """What one volume is asked to be (B = 1), from the words of a user.

    Raises:
        UserError: there is no such condition, or no such value of it.
    """
    known = {condition.name: condition for condition in conditions}
    values = {}
    for name, text in told.items():
        if name not in known:
            expected = f"one of {', '.join(known)}" if known else "nothing: this run was trained without conditions"
            raise UserError("--given", f"there is no condition '{name}'", expected, nearest_word(name, known))
        try:
            values[name] = _row(known[name], known[name].parse(text))
        except Elsewhere as error:
            do = "put it there, or beside the run, or say where it lies now: --encoder FOLDER"
            raise UserError(f"--given {name}", str(error), "the encoder that the run was told by", do) from None
        except ValueError as error:
            raise UserError(f"--given {name}", f"'{text}' is no value of it ({error})") from None
    return _apart(conditions, values) if values else NOTHING


def embedded(conditions: Sequence[ConditionConfig]) -> list[ConditionConfig]:
    """Those that networks are told."""
    return [condition for condition in conditions if condition.embedded]


def _apart(conditions: Sequence[ConditionConfig], values: Mapping[str, Tensor]) -> Given:
    """What networks are told, and what a fitted Gaussian is."""
    there = [condition for condition in conditions if condition.name in values]
    return Given(
        values={condition.name: values[condition.name] for condition in there if condition.embedded},
        fitted={condition.name: values[condition.name] for condition in there if condition.classes is not None},
    )


def _row(condition: ConditionConfig, value: Numbers) -> Tensor:
    """[1, *edges], float32; NaN everywhere where it is not told.

    Raises:
        ValueError: they are not as many numbers as the condition has.
    """
    row = torch.as_tensor(value, dtype=torch.float32)
    if row.dim() == 0 and row.isnan():
        row = row.expand(condition.edges)
    if tuple(row.shape) != condition.edges:
        raise ValueError(f"{row.numel()} numbers, not {math.prod(condition.edges)}")
    return row[None]
