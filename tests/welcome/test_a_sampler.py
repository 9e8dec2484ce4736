"""A solver is one file: it is found, offered and used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TOY = '''"""A toy: Euler's method with another name."""

from __future__ import annotations

from typing import Any, Literal

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import Sampler


class Toy(Sampler):
    order = 1
    stochastic = False

    def step(self, denoise, x, step, memory) -> tuple[Any, Any]:
        x0 = denoise(x, x.new_full(x.shape[:1], step.sigma))
        return x0 + step.sigma_next / step.sigma * (x - x0), None


class Config(BaseConfig):
    """Nothing to set."""

    kind: Literal["toy"] = "toy"

    def build(self) -> Toy:
        return Toy()
'''


def test_a_sampler_is_one_file(house: Callable[[], Any]) -> None:
    newcomer = house()
    newcomer.add("sampling/samplers/toy.py", TOY)
    config = newcomer.folder / "config.yaml"
    config.write_text(
        "name: toy\ndata: {store: nowhere, shape: [16, 16, 16]}\nschedule: {kind: karras, points: 4}\n"
        "network: {kind: wavelet_unet3d}\npreconditioner: {kind: edm}\nsampler: {kind: toy}\n"
    )
    assert "kind: toy" in newcomer.run("train", "--config", config, "--print_config")
