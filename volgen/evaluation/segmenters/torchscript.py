"""A segmentation network of yours as TorchScript."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.files import sha256
from volgen.evaluation.segmentation import Segmentation, of_probabilities
from volgen.evaluation.specimen import Specimen


class Config(BaseConfig):
    """Whole volumes [1, 1, X, Y, Z] in [0, 1] (RAS+, their own grid) to logits [1, classes, X, Y, Z], class 0 being unknown."""

    kind: Literal["torchscript"] = "torchscript"

    path: Path
    """The TorchScript file."""
    names: Annotated[tuple[str, ...], Field(min_length=2)]
    """Names of the classes but the first, in order."""

    def structures(self) -> tuple[str, ...]:
        """Names as they were given."""
        return self.names

    def declared(self) -> Mapping[str, str]:
        """Name, checksum of the file, layer and preprocessing."""
        return {
            "name": self.path.name, "sha256": sha256(self.path, follow=True), "layer": "softmax, largest class",
            "preprocessing": "own robust window to [0, 1], own grid",
        }  # fmt: skip

    def segment(self, specimen: Specimen) -> Segmentation:
        """Runs the network."""
        scan = specimen.scan
        with torch.inference_mode():
            logits = self._network(torch.from_numpy(scan.unit)[None, None])
        expected = [1, len(self.names) + 1, *scan.unit.shape]
        if list(logits.shape) != expected:
            raise UserError(str(self.path), f"returns {list(logits.shape)} of a volume {list(scan.unit.shape)}", f"logits {expected}")
        sure, best = logits[0].float().softmax(dim=0).max(dim=0)
        return of_probabilities(best.numpy(), sure.numpy(), len(self.names), scan.voxel_size, scan.mask)

    @cached_property
    def _network(self) -> Any:
        try:
            return torch.jit.load(str(self.path), map_location="cpu").eval()
        except (OSError, RuntimeError, ValueError) as error:
            found = f"cannot be read as TorchScript ({str(error).splitlines()[0]})"
            raise UserError(str(self.path), found, "a file of torch.jit.save") from None
