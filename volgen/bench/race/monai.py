"""MONAI's own 3D diffusion recipe for ``volgen bench race``: its network, its schedulers and its inferer, as its tutorial uses them.

`DiffusionModelUNet` at its defaults predicts epsilon; `DDPMScheduler` with 1000 steps of the tutorial's "scaled linear" betas trains it
(Adam), `DDIMScheduler` with 50 steps draws from it. Volumes are in [0, 1], as MONAI's transforms make them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import DiffusionInferer
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from torch import Tensor
from torch.nn.functional import mse_loss

from volgen.data.store import Store
from volgen.images import nifti
from volgen.images.geometry import Geometry
from volgen.images.volume import Volume

BETAS = {"schedule": "scaled_linear_beta", "beta_start": 0.0005, "beta_end": 0.0195}
TRAINED, STEPS = 1000, 50


def main(work: Mapping[str, Any]) -> dict[str, float]:
    """Trains for ``seconds`` of processor time and writes ``volumes`` NIfTI files into ``out``; returns steps and seconds."""
    store = Store.open(Path(work["store"]))
    records = store.split("train")
    seconds, out = float(work["seconds"]), Path(work["out"])
    torch.manual_seed(int(work["seed"]))
    random = np.random.default_rng(int(work["seed"]))
    device = torch.device(work["device"])
    volumes = torch.stack([torch.from_numpy(store.read_unit(record))[None] for record in records])
    network = DiffusionModelUNet(3, 1, 1).to(device)
    inferer = DiffusionInferer(DDPMScheduler(TRAINED, **BETAS))
    optimiser = torch.optim.Adam(network.parameters(), lr=float(work["learning_rate"]))
    began, steps = time.process_time(), 0

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=work["precision"] == "bf16")

    while time.process_time() - began < seconds:
        x = volumes[random.integers(len(volumes), size=int(work["batch_size"]))].to(device)
        noise = torch.randn_like(x)
        timesteps = torch.randint(0, TRAINED, (len(x),), device=device)
        optimiser.zero_grad()
        with autocast():
            predicted = inferer(inputs=x, diffusion_model=network, noise=noise, timesteps=timesteps)
        mse_loss(predicted.float(), noise).backward()
        optimiser.step()
        steps += 1
    trained = time.process_time() - began
    scheduler = DDIMScheduler(TRAINED, **BETAS)
    scheduler.set_timesteps(STEPS)
    network.eval()
    geometry = Geometry.of_cohort(
        records[0].shape, [r.affine for r in records], [r.intensity for r in records], (store.read_unit(record) for record in records[:8])
    )
    began = time.process_time()
    for index in range(int(work["volumes"])):
        with torch.no_grad(), autocast():
            drawn: Tensor = inferer.sample(torch.randn(1, 1, *geometry.shape, device=device), network, scheduler, verbose=False)
        voxels = geometry.intensity.from_unit(drawn[0, 0].float().clamp(0, 1).cpu().numpy())
        nifti.write(out / f"volume-{index:02d}.nii.gz", Volume(voxels, geometry.affine))
    count = sum(parameter.numel() for parameter in network.parameters())
    return {"steps": steps, "train": trained, "sample": time.process_time() - began, "parameters": count}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
