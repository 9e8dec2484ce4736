"""``volgen anonymise``: one scan in, a private version of it and a certificate out (local differential privacy)."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from volgen.core import manifest
from volgen.core.errors import UserError
from volgen.core.files import write_json
from volgen.core.folder import claim
from volgen.core.noise import choose
from volgen.core.progress import say
from volgen.core.rounding import upper
from volgen.data import derivative
from volgen.images import nifti
from volgen.images.intensity import to_model
from volgen.models.denoiser import Preconditioner
from volgen.parallel.device import usable_device
from volgen.privacy.ledger import REPLACE
from volgen.privacy.local import LARGEST_DELTA, LARGEST_EPSILON, Clip, ScanBudget, certificate, needed_sigma, release, replaced
from volgen.privacy.secret import Secret
from volgen.runs.contrast import contrast_of
from volgen.runs.scan import prepared
from volgen.runs.statement import CERTIFICATE, PAGE, STATEMENT, write_statement
from volgen.runs.trained import TrainedRun, open_run
from volgen.sampling import descent

FILES = (CERTIFICATE, *derivative.DESCRIPTION, *STATEMENT)
RUN = "run"
README = """# A brain MRI under local differential privacy

The image in this folder is a scan to which noise was added until `certificate.json` holds, and which a generative model then cleaned. Where
noise has drowned the scan, what is seen is the model's invention. It must not be used for diagnosis.
"""


def anonymise(
    scan: Path,
    run: Path,
    out: Path,
    *,
    epsilon: float,
    delta: float,
    radius: float | None = None,
    centre: str | None = None,
    steps: int | None = None,
    device: str | None = None,
    dtype: Literal["float32", "int16"] = "float32",
    accept_vacuous: bool = False,
) -> Path:
    """Noises a scan to the level that gives a budget, denoises it with the later experts of a run, and writes it in the run's frame.

    Nothing of the scan but its clipped and noised voxels goes on: affine, intensity window and file name of what is written are the
    run's. The noise comes from the operating system and is kept nowhere, so a second call is a second release.

    Args:
        scan: a NIfTI or MGH file.
        run: directory that ``volgen train`` made.
        out: a new directory.
        epsilon: the most that the release may cost; the noise is that of the run's next higher level, so it may cost less.
        delta: probability of a leak beyond epsilon, in (0, 1).
        radius: the scan is drawn to within this Euclidean distance (over voxels in [-1, 1]) of the centre; no ball if None.
        centre: a public volume in the run's frame and units, or ``run`` for the mean that the run's preconditioner knows; mid-grey if None.
        steps: how many of the run's levels from there down to visit; all of them if None.
        device: torch device; a GPU if there is one, if None.
        dtype: voxels in the file; int16 has a slope.
        accept_vacuous: also make a release whose numbers promise nothing.

    Returns:
        ``out``.

    Raises:
        UserError: the budget is vacuous, needs more noise than the run knows, or is none; the scan or the run cannot be used.
    """
    _check_numbers(epsilon, delta, radius)
    where = usable_device(device)
    trained = open_run(run)
    if trained.recipe.assembly.piecewise:
        found = f"draws volumes in pieces (assembly.kind '{trained.recipe.assembly.kind}'), and a scan is denoised as a whole"
        raise UserError(str(run), found, "a run that denoises whole volumes")
    trained.recipe.build().fits(trained.recipe.sampler.build(), trained.ensemble.grid, guided=True, voxels=True)
    # The folder is made to be released: no path, and no time or memory, which would tell the size of the scan.
    settings = {"epsilon": epsilon, "delta": delta, "radius": radius, "centre": _centre_words(centre), "dtype": dtype}
    provenance = manifest.Provenance("anonymise", settings, {"run": trained.fingerprint}, measured=False)
    with claim(
        out, provenance, "the scan", writes=lambda name: name.startswith("sub-") or name in FILES, differs=lambda _: "exists already",
        expected="a new directory; each call is a release of its own",
    ) as folder:  # fmt: skip
        preconditioner = trained.preconditioner(where)
        clip = Clip(_centre(centre, trained, preconditioner, where), radius)
        budget, needed = _budget(trained, clip, epsilon, delta)
        if budget.vacuous and not accept_vacuous:
            limits = f"epsilon at most {LARGEST_EPSILON:g} and delta at most {LARGEST_DELTA:g}"
            how = "a smaller --epsilon, with --radius and --centre, can mean something; --accept-vacuous makes the release all the same"
            raise UserError("--epsilon", f"this budget is vacuous ({budget.meaning.removeprefix('VACUOUS: ').rstrip('.')})", limits, how)
        x_XYZ = prepared(scan, trained.geometry)
        y_XYZ = release(clip, x_XYZ, budget.sigma, Secret())
        grid = _grid([level for level in trained.ensemble.grid if level <= budget.sigma], steps)
        volume = _denoised(trained, preconditioner, y_XYZ, grid, where)
        content = certificate(clip, _centre_words(centre), budget, (epsilon, delta), _denoiser(trained, run, needed, grid, budget))
        folder.begin()
        _write(out, trained, volume, content, dtype)
        folder.finish(run_name=trained.recipe.name)
    say(f"{out}: epsilon {budget.epsilon:.4g} at delta {delta:.2g} (noise of {budget.sigma:.4g}). {budget.meaning}")
    return out


def _check_numbers(epsilon: float, delta: float, radius: float | None) -> None:
    if not (math.isfinite(epsilon) and epsilon > 0.0):
        raise UserError("--epsilon", str(epsilon), "a positive number")
    if not 0.0 < delta < 1.0:
        raise UserError("--delta", str(delta), "a number between 0 and 1, such as 1e-5")
    if radius is not None and not (math.isfinite(radius) and radius > 0.0):
        raise UserError("--radius", str(radius), "a positive number")


def _budget(trained: TrainedRun, clip: Clip, epsilon: float, delta: float) -> tuple[ScanBudget, float]:
    """The release at the run's lowest noise level that is enough, and the noise that would be exactly enough."""
    needed = needed_sigma(epsilon, delta, clip.sensitivity)
    levels = [level for level in trained.ensemble.grid if level >= needed]
    if not levels:
        top = max(trained.ensemble.grid)
        best = ScanBudget(clip.sensitivity, top, delta)
        found = f"{epsilon:g} at delta {delta:g} needs noise of {needed:.4g}, and this run knows noise up to {top:.4g}"
        do = f"that level costs epsilon {best.epsilon:.4g}; lower --radius (about a public --centre), or draw a new volume: volgen sample"
        raise UserError("--epsilon", found, "a budget that its noise levels can give", do)
    return ScanBudget(clip.sensitivity, min(levels), delta), needed


def _centre(centre: str | None, trained: TrainedRun, preconditioner: Preconditioner, device: torch.device) -> Tensor:
    frame = trained.geometry
    if centre is None:
        return torch.zeros(frame.grid, dtype=torch.float64)
    if centre == RUN:
        # What sampling begins with, less its noise, is the mean of the data.
        mean = preconditioner.prior(torch.zeros(1, 1, *frame.grid, device=device), trained.ensemble.sigma_max)
        return mean[0, 0].double().cpu().clamp(-1.0, 1.0)
    volume = nifti.read(Path(centre))
    if volume.shape != frame.shape:
        raise UserError(centre, f"has {list(volume.shape)} voxels", f"the run's {list(frame.shape)}", "give a mean in the run's frame")
    unit = torch.from_numpy(frame.place.crop(frame.intensity.to_unit(volume.voxels))).double()
    if not unit.isfinite().all():
        raise UserError(centre, "holds NaN or infinite voxels", "finite voxels")
    return to_model(unit)


def _centre_words(centre: str | None) -> str:
    if centre is None:
        return "mid-grey (0 in every voxel)"
    return "the mean that the run's preconditioner was fitted to" if centre == RUN else "a volume that was given as public"


def _grid(levels: list[float], steps: int | None) -> list[float]:
    if steps is None or len(levels) == 1:
        return levels
    try:
        return choose(levels, steps)
    except ValueError as error:
        raise UserError("--steps", str(error), f"from 2 to {len(levels)}: the run's levels from this noise down") from None


def _denoised(trained: TrainedRun, preconditioner: Preconditioner, y_XYZ: Tensor, grid: list[float], device: torch.device) -> Tensor:
    """Post-processing: what the run's solver makes of the noisy scan. Its own random numbers are the operating system's too."""
    seed = int.from_bytes(bytes.fromhex(Secret().hex())[:4], "little")
    with trained.bank(preconditioner, device, grid) as bank:
        (volume,) = descent.sample(
            bank, trained.recipe.sampler.build(), descent.down(grid), seed=seed, indices=[0], shape=(1, *trained.geometry.grid),
            device=device, begin=[y_XYZ.float()[None]],
        )  # fmt: skip
    return volume[0]


def _both(epsilon: float, delta: float, budget: ScanBudget, exchanged: float | None = None) -> str:
    """What holds for a person who is in the run's cohort too. Numbers of two neighbouring relations are not added.

    Args:
        epsilon: the run's epsilon for taking part.
        delta: the delta of both of the run's numbers.
        budget: the budget of the release.
        exchanged: the run's epsilon for the exchange of one person for any other, if its ledger has it.
    """
    alike, chance = replaced(epsilon, delta) if exchanged is None else (exchanged, delta)

    def pair(epsilon: float, delta: float) -> str:
        return f"({upper(epsilon, 3)}, {upper(delta, 2)})"

    return (
        f"the run was trained with differential privacy, and its {pair(epsilon, delta)} is about taking part in its cohort or not, which is"
        " another question than the one here, so that the two are not added. For a person who is in that cohort too, both have to be"
        f" counted as the exchange of one person for any other: the run then costs at most {pair(alike, chance)}, and run and release"
        f" together at most {pair(alike + budget.epsilon, chance + budget.delta)}"
    )


def _denoiser(trained: TrainedRun, run: Path, needed: float, grid: list[float], budget: ScanBudget) -> dict[str, Any]:
    ledger = trained.claim
    if ledger.get("epsilon") is not None:
        exchanged = [each["epsilon"] for each in ledger.get("guarantees", ()) if each["neighbouring"] == REPLACE]
        assumed = _both(float(ledger["epsilon"]), float(ledger["delta"]), budget, next(iter(exchanged), None))
    else:
        assumed = (
            "denoising is post-processing only if nobody whose scan this is was in the run's training or validation cohort, which volgen"
            " cannot check: the run has no privacy guarantee of its own"
        )
    assumed += trained.recipe.start.caveat()
    return {
        "run_fingerprint": trained.fingerprint,
        "privacy": trained.privacy,
        "epsilon": ledger.get("epsilon"),
        "delta": ledger.get("delta"),
        "assumed": assumed,
        "noise_needed": needed,
        "levels": grid,
    }


def _write(out: Path, trained: TrainedRun, volume_XYZ: Tensor, content: dict[str, Any], dtype: Literal["float32", "int16"]) -> None:
    geometry = trained.geometry
    derivative.write_description(out, f"A scan under local differential privacy, by {trained.recipe.name}", README)
    image = geometry.volume(volume_XYZ)
    said = derivative.description("noised to a privacy budget and denoised")
    names = replace(derivative.ANONYMISED, contrast=lambda _: contrast_of(trained, {}))
    nifti.write(out / names.image(0), image, dtype=dtype, description=said)
    write_json(out / CERTIFICATE, content)
    write_statement(out, trained, certificates=[content])
    sidecar = {
        "Description": "A scan that was noised to a privacy budget and then denoised by a generative model. Not for diagnosis.",
        "SkullStripped": geometry.skull_stripped,
        "RunFingerprint": trained.fingerprint,
        "PrivacyStatement": content["meaning"],
        "PrivacyCertificate": CERTIFICATE,
        "PrivacyStatementPage": PAGE,
        "IntensityWindow": geometry.intensity.to_dict(),
    }
    write_json(out / names.sidecar(0), sidecar)
