"""Features of slices in three planes (2.5D) by a network of yours."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from volgen.core.errors import UserError
from volgen.core.files import sha256
from volgen.evaluation.extractors._shared import FeaturesConfig, stacks
from volgen.evaluation.specimen import Specimen
from volgen.evaluation.two_cohorts import Kept

SHARES = tuple(round(0.2 + 0.1 * step, 1) for step in range(7))


class Config(FeaturesConfig):
    """The mean output of a TorchScript network over 7 slices across each axis, as in 2.5D Frechet distances."""

    kind: Literal["network"] = "network"
    label: ClassVar[str] = "2.5D features of a network"

    path: Path
    """TorchScript file: [B, 3, rows, columns] in [0, 1], three times the same slice, to [B, features] or [B, features, rows, columns]."""

    def declared(self) -> Mapping[str, str]:
        """Name, checksum, layer and preprocessing."""
        return {
            "name": self.path.name, "sha256": sha256(self.path, follow=True),
            "layer": "output, mean over places and slices, up to 24 components",
            "preprocessing": "own robust window to [0, 1], 7 slices from 20 to 80 % of the head, three equal channels",
        }  # fmt: skip

    def extract(self, specimen: Specimen) -> Kept:
        """Mean features, by axis."""
        found = {}
        for label, _, images, _ in stacks(specimen.scan, SHARES):
            with torch.inference_mode():
                output = self._network(torch.from_numpy(images)[:, None].expand(-1, 3, -1, -1).contiguous())
            if not isinstance(output, torch.Tensor) or output.ndim not in (2, 4):
                expected = "an extractor of features"
                raise UserError(str(self.path), "does not return [B, features] or [B, features, rows, columns]", expected)
            found[label] = output.reshape(*output.shape[:2], -1).mean(dim=(0, 2)).double().numpy()
        return found

    @cached_property
    def _network(self) -> Any:
        try:
            return torch.jit.load(str(self.path), map_location="cpu").eval()
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                str(self.path), f"cannot be read as TorchScript ({str(error).splitlines()[0]})", "a file of torch.jit.save"
            ) from None
