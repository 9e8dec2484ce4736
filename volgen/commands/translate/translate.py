"""``volgen translate``: up the noise axis as what a scan is, down as what it could be, and what that changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volgen.core import manifest
from volgen.core.errors import UserError
from volgen.core.files import sha256, write_json
from volgen.core.folder import claim
from volgen.core.given import Given
from volgen.core.progress import progress, say
from volgen.core.protocols import Sampler
from volgen.data import derivative
from volgen.images import nifti
from volgen.images.contrasts import UNSAID
from volgen.images.intensity import IntensityMap, from_model
from volgen.images.volume import Volume
from volgen.models.condition import ConditionConfig, asked_for
from volgen.parallel.device import usable_device
from volgen.reporting import translation_page
from volgen.reporting.reconstruction_page import Shown
from volgen.runs.choices import component, visited
from volgen.runs.conditions import conditions_of
from volgen.runs.contrast import contrast_of
from volgen.runs.scan import prepared
from volgen.runs.statement import PAGE, STATEMENT, write_statement
from volgen.runs.trained import TrainedRun, open_run
from volgen.sampling.translation import Between, Bridge, Told, crossed

SAMPLERS = "volgen.sampling.samplers"
USUAL = {"kind": "heun"}
FILES = (*derivative.DESCRIPTION, *STATEMENT, translation_page.NAME, translation_page.RESULT, translation_page.FIGURES)
README = f"""# A brain MRI, translated

A generative model changed the scan of a person into what it would be in another group, as far as its cohort showed that. The images show
that person and are as private as the scan; what changed is the model's invention, and must not be used for diagnosis.
`{translation_page.NAME}` is the page to look at first.
"""
HEADER = "translated by a generative model"
SCAN, BACK = "scan", "back"
UNITS = 2.0
"""Width of the model range, of which shares are told."""


@dataclass(frozen=True)
class Endpoint:
    """One end of a translation.

    Attributes:
        run: whose denoiser it is.
        words: what is true there, as it was asked for.
        told: the same, as networks are told it.
    """

    run: TrainedRun
    words: dict[str, str]
    told: Given

    @property
    def contrast(self) -> str:
        """What is seen there, as a suffix of BIDS; "" where nobody knows."""
        return contrast_of(self.run, self.words)


def translate(
    scan: Path,
    run: Path,
    out: Path,
    *,
    origin: Sequence[str] = (),
    aim: Sequence[str] = (),
    other: Path | None = None,
    encoder: Path | None = None,
    strength: Sequence[float] = (1.0,),
    steps: int | None = None,
    sampler: str | Mapping[str, Any] | None = None,
    device: str | None = None,
    dtype: Literal["float32", "int16"] = "float32",
) -> Path:
    """Translates a scan, and writes images, differences, a page and what was measured.

    Args:
        scan: a NIfTI or MGH file.
        run: a run with conditions.
        out: a new directory.
        origin: what is true of the scan, ``NAME=VALUE`` each.
        aim: what shall be true, ``NAME=VALUE`` each; what is not among them stays as in ``origin``.
        other: the run that knows of ``aim``, if it is another one.
        encoder: where the sentence encoder lies now that a run was told prompts by; where it lay, or beside the run, if None.
        strength: strengths, one for each image: D_from + strength (D_to - D_from) is what it comes down by.
        steps: how many of the run's noise levels to visit on each way; all of them if None.
        sampler: kind of solver that draws no noise, or its configuration; Heun's if None.
        device: torch device; a GPU if there is one, if None.
        dtype: voxels in the files; int16 has a slope.

    Returns:
        ``out``.

    Raises:
        UserError: the scan or a run cannot be used, there is no such condition, or nothing would change.
    """
    if not strength or len(set(strength)) < len(strength) or not all(math.isfinite(each) and 0.0 <= each <= 10.0 for each in strength):
        raise UserError("--strength", " ".join(f"{each:g}" for each in strength) or "none", "different numbers from 0 to 10")
    where = usable_device(device)
    source, target = _sides(run, other, _words("--from", origin), _words("--to", aim), encoder)
    geometry = source.run.geometry
    grid = visited(source.run, steps)
    chosen = component("--sampler", SAMPLERS, USUAL if sampler is None else sampler, None)
    solver: Sampler = chosen.build()
    if solver.stochastic:
        raise UserError(
            "--sampler", f"'{chosen.kind}' draws noise, so it does not bring a scan back", "heun, ddim or another that does not"
        )
    for side in (source, target):
        side.run.recipe.build().fits(solver, grid, guided=True, voxels=True)
    if target.run.ensemble.sigma_max < grid[0]:
        found = f"knows noise up to {target.run.ensemble.sigma_max:.4g}"
        raise UserError(f"--to-run {other}", found, f"noise up to {grid[0]:.4g}, as the run of --from", "swap the runs, or take another")
    settings = {
        "from": source.words, "to": target.words, "strength": list(strength), "sampler": chosen.model_dump(mode="json"),
        "sigma_grid": list(grid), "dtype": dtype,
    }  # fmt: skip
    inputs = {"run": source.run.fingerprint, "to_run": target.run.fingerprint, "scan": sha256(scan, follow=True)}
    provenance = manifest.Provenance("translate", settings, inputs, measured=source.run.recipe.privacy.measured)
    with claim(
        out, provenance, "the scan", writes=lambda name: name.startswith("sub-") or name in FILES, differs=lambda _: "exists already",
        expected="a new directory",
    ) as folder:  # fmt: skip
        x_CXYZ = prepared(scan, geometry).float()[None]
        folder.begin()
        images, told = _translated(source, target, x_CXYZ, strength, solver, grid, where)
        _write(out, source, target, images, told, settings, dtype)
        folder.finish(run_name=source.run.recipe.name)
    for line in told["strengths"]:
        say(
            f"strength {line['strength']:g}: changes {line['change']:.2%} of the range (rms), "
            f"of which {line['cycle']:.2%} do not come back."
        )
    say(f"{out}: look at {translation_page.NAME} first. What changed is what differed in the run's cohort, whatever that was.")
    return out


def _sides(run: Path, other: Path | None, origin: dict[str, str], aim: dict[str, str], encoder: Path | None) -> tuple[Endpoint, Endpoint]:
    """What it is, and what it shall be."""
    first = open_run(run)
    second = first if other is None else open_run(other)
    for path, each in ((run, first), (other, second)):
        if each.recipe.assembly.piecewise:
            found = f"draws volumes in pieces (assembly.kind '{each.recipe.assembly.kind}'), and a scan is translated as a whole"
            raise UserError(str(path), found, "a run that denoises whole volumes")
    if other is None:
        aim = {**origin, **aim}
        if aim == origin:
            raise UserError("--to", "says what --from says, so nothing would change", "NAME=VALUE of a condition of the run")
    elif not second.geometry.alike(first.geometry) or second.piece != first.piece:
        raise UserError(f"--to-run {other}", "draws volumes of another frame or shape", "those of the run of --from")
    one, two = conditions_of(first, second, encoder=encoder)
    return _side("--from", first, one, origin), _side("--to", second, two, aim)


def _side(option: str, run: TrainedRun, conditions: Sequence[ConditionConfig], words: dict[str, str]) -> Endpoint:
    try:
        return Endpoint(run, words, asked_for(conditions, words))
    except UserError as error:
        raise UserError(error.where.replace("--given", option), error.found, error.expected, error.do) from None


def _words(option: str, words: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (name and equals) or name in found:
            raise UserError(option, f"'{word}'", "NAME=VALUE, each name once")
        found[name] = text
    return found


def _translated(
    source: Endpoint, target: Endpoint, x_CXYZ: Tensor, strengths: Sequence[float], solver: Sampler, grid: Sequence[float],
    device: torch.device,
) -> tuple[dict[str, Tensor], dict[str, Any]]:  # fmt: skip
    """Images by name, in the model range, and what is told of them."""
    ways = 2 + 3 * len(strengths)
    first, second = (side.run.preconditioner(device) for side in (source, target))
    with (
        source.run.bank(first, device, grid) as one,
        target.run.bank(second, device, grid) as two,
        progress("translation", ways * Bridge(solver, grid, device).steps) as ticker,
    ):
        was, is_ = Told(one, source.told.to(device)), Told(two, target.told.to(device))
        bridge = Bridge(solver, grid, device, ticker.advance)
        here, aim = first.told(source.told), second.told(target.told)
        noise = bridge.up(was, x_CXYZ)
        back = bridge.down(was, noise)
        images = {SCAN: x_CXYZ, BACK: back}
        lines = []
        for strength in strengths:
            between = Between(was, is_, strength)
            image = bridge.down(between, crossed(noise, grid[0], here, aim, strength))
            returned = bridge.down(was, crossed(bridge.up(between, image), grid[0], aim, here, strength))
            images[_name(strength)] = image
            change, cycle = (difference.abs() / UNITS for difference in (image - back, returned - x_CXYZ))
            lines.append(
                {
                    "strength": strength,
                    "image": _name(strength),
                    "change": _rms(change),
                    "largest_change": float(change.max()),
                    "cycle": _rms(cycle),
                    "largest_cycle": float(cycle.max()),
                }
            )
    round_trip = _rms((back - x_CXYZ) / UNITS)
    return images, {"round_trip": round_trip, "noise": _rms(noise) / grid[0], "strengths": lines}


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def _name(strength: float) -> str:
    return f"strength{round(100 * strength):03d}"


def _write(
    out: Path, source: Endpoint, target: Endpoint, images: dict[str, Tensor], told: dict[str, Any], settings: dict[str, Any],
    dtype: Literal["float32", "int16"],
) -> None:  # fmt: skip
    run = source.run
    derivative.write_description(out, f"A scan, translated by {run.recipe.name}", README, FILES)
    write_statement(out, run)
    unit = {name: from_model(run.geometry.whole(x_CXYZ[0])).numpy() for name, x_CXYZ in images.items()}
    maps: dict[str, Shown] = {SCAN: Shown(unit[SCAN], "The scan", "As the run computes on it.", "level")}
    asked = {"From": source.words, "To": target.words}
    _save(out, run, SCAN, unit[SCAN], {"Description": "A scan in the frame of a run."}, dtype, contrast=source.contrast)
    for line in told["strengths"]:
        name, changes = line["image"], line["image"].replace("strength", "change")
        text = f"Strength {line['strength']:g} of {_said(source.words)} to {_said(target.words)}."
        maps[name] = Shown(unit[name], f"Translated, strength {line['strength']:g}", text, "level")
        difference = unit[name] - unit[BACK]
        maps[changes] = Shown(difference, "What changes", "The translation less the scan as it comes back.", "signed")
        about = {**asked, "Strength": line["strength"], "Sampler": settings["sampler"], "SigmaGrid": settings["sigma_grid"]}
        shown = (target if line["strength"] else source).contrast
        translated = {"Description": "A scan that a generative model translated. Not for diagnosis.", **about}
        _save(out, run, name, unit[name], translated, dtype, contrast=shown)
        changed = {"Description": "What a translation changes.", **about}
        _save(out, run, changes, difference, changed, dtype, level=False, contrast=shown)
        line["change_map"] = changes
    content = {
        "headline": f"{_said(source.words)} to {_said(target.words)}", "run": run.recipe.name, "to_run": target.run.recipe.name,
        "from": source.words, "to": target.words, "sampler": settings["sampler"]["kind"], "steps": len(settings["sigma_grid"]), **told,
        "maps": translation_page.write_maps(out, maps, run.geometry.voxel_size),
    }  # fmt: skip
    write_json(out / translation_page.RESULT, content)
    translation_page.write_translation(out)


def _said(words: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in words.items()) or "anybody"


def _save(
    out: Path, run: TrainedRun, what: str, unit_XYZ: NDArray[np.float32], about: dict[str, Any], dtype: Literal["float32", "int16"],
    *, level: bool = True, contrast: str = "",
) -> None:  # fmt: skip
    window = run.geometry.intensity if level else IntensityMap(0.0, run.geometry.intensity.high - run.geometry.intensity.low)
    stem = f"sub-0001/anat/sub-0001_desc-{what}_{contrast or UNSAID}"
    image = Volume(window.from_unit(unit_XYZ), run.geometry.affine)
    nifti.write(out / f"{stem}.nii.gz", image, dtype=dtype, description=derivative.description(HEADER))
    sidecar = {
        **about,
        "SkullStripped": run.geometry.skull_stripped,
        "RunName": run.recipe.name,
        "RunFingerprint": run.fingerprint,
        "PrivacyStatement": run.privacy,
        "PrivacyStatementPage": PAGE,
        "IntensityWindow": window.to_dict(),
    }
    write_json(out / f"{stem}.json", sidecar)
