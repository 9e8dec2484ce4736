"""What a finished run shows people who open its folder: ``README.md`` and the losses as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import volgen
from volgen.core.files import read_json, write_text
from volgen.core.run_files import CARD, CONFIG, CURVES, ENSEMBLE, LEDGER, MANIFEST, METRICS
from volgen.data import derivative
from volgen.experts.ensemble import ExpertRecord
from volgen.images.geometry import Geometry, boxed
from volgen.recipe import Recipe
from volgen.reporting import curves
from volgen.reporting.curves import Curve
from volgen.training import metrics

TEXT = """# {name}

A generator of 3D brain MRI volumes, trained with volgen {version}. None of its volumes is a scan of a person; they are not for diagnosis.

| | |
|---|---|
| it draws | {shows} |
| grid | {shape} voxels of {voxels} mm, RAS+{box} |
| intensities | {low:g} to {high:g}, arbitrary units |
| networks | {networks} behind `{preconditioner}`, {steps:,} steps in all |
| noise levels | {levels}, from {high_sigma:.3g} down to {low_sigma:.3g} |
| solver, if none is asked for | `{sampler}` |

## Use it
```bash
volgen sample THIS-FOLDER --out samples --count 8
volgen report samples --reference STORE --out report   # STORE: of real scans on the same voxels
```

## How it was made
`{config}` is the whole configuration; the same training is

```bash
volgen train --config {config} --name ANOTHER-NAME
```

`{manifest}` has the version, the seed and the fingerprint of the cohort, `{ensemble}` the checksums of the weights,
`{metrics}` what was measured{picture}.

## Privacy
{privacy}

What may leave this folder, and what must not: `volgen release` makes that choice. This file and the picture stay here.
"""


def write(recipe: Recipe, experts: Sequence[ExpertRecord]) -> None:
    """Writes both into the directory of a run whose other files, but ``ensemble.json`` and the manifest, are there.

    Nothing in them is of a patient: what the card says comes from configuration, frame and ledger; a private run has no losses to draw.
    """
    root = recipe.directory
    drawn = _draw(root, recipe.name)
    geometry, ledger, grid = Geometry.read(root), read_json(root / LEDGER, "the privacy ledger of a trained run"), recipe.schedule.grid()
    content = TEXT.format(
        name=recipe.name, version=volgen.__version__, shows=geometry.shows,
        shape=" x ".join(map(str, geometry.shape)), voxels=" x ".join(f"{size:g}" for size in geometry.voxel_size), box=boxed(geometry),
        low=geometry.intensity.low, high=geometry.intensity.high, networks=_networks(recipe, experts),
        preconditioner=recipe.preconditioner.kind,
        steps=sum(expert.steps for expert in experts), levels=len(grid), high_sigma=max(grid), low_sigma=min(grid),
        sampler=recipe.sampler.kind, picture=f", `{CURVES}` the losses as a picture" if drawn else "",
        privacy=derivative.privacy_statement(ledger), config=CONFIG, manifest=MANIFEST, ensemble=ENSEMBLE, metrics=METRICS,
    )  # fmt: skip
    write_text(root / CARD, content)


def _networks(recipe: Recipe, experts: Sequence[ExpertRecord]) -> str:
    """How many networks there are of each model, lowest noise first."""
    found, parameters = [], {expert.index: expert.parameters for expert in experts}
    for number, variant in enumerate(recipe.variants):
        first, count = sum(recipe.experts.alike[:number]), recipe.experts.alike[number]
        most = max(parameters[index] for index in range(first, first + count))
        level = f" at level {variant.level}" if variant.level else ""
        found.append(f"{count} of `{variant.network.kind}`{level} ({most:,} trained weights each)")
    return ", ".join(found)


def _draw(root: Path, name: str) -> bool:
    found: dict[str, Curve] = {}
    for line in metrics.read(root):
        found.setdefault(line["phase"], Curve()).add(line["step"], line)
    return curves.write_curves(root / CURVES, found, name)
