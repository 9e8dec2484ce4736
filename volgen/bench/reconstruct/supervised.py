"""One network that was trained for one instrument: zero-filled volumes in, what was measured out.

It is the residual wavelet U-Net that experts are made of, asked without noise, trained on people of the train split whose measurements are
simulated with the coils, the phase and the mask of a scene and with noise of their own in each step. Another mask is another instrument,
for which nobody has trained it.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from volgen.bench._shared.scene import Made, Scene
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.progress import progress
from volgen.core.registry import config_class
from volgen.core.rng import permutation, seeded
from volgen.data.coarser import CoarserStore
from volgen.data.store import Store
from volgen.images.intensity import to_model
from volgen.runs.simulated import noise_like

NETWORKS, KIND = "volgen.models.networks", "wavelet_unet3d"
CHANNELS = (24, 48, 96)
RATE = 1e-3
WARM_UP = 0.1
"""Share of the steps in which the rate rises."""


class Supervised:
    """A row of the benchmark; its network is trained when the first volume is asked for.

    Args:
        scene: whose instrument it is trained for.
        store: people of its train split are learned from.
        level: means over cubes of 2^level voxels of the store are measured.
        steps: how many steps it is trained for, with one volume each.
        seed: seed of weights, order and noise.
        keep: file for its weights, from which they are taken if it is there.
    """

    def __init__(self, scene: Scene, store: Store, level: int, steps: int, seed: int, keep: Path) -> None:
        self._scene, self._steps, self._seed, self._keep = scene, steps, seed, keep
        self._store = CoarserStore(store, 2**level) if level else store
        if not self._store.split("train"):
            raise UserError(str(store.path), "has nobody in its train split", "people to learn from", "leave out --supervised")

    def __call__(self, scene: Scene) -> Made:
        """The network's estimate of a scene."""
        zero_filled, network = to_model(scene.measurement.operator.adjoint(scene.of_intensities())), self.network.eval()
        with torch.no_grad():
            return Made([], _asked(network, zero_filled)[0])

    @cached_property
    def network(self) -> nn.Module:
        """The network after its training, which is not repeated where a benchmark continues."""
        scene, records = self._scene, self._store.split("train")
        place, operator = scene.trained.geometry.place, scene.measurement.operator
        with seeded(self._seed, "supervised"):
            config: Any = validate(config_class(NETWORKS, KIND), {"kind": KIND, "channels": list(CHANNELS)}, "supervised")
            network: nn.Module = config.build(inputs=1, checkpointing=False).to(scene.device).train()
        if self._keep.is_file():
            network.load_state_dict(load_file(self._keep, device=str(scene.device)))
            return network
        optimiser = torch.optim.AdamW(network.parameters(), RATE)
        rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=self._steps + 1, pct_start=WARM_UP)
        heads = [place.crop(torch.from_numpy(self._store.read_unit(record)))[None, None] for record in records]
        with progress("supervised", self._steps) as ticker:
            for step in range(self._steps):
                order = permutation(len(heads), self._seed, "supervised", step // len(heads))
                truth = heads[order[step % len(heads)]].to(scene.device)
                data = operator.apply(truth)
                data = data + scene.measurement.noise / 2 * noise_like(data, self._seed, "supervised", step)
                error = _asked(network, to_model(operator.adjoint(data))) - to_model(truth)
                loss = error.square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                rates.step()
                ticker.advance(note=f"loss {float(loss.detach()):.4f}")
        self._keep.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._keep.with_suffix(".unfinished")
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, unfinished)
        unfinished.replace(self._keep)
        return network


def _asked(network: nn.Module, zero_filled: Tensor) -> Tensor:
    """What was measured, of a zero-filled volume: the network says what to add."""
    with torch.autocast(zero_filled.device.type, torch.bfloat16):
        added: Tensor = network(zero_filled, zero_filled.new_zeros(len(zero_filled)))
    return zero_filled + added.float()
