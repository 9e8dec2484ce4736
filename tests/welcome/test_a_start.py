"""What a run begins from is one file: here weights that are all zero, with a caveat of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOY = '''"""Every network begins with weights of zero."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from volgen.core.config import Config as BaseConfig


class Config(BaseConfig):
    """Zeros."""

    kind: Literal["zero"] = "zero"
    warm: bool = True
    brings_fit: bool = False
    places: list[str] = []

    def check(self, recipe: Any) -> None:
        if recipe.experts.warm_start != "none":
            raise ValueError("start.kind is 'zero', so experts start from nothing else: set experts.warm_start to none")

    def keeps(self, points: Sequence[float]) -> bool:
        return False

    def told(self, recipe: Any) -> str:
        return "weights of zero"

    def assumptions(self) -> list[str]:
        return []

    def caveat(self) -> str:
        return ""

    def build(self, recipe: Any, store: Any, open_run: Any) -> Zeros:
        return Zeros(recipe)


class Zeros:
    inputs = {"zeros": "all of them"}
    assumed: dict[str, Any] = {}

    def __init__(self, recipe: Any) -> None:
        self._recipe = recipe

    def check(self, geometry: Any) -> None:
        pass

    def check_same(self, directory: Path) -> None:
        pass

    def fit(self) -> None:
        return None

    def weights(self, phase: Any) -> dict[str, Any]:
        state = self._recipe.build().released(phase).state_dict()
        return {name: tensor.zero_() for name, tensor in state.items()}

    def kept(self, phase: Any) -> None:
        return None
'''


@pytest.mark.slow
def test_a_start_is_one_file(house: Callable[[], Any], blob_store: Path) -> None:
    newcomer = house()
    newcomer.add("origin/starts/zero.py", TOY)
    config = newcomer.folder / "config.yaml"
    config.write_text(
        f"name: toy\ndata: {{store: {blob_store}, shape: [16, 16, 16], batch_size: 2, workers: 1}}\n"
        "schedule: {kind: karras, points: 2}\nnetwork: {kind: wavelet_unet3d, channels: [8], norm_groups: 4}\n"
        "preconditioner: {kind: edm}\nstart: {kind: zero}\nexperts: {count: 1}\n"
        "stopping: {max_steps: 1, validation_volumes: 1}\n"
    )
    assert "set experts.warm_start to none" in newcomer.run("train", "--config", config, code=2)
    newcomer.run("train", "--config", config, "--experts.warm_start", "none")
    manifest = json.loads((newcomer.folder / "runs/toy/manifest.json").read_text())
    assert manifest["inputs"]["zeros"] == "all of them"
