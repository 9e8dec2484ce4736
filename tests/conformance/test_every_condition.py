"""Every file in volgen/models/conditions is told, parsed and embedded; there may be none."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from volgen.core.registry import config_class, kinds, module
from volgen.models.condition import ConditionConfig

PACKAGE = "volgen.models.conditions"
WIDTH = 16


@pytest.mark.parametrize("kind", kinds(PACKAGE))
def test_it_is_a_named_number_of_a_scan_that_can_be_embedded(kind: str) -> None:
    condition: Any = config_class(PACKAGE, kind)()
    assert isinstance(condition, ConditionConfig) and condition.kind == kind  # type: ignore[attr-defined]
    assert (module(PACKAGE, kind).__doc__ or "").strip()
    assert condition.name and "=" not in condition.name
    unknown = torch.as_tensor(condition.value({}), dtype=torch.float32)
    assert bool(unknown.isnan().all()), "a scan of which nothing is said is not told"
    values = torch.randn(3, *condition.edges)
    embedded = condition.build(WIDTH)(values)
    assert embedded.shape == (3, WIDTH) and bool(embedded.isfinite().all())
    assert not math.isnan(float(embedded.detach().std()))
