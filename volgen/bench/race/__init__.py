"""The race at equal compute: volgen's recipe and MONAI's own 3D diffusion recipe, trained for the same processor time and scored alike.

Each arm trains in a process of its own on the training people of one store, for `minutes` of processor time, and draws volumes. The
slice report then compares all arms with the same real people: share of volumes condemned, Frechet distance over that of real people
among themselves, MS-SSIM, likeness to the nearest training person. The distance is to the store's validation people; volgen only looks
at them once, after its last step, so nobody's choices depend on them. The arms: volgen as configs/brain4mm_k1.yaml has it; MONAI's
recipe as it is; and MONAI's recipe with a larger learning rate (`tuned_rate`), because its own is meant for long training. Two more take
volgen apart, to tell why: without the structured Gaussian, and with MONAI's network in place of the wavelet one. Three are other methods:
the fitted Gaussian alone, a variational autoencoder and a generative adversarial network.

Some race only if they are named: latent diffusion, whose autoencoder has three fifths of the time, and volgen's own arm with other
optimisers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from volgen.bench._shared.process import counted, processor_seconds
from volgen.commands.bench.result import Row, row
from volgen.commands.plan.measure import calibrate_apart
from volgen.commands.report.compare import compare
from volgen.core.config import Config as BaseConfig
from volgen.core.config import dump_yaml, validate
from volgen.core.errors import UserError
from volgen.core.files import read_json
from volgen.core.options import Positional
from volgen.core.progress import progress, say
from volgen.data.store import Store
from volgen.recipe import Recipe

Section = Mapping[str, Any]
RATE = 5e-5
"""Learning rate of MONAI's tutorial."""
WAVELET: Section = {"kind": "wavelet_unet3d", "channels": [24, 48, 96]}
UNET: Section = {
    "kind": "unet3d", "channels": [32, 64, 64, 64], "attention": [False, False, True, True],
    "residual_blocks": 2, "head_channels": 8, "norm_groups": 32,
}  # fmt: skip
"""`DiffusionModelUNet` at its defaults."""
MUON: Section = {"matrix_learning_rate": 1e-2}
OURS: dict[str, Mapping[str, Section]] = {
    "volgen": {"optimiser": MUON},
    "volgen without the Gaussian": {"optimiser": MUON, "preconditioner": {"kind": "edm"}},
    "volgen with MONAI's network": {"network": UNET},
    "the Gaussian alone": {"method": {"kind": "gaussian"}},
    "VAE": {"method": {"kind": "vae"}, "preconditioner": {"kind": "edm"}},
    "GAN": {"method": {"kind": "gan"}, "preconditioner": {"kind": "edm"}, "optimiser": {"learning_rate": 3e-4}},
}
"""Sections of each arm that are other than the usual ones; those of an optimiser beside the usual keys."""
ASKED: dict[str, Mapping[str, Section]] = {
    "latents": {
        "method": {
            "kind": "latent", "channels": [16, 32], "latent_channels": 2, "gate": 0.0,
            "optimiser": {"learning_rate": 2e-3, "warmup_steps": 10, "decay_to": 0.05},
        },
        "schedule": {"kind": "log_snr", "sigma_min": 0.05, "sigma_max": 40.0, "points": 16}, "optimiser": MUON,
    },
    "AdamW": {},
    "Adafactor": {"optimiser": {"algorithm": "adafactor", "learning_rate": 1e-2}},
    "8-bit Adam": {"optimiser": {"algorithm": "adam8bit"}},
    "Prodigy": {"optimiser": {"algorithm": "prodigy", "learning_rate": 1.0}},
    "schedule-free": {"optimiser": {"algorithm": "schedule_free", "learning_rate": 3e-3, "decay_to": 1.0}, "ema": {"decay": 0.0}},
    "SOAP": {"optimiser": {"algorithm": "soap", "learning_rate": 3e-3}},
}  # fmt: skip
"""The same of arms that race only if they are named."""
FIRST_SHARE = 0.6
"""Share of the time that an autoencoder has before there are latents."""
THEIRS = ("MONAI", "MONAI, larger rate")
ARMS = (*OURS, *THEIRS)
FLOOR = "real people"


class Config(BaseConfig):
    """On whom, how long, and where everything is kept."""

    store: Annotated[Path, Positional("STORE")]
    """Store with training and validation people."""
    folder: Path
    """New folder for runs, volumes and the comparison."""
    minutes: PositiveFloat = 5.0
    """Processor minutes of training of each arm."""
    volumes: PositiveInt = 24
    """Volumes drawn from each."""
    batch_size: PositiveInt = 2
    """Volumes of a training step."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Arithmetic of all networks; bf16 only where the processor has it."""
    tuned_rate: PositiveFloat = 1e-3
    """Learning rate of MONAI's second arm."""
    arms: tuple[str, ...] = ()
    """Who races, as folders are called (the-Gaussian-alone); if nobody is named, everybody but latents and other optimisers."""
    seed: NonNegativeInt = 0
    """Seed of training and of sampling."""


def run(config: Config) -> list[Row]:
    """Scores of every arm, and of real people where there is such a thing.

    Raises:
        UserError: an arm is unknown, the folder is there already, the store has no people for it, or an arm failed.
    """
    labels = {_label(name): name for name in (*ARMS, *ASKED)}
    if unknown := [label for label in config.arms if label not in labels]:
        raise UserError("--arms", f"there is no '{unknown[0]}'", f"some of {', '.join(labels)}")
    racing = [name for label, name in labels.items() if (label in config.arms if config.arms else name in ARMS)]
    if config.folder.exists():
        raise UserError("--folder", f"{config.folder} is there already", "a new folder")
    store = Store.open(config.store)
    if store.shape is None or len(store.split("validation")) < 2:
        raise UserError(str(config.store), "has fewer than two validation people, or scans of several shapes", "a cohort to race on")
    config.folder.mkdir(parents=True)
    rates = dict(zip(THEIRS, (RATE, config.tuned_rate), strict=True))
    figures: dict[str, Mapping[str, float]] = {}
    with progress("bench", len(racing) + 1) as ticker:
        for name in racing:
            figures[name] = _monai(config, name, rates[name]) if name in rates else _volgen(config, name, store)
            ticker.advance(note=name)
        folders = [f"{_label(name)}={_volumes(config, name)}" for name in figures]
        compare(folders, config.store, config.folder / "comparison")
        ticker.advance(note="comparison")
    return [entry for name, taken in figures.items() for entry in _rows(name, taken, config.folder / "comparison")]


def _label(name: str) -> str:
    return name.replace(", ", "-").replace("'", "").replace(" ", "-")


def _volumes(config: Config, name: str) -> Path:
    return config.folder / "samples" / _label(name)


def _volgen(config: Config, name: str, store: Store) -> dict[str, float]:
    assert store.shape is not None
    label = _label(name)
    sections = {key: dict(section) for key, section in (OURS | ASKED)[name].items()}
    optimiser = {"learning_rate": 1e-3, "warmup_steps": 10, "decay_to": 0.1, "gradient_clip": 0.0, **sections.pop("optimiser", {})}
    content = {
        "name": label, "runs": str(config.folder / "runs"), "seed": config.seed,
        "data": {"store": str(config.store), "shape": list(store.shape), "batch_size": config.batch_size},
        "schedule": {"kind": "log_snr", "sigma_min": 0.15, "sigma_max": 10.0, "points": 16},
        "network": dict(WAVELET), "preconditioner": {"kind": "gaussian"}, "optimiser": optimiser,
        "ema": {"decay": 0.98}, "engine": {"precision": config.precision, "checkpoint_every": 100_000},
        "stopping": {"validation_volumes": 2, "validation_draws": 1}, "sampler": {"kind": "dpmpp_2m"},
        **sections,
    }  # fmt: skip
    recipe = validate(Recipe, content, "bench race")
    share, before, changed = 1.0, 0, dict[str, Any]()
    if recipe.build().needs:
        before, share = _steps(config, recipe, store, FIRST_SHARE, 0), 1.0 - FIRST_SHARE
        changed["method"] = recipe.method.model_copy(update={"steps": before})
    steps = _steps(config, recipe, store, share, -1)
    changed["stopping"] = recipe.stopping.model_copy(update={"max_steps": steps, "min_steps": steps, "validate_every": steps})
    path = config.folder / f"{label}.yaml"
    path.write_text(dump_yaml(recipe.model_copy(update=changed)), encoding="utf-8")
    train = _process(config, ["-m", "volgen", "train", "--config", str(path)], name)
    drawn = ["--count", str(config.volumes), "--seed", str(config.seed), "--batch-size", "4"]
    released, out = config.folder / "runs" / label, _volumes(config, name)
    sample = _process(config, ["-m", "volgen", "sample", str(released), "--out", str(out), *drawn], name)
    networks = [phase for phase in recipe.phases() if phase.name in recipe.build().needs] + [recipe.phases()[-1]]
    parameters = sum(parameter.numel() for phase in networks for parameter in recipe.build().released(phase).parameters())
    return {"steps": before + steps, "train": train, "sample": sample, "parameters": parameters}


def _steps(config: Config, recipe: Recipe, store: Store, share: float, place: int) -> int:
    """Steps that a network takes in a share of the time."""
    step = calibrate_apart(recipe, config.batch_size, len(store.split("train")), place).cpu
    return max(round(share * config.minutes * 60 / step), 1)


def _monai(config: Config, name: str, rate: float) -> dict[str, float]:
    out = _volumes(config, name)
    out.mkdir(parents=True)
    work = {
        "store": str(config.store), "out": str(out), "seconds": config.minutes * 60, "volumes": config.volumes, "seed": config.seed,
        "batch_size": config.batch_size, "learning_rate": rate, "precision": config.precision,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }  # fmt: skip
    log = config.folder / f"{_label(name)}.json"
    _process(config, ["-m", "volgen.bench.race.monai", json.dumps(work)], name, log)
    found: dict[str, float] = json.loads(log.read_text().splitlines()[-1])
    say(f"{name}: {found['steps']} steps in {found['train']:.0f} CPU s")
    return found


def _process(config: Config, arguments: Sequence[str], what: str, output: Path | None = None) -> float:
    """Processor seconds of a Python process."""
    log = output or config.folder / "volgen.log"
    errors = log.with_suffix(".log")
    with log.open("a") as out, errors.open("a") as err:
        code, used = counted(["-W", "ignore", *arguments], out, err)
    if code:
        raise UserError(f"bench race, {what}", f"failed: {errors.read_text()[-500:]}", "", f"see {errors}")
    return processor_seconds(used)


def _rows(name: str, taken: Mapping[str, float], comparison: Path) -> list[Row]:
    label = _label(name)
    report = read_json(comparison / "generators" / label / "report.json", "a report")
    entries = read_json(comparison / "compare.json", "a comparison")["generators"]
    entry: Mapping[str, Any] = next(one for one in entries if one["name"] == label)
    cohort = report["cohort"]
    frechet, alike, near = cohort["frechet"], cohort["ms_ssim"], cohort["nearest_training"]
    floor = Row(f"{FLOOR}: Frechet distance", frechet["floor"], "")
    real_alike, real_near = Row(f"{FLOOR}: MS-SSIM", alike["real"], ""), Row(f"{FLOOR}: nearest", near["real"]["correlation"], "")
    return [
        *(Row(f"{name}: {what}", taken[key], unit) for what, key, unit in
          (("parameters", "parameters", ""), ("steps", "steps", ""), ("training", "train", "CPU s"), ("sampling", "sample", "CPU s"))),
        row(f"{name}: Frechet distance", frechet["generated"], "", floor),
        row(f"{name}: MS-SSIM", alike["generated"] or 0.0, "", real_alike),
        row(f"{name}: nearest", near["generated"]["correlation"], "", real_near),
        Row(f"{name}: background", cohort["background"]["generated"], ""),
        Row(f"{name}: condemned", entry["share_condemned"]["value"], "", interval=tuple(entry["share_condemned"]["interval"])),
        Row(f"{name}: distance from the bands", entry["distance"]["value"], "", interval=_pair(entry["distance"]["interval"])),
    ]  # fmt: skip


def _pair(interval: Sequence[float] | None) -> tuple[float, float] | None:
    return None if interval is None else (interval[0], interval[1])


def table(rows: Sequence[Row]) -> str:
    """One line for each arm."""
    columns = {
        "parameters": "parameters", "steps": "steps", "training": "training, CPU s", "sampling": "sampling, CPU s",
        "Frechet distance": "Frechet distance (over real)", "MS-SSIM": "MS-SSIM (over real)", "nearest": "nearest (over real)",
        "background": "background", "condemned": "condemned [95 %]", "distance from the bands": "distance from the bands [95 %]",
    }  # fmt: skip
    found: dict[str, dict[str, Row]] = {}
    for one in rows:
        arm, _, what = one.name.partition(": ")
        found.setdefault(arm, {})[what] = one
    lines = ["| | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join([*lines, *(f"| {arm} | " + " | ".join(_cell(values[key]) for key in columns) + " |" for arm, values in found.items())])


def _cell(one: Row) -> str:
    text = f"{one.value:.4g}"
    if one.ratio_to:
        text += f" ({next(iter(one.ratio_to.values())):.3g})"
    if one.interval is not None:
        text += f" [{one.interval[0]:.3g}, {one.interval[1]:.3g}]"
    return text
