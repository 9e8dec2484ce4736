"""The model card of a released run: ``README.md``, for whoever finds the folder, people and model hubs alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import volgen
from volgen.core.run_files import LEDGER, MANIFEST
from volgen.data import derivative
from volgen.images.geometry import boxed
from volgen.reporting.statement_page import NAME as PAGE
from volgen.runs.trained import TrainedRun

TEXT = """---
license: other
license_name: FILL-IN
library_name: volgen
tags: [brain-mri, 3d, diffusion, synthetic-data{private}]
---
# {name}

A generator of 3D brain MRI volumes, trained with volgen {version}.

**Licence: to be filled in** by whoever publishes this folder, here and in the lines above. The licence of the training scans may bind it.

## How to draw volumes
With volgen {version} or later installed:
```bash
volgen sample FOLDER --out samples --count 4 --seed 1     # FOLDER: this one
```
Volume i depends on this folder, the settings, the seed and i alone.
Another training can begin from this one: `start: {{kind: public, run: FOLDER}}`.

## What it draws
| | |
|---|---|
| shows | {shows} |
| grid | {shape} voxels of {voxels} mm, RAS+{box} |
| intensities | {low:g} to {high:g}, arbitrary units |
| noise levels | {levels}, from {sigma_max:.3g} down to {sigma_min:.3g}, shared by {experts} |
| network | `{network}`, {parameters} trained weights in the largest expert, behind the preconditioner `{preconditioner}` |
| solver, if none is asked for | `{sampler}` |

Trained on MR images of the kind it draws (what kind: see its publisher). None of its volumes is a scan of a person.

## Privacy
{headline}

{privacy}

`{page}` is the whole statement for a reviewer: what is protected, from whom, with which numbers, under which assumptions, and
what is not. `{ledger}` has the numbers for programs.

## Limits
* Not for diagnosis, and not for conclusions about single people. A finding in a drawn volume is nobody's.
* It draws what its training people look like: groups, ages, scanners and diseases that were rare or absent there are rare, wrong
  or absent here.
* How good the volumes are has to be measured for each use: `volgen report` compares them with real scans, slice by slice.
* The volumes look like real scans. Say of every one that it is synthetic; the files say so too.

## Files
`{manifest}` lists every file with its SHA-256. What the run had beside these (logs, checkpoints, journals, the fingerprint of the
cohort) has not been released.
"""


def text(trained: TrainedRun, ledger: Mapping[str, Any], statement: Mapping[str, Any]) -> str:
    """The card as Markdown.

    Args:
        trained: the released run.
        ledger: its ``privacy_ledger.json``.
        statement: content of the ``statement.json`` beside it.
    """
    recipe, geometry, bank = trained.recipe, trained.geometry, trained.ensemble
    count = len(bank.experts)
    return TEXT.format(
        name=recipe.name, version=volgen.__version__, private=", differential-privacy" if statement["guarantee"] else "",
        shows=geometry.shows,
        shape=" x ".join(str(edge) for edge in geometry.shape), voxels=" x ".join(f"{size:g}" for size in geometry.voxel_size),
        box=boxed(geometry),
        low=geometry.intensity.low, high=geometry.intensity.high, levels=len(bank.grid), sigma_max=bank.sigma_max,
        sigma_min=bank.sigma_min, experts="one expert" if count == 1 else f"{count} experts",
        network="`, `".join(dict.fromkeys(variant.network.kind for variant in recipe.variants)),
        parameters=f"{max(expert.parameters for expert in bank.experts):,}", preconditioner=recipe.preconditioner.kind,
        sampler=recipe.sampler.kind, headline=statement["headline"], privacy=derivative.privacy_statement(ledger), page=PAGE,
        ledger=LEDGER, manifest=MANIFEST,
    )  # fmt: skip
