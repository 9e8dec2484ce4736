"""The Frechet distance of a generated cohort relative to that of real people among themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from volgen.evaluation.frechet import Features, frechet_distance

Unit = NDArray[np.float32]
FLOOR_DRAWS = 5


def frechet_ratio(generated: Unit, validation: Unit, train: Unit) -> dict[str, Any]:
    """Distance of generated to unseen people, and that of equally many training people to them.

    Args:
        generated: [people, images of each, values].
        validation: the same of people that a model does not see.
        train: the same of people that it is trained on.

    Returns:
        ``generated``, ``floor``, ``ratio`` of the two, and the number of ``features``; means over 5 draws of the people of the floor.
    """
    # The distance shrinks with the number of volumes, so the floor comes from as many people as were generated (half of them at most);
    # the features are fitted without those people, because components exaggerate the variance of what they were fitted on.
    count = max(min(len(generated), len(train) // 2), 1)
    distances, floors, used = [], [], 0
    for draw in range(FLOOR_DRAWS):
        order = np.random.default_rng(draw).permutation(len(train))
        features = Features.fit(_flat(train[order[count:]]))
        unseen, used = features(_flat(validation)), len(features.basis)
        distances.append(frechet_distance(features(_flat(generated)), unseen))
        floors.append(frechet_distance(features(_flat(train[order[:count]])), unseen))
    distance, floor = float(np.mean(distances)), float(np.mean(floors))
    return {"generated": distance, "floor": floor, "ratio": distance / max(floor, 1e-12), "features": used}


def _flat(rows: Unit) -> Unit:
    return rows.reshape(-1, rows.shape[-1])
