"""What tests of older versions' files share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file


@pytest.fixture
def same_weights() -> Callable[[Path, Path], None]:
    """``same_weights(run, other)``: both experts of two runs have the same weights, but for another processor's rounding."""

    def compare(run: Path, other: Path) -> None:
        for expert in "01":
            found, expected = (load_file(one / "experts" / expert / "weights.safetensors") for one in (run, other))
            assert found.keys() == expected.keys()
            for name, weight in expected.items():
                np.testing.assert_allclose(found[name].numpy(), weight.numpy(), rtol=1e-3, atol=1e-5)

    return compare
