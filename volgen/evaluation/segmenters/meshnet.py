"""MeshNet (Fedorov et al. 2017), a small network of dilated convolutions, with weights of yours, such as those of brainchop."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy import ndimage
from torch import nn

from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.files import read_json, sha256
from volgen.evaluation.segmentation import Segmentation, of_probabilities
from volgen.evaluation.specimen import Specimen

MODEL, LABELS, WEIGHTS = "model.json", "colormap.json", "model.pth"
MARGIN_MM = 16
AIR = 0.02
QUANTILE = 0.98
LAYOUT = torch.channels_last_3d
"""Channels of a voxel lie side by side: few channels and wide dilations take half the time so on a CPU."""
SAME = 0.02
"""Relative difference of a voxel's edge from 1 mm that is not resampled."""
FORM = f"a folder of a MeshNet: {MODEL} (layers), {LABELS} (labels) and {WEIGHTS} (safetensors)"


class Config(BaseConfig):
    """Class 0 is what the network calls unknown, air included; only the head counts.

    Volumes are brought to 1 mm (linear), divided by the 98th percentile of what is not air, and turned to the axes L, I, A that the
    networks of brainchop were trained on.
    """

    kind: Literal["meshnet"] = "meshnet"

    folder: Path
    """Folder with model.json, colormap.json and model.pth (safetensors)."""

    def structures(self) -> tuple[str, ...]:
        """Names of the classes but the first."""
        return self._labels[1:]

    def declared(self) -> Mapping[str, str]:
        """Name, checksum of the weights, layer and preprocessing."""
        return {
            "name": f"MeshNet of {len(self._labels)} classes", "sha256": sha256(self.folder / WEIGHTS, follow=True),
            "layer": "softmax, largest class", "preprocessing": "1 mm, over the 98th percentile, axes LIA, 16 mm around the head",
        }  # fmt: skip

    def segment(self, specimen: Specimen) -> Segmentation:
        """Runs the network on the head and 16 mm around it."""
        scan = specimen.scan
        if scan.ends[0] is None:
            return Segmentation(np.zeros(len(self.structures())), 1.0)
        box = tuple(
            slice(max(first - round(MARGIN_MM / edge), 0), last + 1 + round(MARGIN_MM / edge))
            for (first, last), edge in zip((end for end in scan.ends if end), scan.voxel_size, strict=True)
        )
        unit, head = scan.unit[box], scan.mask[box]
        if any(abs(edge - 1.0) > SAME for edge in scan.voxel_size):
            unit = ndimage.zoom(unit, scan.voxel_size, order=1)
            head = ndimage.zoom(head.astype(np.uint8), scan.voxel_size, order=0).astype(bool)
        level = float(np.quantile(unit[unit > AIR], QUANTILE))
        best, sure = self._classes(np.clip(unit / np.float32(level), 0.0, 1.0))
        return of_probabilities(best, sure, len(self.structures()), (1.0, 1.0, 1.0), head)

    def _classes(self, unit: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Likeliest class of each voxel and its probability, in RAS+."""
        turned = np.ascontiguousarray(unit.transpose(0, 2, 1)[::-1, ::-1])
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            logits = self._network(torch.from_numpy(turned)[None, None].contiguous(memory_format=LAYOUT))[0]
        sure, best = torch.empty(logits.shape[1:]), torch.empty(logits.shape[1:], dtype=torch.uint8)
        for place in range(logits.shape[1]):  # slab by slab: probabilities of all classes would take a gigabyte
            largest = logits[:, place].float().softmax(dim=0).max(dim=0)
            sure[place], best[place] = largest.values, largest.indices.to(torch.uint8)
        back = (array.numpy()[::-1, ::-1].transpose(0, 2, 1) for array in (best, sure))
        first, second = (np.ascontiguousarray(array) for array in back)
        return first, second

    @cached_property
    def _labels(self) -> tuple[str, ...]:
        content = read_json(self.folder / LABELS, "the labels of a MeshNet")
        names = content.get("labels") if isinstance(content, dict) else None
        if not isinstance(names, list) or len(names) < 3:
            raise UserError(str(self.folder / LABELS), "lists no labels", FORM)
        return tuple(str(name) for name in names)

    @cached_property
    def _network(self) -> nn.Module:
        content = read_json(self.folder / MODEL, "the layers of a MeshNet")
        try:
            layers = [
                nn.Conv3d(*(one[key] for key in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")))
                for one in content["layers"]
            ]
            weights = load_file(self.folder / WEIGHTS)
            order = sorted({int(name.split(".")[1]) for name in weights})
            for layer, place in zip(layers, order, strict=True):
                layer.load_state_dict({part: weights[f"model.{place}.{part}"] for part in ("weight", "bias")})
                layer.weight.data = layer.weight.data.contiguous(memory_format=LAYOUT)
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
            raise UserError(str(self.folder), f"holds another network ({type(error).__name__}: {error})", FORM) from None
        if layers[-1].out_channels != len(self._labels):
            found = f"has {layers[-1].out_channels} classes and {len(self._labels)} labels"
            raise UserError(str(self.folder), found, "as many")
        between: Any = nn.ELU if content.get("elu") else nn.ReLU
        parts = [part for layer in layers for part in (layer, between(inplace=True))][:-1]
        return nn.Sequential(*parts).eval()
