"""The directory of a run: what is finished in it, and whether a configuration may continue it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from volgen.core.config import Config, changeable, load
from volgen.core.errors import UserError
from volgen.core.files import check_digest, write_json
from volgen.core.limits import SMALL_JSON_BYTES
from volgen.core.run_files import CHECKPOINT, CONFIG, PHASE, of_expert
from volgen.core.seal import read_sealed, sealed


@dataclass(frozen=True)
class PhaseRecord:
    """A finished phase: ``experts/<name>/phase.json``.

    Attributes:
        steps: steps that were trained.
        best_step: step whose averaged weights were exported.
        validation_loss: loss of those; None where nobody was validated on.
        parameters: trainable parameters.
        sha256: SHA-256 of the exported weights.
        metrics: digest of the phase's lines in ``metrics.jsonl``; empty where nobody knows it, as in runs of 0.1.0.
    """

    steps: int
    best_step: int
    validation_loss: float | None
    parameters: int
    sha256: str
    metrics: str = ""

    def write(self, folder: Path) -> None:
        """Marks the phase in ``folder`` as finished."""
        write_json(folder / PHASE, sealed(asdict(self)))

    def check(self, weights: Path) -> None:
        """Compares exported weights with this record.

        Raises:
            UserError: they are missing, damaged or of another training.
        """
        do = f"restore it from a copy, or delete {weights.parent} to train this network again"
        check_digest(weights, self.sha256, f"{PHASE} beside it", what="the weights of a finished network", do=do)

    @classmethod
    def read(cls, folder: Path) -> PhaseRecord | None:
        """The record of a finished phase, None for any other.

        Raises:
            UserError: the file has another form, or was changed.
        """
        if not os.path.lexists(folder / PHASE):
            return None
        do = f"restore it from a copy, or delete {folder} to train this network again"
        content = read_sealed(folder / PHASE, "the record of a finished expert", do, limit=SMALL_JSON_BYTES)
        try:
            record = cls(**content)
            numbers = (record.steps, record.best_step, record.parameters)
            if not all(type(number) is int and number >= 0 for number in numbers) or not isinstance(record.sha256, str):
                raise TypeError("steps and parameters are whole numbers")
        except TypeError as error:
            raise UserError(str(folder / PHASE), f"has another form ({error})", "the form that `volgen train` writes", do) from None
        return record


def trained(directory: Path) -> bool:
    """Whether any network of a run has been trained, were it for as long as to its first checkpoint. Before that, a run may begin anew."""
    return any(any(directory.glob(of_expert("*", file))) for file in (PHASE, "*.safetensors", f"{CHECKPOINT}*"))


def check_same(directory: Path, config: Config) -> None:
    """Refuses to continue a run with a configuration that would change its numbers.

    What is compared is what both mean: an option that was not there yet when the run began has its default.

    Args:
        directory: the run; without ``config.yaml`` there is nothing to compare with.
        config: the configuration.

    Raises:
        UserError: names every key that differs; or the run's own configuration is none.
    """
    path = directory / CONFIG
    if not path.exists():
        return
    began = load(type(config), path, own=True)
    before, now = (_flat(each.model_dump(mode="json")) for each in (began, config))
    free = changeable(began) | changeable(config)
    same = {key for key in {*before, *now} if before.get(key) == now.get(key) or any(f"{key}.".startswith(f"{name}.") for name in free)}
    differing = sorted({*before, *now} - same)
    if differing:
        found = "; ".join(f"{key} was {before.get(key)} and is now {now.get(key)}" for key in differing)
        found = f"is of another configuration: {found}"
        raise UserError(str(directory), found, "the same one, to continue it", "give the new run another `name`")


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat
