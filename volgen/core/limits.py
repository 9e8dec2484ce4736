"""Limits on what is read from files that may come from anybody: sizes and numbers beyond which no run makes sense.

They keep a damaged or hostile run folder from filling memory or taking for ever before the message comes. What only one kind of file has
to do with is beside its reader.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

CONFIG_BYTES = 2**18
"""Limit of a YAML configuration: ours have one or two kB."""
SMALL_JSON_BYTES = 2**20
"""Limit of a JSON file that describes one thing: a geometry, a phase, checksums."""
LEDGER_BYTES = 2**25
"""Limit of ``privacy_ledger.json``, which has an entry for every network."""
ENSEMBLE_BYTES = 2**25
"""Limit of ``ensemble.json``: ten thousand experts take 5 MB."""
MANIFEST_BYTES = 2**26
"""Limit of the manifest of a run, which lists a file or two for every expert."""
STATE_BYTES = 2**26
"""Limit of the ``state.json`` of a checkpoint, which lists some files for every rank."""
METRICS_BYTES = 2**32
"""Limit of ``metrics.jsonl``: ten million steps."""
HEADER_BYTES = 10**8
"""Limit of a safetensors header: that of the format's own library."""
MAX_POINTS = 10_000
"""Longest grid of noise levels: ten times that of DDPM. More is a slip of the keyboard, and would only fill memory."""
MAX_AXIS = 32767
"""Largest axis that a NIfTI-1 header can state (int16)."""
MAX_VOXELS = 1024**3
"""Largest grid: 4 GiB a copy in float32. More is a slip of the keyboard or a damaged header."""
GRID = f"at most {MAX_VOXELS} voxels, and {MAX_AXIS} along an axis"
VOXEL_MM = (1e-3, 1e3)
"""Shortest and longest edge of a voxel: from histology to nonsense."""
MAX_INTENSITY = 1e30
"""Largest intensity in scanner units, either way: float32 holds a hundred million times more."""
MAX_LEVELS = 12
"""Resolutions of a network or of a pyramid: 2^12 voxels along an axis are none of ours."""
MAX_WIDTH = 2**14
"""Channels of a resolution."""
MAX_BLOCKS = 64
"""Blocks at one resolution."""
MAX_RANK = 2**14
"""Components of a low-rank covariance or of an adapter, and folds of a fit."""


def grid_fits(shape: Sequence[int]) -> bool:
    """Whether memory can hold a grid, and a header can state it (:data:`GRID`)."""
    return math.prod(shape) <= MAX_VOXELS and max(shape) <= MAX_AXIS
