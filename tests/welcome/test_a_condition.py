"""A condition is one file: a run is trained with it, and samples are asked for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

TOY = '''"""A toy: the middle of the window of a scan's intensities, in thousands."""

from __future__ import annotations

from typing import Literal

from torch import nn

from volgen.models.condition import ConditionConfig


class Config(ConditionConfig):
    """How bright the scanner wrote a scan."""

    kind: Literal["toy"] = "toy"

    def value(self, about):
        return (about["intensity"]["low"] + about["intensity"]["high"]) / 2000

    def build(self, width):
        return nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, width))
'''


@pytest.mark.slow
def test_a_condition_is_one_file(house: Callable[[], Any], made_by_0_1_0: Path) -> None:
    newcomer = house()
    newcomer.add("models/conditions/toy.py", TOY)
    recipe = yaml.safe_load((made_by_0_1_0 / "run.yaml").read_text())
    recipe |= {"name": "told", "conditions": [{"kind": "toy", "drop": 0.2}]}
    recipe["data"]["store"] = str(made_by_0_1_0 / "cohort.zarr")
    config = newcomer.folder / "config.yaml"
    config.write_text(yaml.safe_dump(recipe))
    newcomer.run("train", "--config", config, "--optimiser.learning_rate", "0.01")
    run = f"{recipe.get('runs', 'runs')}/told"

    def drawn(out: str, *words: str) -> Any:
        newcomer.run("sample", run, "--out", out, "--count", "1", *words)
        (path,) = (newcomer.folder / out).rglob("sub-*.nii.gz")
        return nib.load(path).get_fdata()

    free, dark, bright = drawn("free"), drawn("dark", "--given", "toy=0.1"), drawn("bright", "--given", "toy=3")
    for one, other in ((free, dark), (dark, bright)):
        assert np.abs(one - other).max() > 1e-4 * np.ptp(free)
    again = drawn("again", "--given", "toy=3")
    assert np.array_equal(again, bright)
    refused = newcomer.run("sample", run, "--out", "none", "--count", "1", "--given", "tay=3", code=2)
    assert "there is no condition 'tay'" in refused and "toy" in refused
