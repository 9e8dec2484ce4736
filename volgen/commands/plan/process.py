"""What a training process takes before it trains, measured in a process of its own: interpreter, torch, DeepSpeed, first use of kernels."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import torch

from volgen import recipe as recipes
from volgen.core.config import dump_yaml
from volgen.core.manifest import peak_memory_bytes
from volgen.recipe import Recipe

EDGE = 8


def process_bytes(recipe: Recipe) -> int:
    """Peak resident bytes of a process that imports what training imports and trains a network of some kilobytes for a step."""
    return int(run_apart(recipe, "volgen.commands.plan.process", "report"))


def run_apart(recipe: Recipe, module: str, function: str, *arguments: int) -> str:
    """Calls ``function(path of the recipe, *arguments)`` in a new process and returns the last word that it prints."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(dump_yaml(recipe), encoding="utf-8")
        code = f"from {module} import {function}; {function}(*{(str(path), *arguments)!r})"
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, text=True, check=True, env=_alone())
    return done.stdout.split()[-1]


def _alone() -> dict[str, str]:
    """The environment without the variables of a launcher: this process is one of its own."""
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    return {name: value for name, value in os.environ.items() if name not in launcher and not name.startswith(("SLURM_", "OMPI_"))}


def report(path: str) -> None:
    """Trains for a step and prints the peak."""
    from volgen.models.networks.wavelet_unet3d import Config
    from volgen.parallel import launch
    from volgen.parallel.engine import Engine

    for name in ("torch.utils.tensorboard", "volgen.commands.train.train"):
        import_module(name)  # for its size
    recipe = recipes.load(Path(path))
    launch.take_part(launch.Launch())
    with torch.device("meta"):
        for variant in recipe.variants:
            variant.build().released(recipe.phases()[-1])
    muon = recipe.optimiser.matrix_learning_rate > 0
    engine = Engine(Config(channels=(16,)).build(inputs=1), recipe.engine, 1, matrix_rate=float(muon))
    for _ in range(recipe.engine.accumulation):
        loss = engine(torch.randn(1, 1, EDGE, EDGE, EDGE), torch.zeros(1)).square().mean()
        engine.backward(loss)
    engine.step(1e-3)
    print(peak_memory_bytes())
