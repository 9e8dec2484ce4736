"""``ensemble.json``: which expert owns which noise levels, where its weights are, and the checksums of all that decides what a sample is.

It is written last and marks a run as finished. It has a seal of its own: a run whose ``manifest.json`` is lost is protected all the same.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from volgen.core.errors import UserError
from volgen.core.files import check_digest, read_bytes, write_text
from volgen.core.limits import ENSEMBLE_BYTES, MAX_POINTS
from volgen.core.numbers import finite, whole_number
from volgen.core.run_files import ENSEMBLE, TRAIN_AGAIN
from volgen.core.seal import read_sealed, sealed
from volgen.core.span import SigmaSpan

FILES = "files"
MODEL = {"network": dict, "level": int, "view": dict}
"""What the file may say of an expert's model, and as what."""


@dataclass(frozen=True)
class ExpertRecord:
    """One expert of a finished run.

    Attributes:
        index: place in the bank; 0 owns the lowest noise.
        sigma_low: lowest noise level owned (inclusive).
        sigma_high: upper border (exclusive).
        weights: safetensors file, relative to the run directory, with forward slashes.
        sha256: SHA-256 of that file, hexadecimal.
        parameters: number of trainable parameters.
        steps: optimiser steps it was trained for.
        validation_loss: loss of the exported weights, or None where no validation took place.
        model: what it is made of where that is not what ``config.yaml`` says of all: ``network``, ``level`` and ``view``.
    """

    index: int
    sigma_low: float
    sigma_high: float
    weights: str
    sha256: str
    parameters: int
    steps: int
    validation_loss: float | None
    model: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.span  # noqa: B018 (a record with an empty span cannot be made)
        path = PurePosixPath(self.weights)
        if not self.weights or path.is_absolute() or ".." in path.parts or "\\" in self.weights:
            raise ValueError(f"expert {self.index} has weights {self.weights!r}, which is not a path inside the run directory")
        if len(self.sha256) != 64 or not set(self.sha256) <= set("0123456789abcdef"):
            raise ValueError(f"expert {self.index} has sha256 {self.sha256!r}, which is not 64 hexadecimal digits")
        if self.parameters < 1 or self.steps < 0:
            raise ValueError(f"expert {self.index} has {self.parameters} parameters and {self.steps} steps")

    @property
    def span(self) -> SigmaSpan:
        """The noise levels it owns."""
        return SigmaSpan(self.sigma_low, self.sigma_high)


@dataclass(frozen=True)
class Ensemble:
    """Experts that tile the noise axis: every sigma in [0, sigma_max] has exactly one owner.

    Attributes:
        experts: ascending in sigma; ``experts[i].index == i``.
        sigma_min: lowest point of the grid.
        sigma_max: highest point of the grid.
        grid: the sampling grid the experts were trained for, descending.
        files: SHA-256 of the other files that decide what a sample is or say what it costs, by path in the run; empty in runs of 0.1.0.
        digest: SHA-256 of ``ensemble.json`` as 0.1.0 would have written it: what a run's fingerprint knows of it.
    """

    experts: tuple[ExpertRecord, ...]
    sigma_min: float
    sigma_max: float
    grid: tuple[float, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    digest: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.experts or not self.grid:
            raise ValueError("there are no experts or no grid points")
        if max(len(self.grid), len(self.experts)) > MAX_POINTS:
            raise ValueError(f"there are {len(self.experts)} experts and {len(self.grid)} grid points, more than {MAX_POINTS}")
        if [record.index for record in self.experts] != list(range(len(self.experts))):
            raise ValueError(f"experts are numbered {[record.index for record in self.experts]}, expected 0, 1, 2, ... in order of sigma")
        if self.experts[0].sigma_low != 0.0:
            raise ValueError(f"no expert owns noise levels below {self.experts[0].sigma_low}")
        for below, above in itertools.pairwise(self.experts):
            if below.sigma_high != above.sigma_low:
                what = "a gap" if below.sigma_high < above.sigma_low else "an overlap"
                raise ValueError(f"experts {below.index} and {above.index} leave {what} between {below.sigma_high} and {above.sigma_low}")
        if not all(math.isfinite(sigma) and sigma > 0.0 for sigma in self.grid) or any(a <= b for a, b in itertools.pairwise(self.grid)):
            raise ValueError("the grid is not positive and strictly descending")
        if (self.sigma_max, self.sigma_min) != (self.grid[0], self.grid[-1]):
            raise ValueError(f"the grid runs from {self.grid[0]} to {self.grid[-1]}, not from {self.sigma_max} to {self.sigma_min}")
        if not self.sigma_max < self.experts[-1].sigma_high:
            raise ValueError(f"no expert owns sigma_max = {self.sigma_max}: the last one ends at {self.experts[-1].sigma_high}")

    @property
    def spans(self) -> list[SigmaSpan]:
        """The spans, ascending, as :func:`volgen.core.span.owner` takes them."""
        return [record.span for record in self.experts]


def text(ensemble: Ensemble) -> str:
    """Content of ``ensemble.json``."""
    return _text(sealed({**_bare(ensemble), FILES: dict(ensemble.files)}) if ensemble.files else _bare(ensemble))


def write(path: Path, ensemble: Ensemble) -> None:
    """Writes ``ensemble.json`` atomically."""
    write_text(path, text(ensemble))


def read(path: Path) -> Ensemble:
    """Reads ``ensemble.json`` and checks that every weight file is there (their checksums are checked when they are loaded).

    Keys that this version does not know are ignored: the file may gain some.

    Raises:
        UserError: the file was changed or has another form, spans leave gaps or overlap, or a weight file is missing or outside the run
            directory.
    """
    what = "the experts of a trained run"
    content = read_sealed(path, what, TRAIN_AGAIN, limit=ENSEMBLE_BYTES, needed=lambda content: FILES in content)
    try:
        files = content.pop(FILES, {})
        if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
            raise TypeError(f"'{FILES}' are not checksums")
        if len(content["grid"]) > MAX_POINTS or len(content["experts"]) > MAX_POINTS:
            raise ValueError(f"there are more than {MAX_POINTS} experts or grid points")
        experts = tuple(_record(item) for item in content["experts"])
        ensemble = Ensemble(
            experts, finite(content["sigma_min"]), finite(content["sigma_max"]), tuple(finite(s) for s in content["grid"]), files
        )
    except KeyError as error:
        raise UserError(str(path), f"the key {error} is missing", "the form that `volgen train` writes") from None
    except (OverflowError, TypeError, ValueError) as error:
        raise UserError(str(path), str(error), "experts that tile the noise axis, as `volgen train` writes them") from None
    folder = path.parent.resolve()
    for record in experts:
        weights = folder / record.weights
        if not weights.is_file():
            raise UserError(
                str(path), f"expert {record.index} names {record.weights}, which does not exist", "a safetensors file in the run"
            )
        if not weights.resolve().is_relative_to(folder):
            raise UserError(
                str(path), f"expert {record.index} names {record.weights}, a link out of the run", "a file in the run directory"
            )
    content_0_1_0 = _text(content).encode() if files else read_bytes(path, limit=ENSEMBLE_BYTES)
    return replace(ensemble, digest=hashlib.sha256(content_0_1_0).hexdigest())


def check(directory: Path, record: ExpertRecord) -> Path:
    """Makes sure that a weight file is the one that was trained, and returns where it is.

    Raises:
        UserError: it is missing, no regular file, or was changed.
    """
    path, do = directory / record.weights, "restore it from a copy, or train the expert again"
    check_digest(path, record.sha256, ENSEMBLE, what=f"the weights of expert {record.index}", do=do)
    return path


def _bare(ensemble: Ensemble) -> dict[str, Any]:
    return {
        "experts": [
            {**{name: value for name, value in asdict(record).items() if name != "model"}, **record.model} for record in ensemble.experts
        ],
        "sigma_min": ensemble.sigma_min,
        "sigma_max": ensemble.sigma_max,
        "grid": list(ensemble.grid),
    }


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _record(item: Mapping[str, Any]) -> ExpertRecord:
    loss = item["validation_loss"]
    if not isinstance(item["weights"], str) or not isinstance(item["sha256"], str):
        raise TypeError("'weights' and 'sha256' of an expert must be text")
    return ExpertRecord(
        index=whole_number(item["index"]),
        sigma_low=finite(item["sigma_low"]),
        sigma_high=finite(item["sigma_high"]),
        weights=item["weights"],
        sha256=item["sha256"],
        parameters=whole_number(item["parameters"]),
        steps=whole_number(item["steps"]),
        validation_loss=None if loss is None else finite(loss),
        model={name: _section(name, item[name]) for name in MODEL if name in item},
    )


def _section(name: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, MODEL[name]):
        raise TypeError(f"'{name}' of an expert has another form")
    return value
