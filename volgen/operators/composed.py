"""One instrument after the other, A = A_n ... A_2 A_1: shading, then k-space; blur, then missing voxels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.config import validate
from volgen.core.errors import UserError, nearest_word
from volgen.core.protocols import Operator, Proximal, Shape3
from volgen.core.registry import config_class, kinds

PACKAGE = __name__.rpartition(".")[0]


class Config(BaseConfig):
    """A row of operators; all but the last have to make volumes of volumes."""

    kind: Literal["composed"] = "composed"
    parts: tuple[dict[str, Any], ...] = ({"kind": "bias"}, {"kind": "cartesian"})
    """Operators with their settings, in the order in which they act: ``[{kind: bias, strength: 0.3}, {kind: cartesian}]``."""

    @property
    def named_files(self) -> dict[str, Path]:
        """Files that parts read; those of a part that is wrong, which has to be said when it is built, are not among them."""
        found: dict[str, Path] = {}
        for number, part in enumerate(self.parts):
            with suppress(UserError):
                found.update({f"parts.{number}.{key}": path for key, path in _part(number, part).named_files.items()})
        return found

    def build(self, shape: Shape3, device: torch.device) -> Operator:
        """Makes the operator.

        Raises:
            UserError: there is no operator, one is not known or is wrong, or one that is not the last makes something else than volumes.
        """
        if not self.parts:
            raise UserError("--operator.parts", "is empty", "operators, such as [{kind: bias}, {kind: cartesian}]")
        operators: list[Operator] = []
        for number, part in enumerate(self.parts):
            operators.append(_part(number, part).build(shape, device))
            if number < len(self.parts) - 1:
                image = operators[-1].apply(torch.zeros(1, 1, *shape, device=device))
                if image.is_complex() or image.ndim != 5 or image.shape[1] != 1:
                    raise UserError("--operator.parts", f"'{part['kind']}' makes no volumes", "such operators last")
                shape = (image.shape[2], image.shape[3], image.shape[4])
        return InTurn(operators)


def _part(number: int, part: Mapping[str, Any]) -> Any:
    kind = str(part.get("kind", ""))
    if kind not in kinds(PACKAGE):
        raise UserError(
            f"--operator.parts, {number + 1}", f"there is no operator '{kind}'", "a known kind", nearest_word(kind, kinds(PACKAGE))
        )
    return validate(config_class(PACKAGE, kind), part, f"--operator.parts, {number + 1}")


class InTurn(Operator):
    """Operators one after the other.

    Args:
        operators: in the order in which they act, at least one.
    """

    def __init__(self, operators: Sequence[Operator]) -> None:
        self._operators = tuple(operators)
        self.apart = all(operator.apart for operator in operators)

    def apply(self, x_BCXYZ: Tensor) -> Tensor:
        """The data of the last."""
        for operator in self._operators:
            x_BCXYZ = operator.apply(x_BCXYZ)
        return x_BCXYZ

    def adjoint(self, data: Tensor) -> Tensor:
        """The adjoints from the last to the first."""
        for operator in reversed(self._operators):
            data = operator.adjoint(data)
        return data

    def seen(self, data: Tensor) -> Tensor:
        """What the last says."""
        return self._operators[-1].seen(data)

    def closed(self, gamma: float) -> Proximal | None:
        """That of a single operator; two have none in general."""
        return self._operators[0].closed(gamma) if len(self._operators) == 1 else None
