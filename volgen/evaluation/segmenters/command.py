"""A program of yours that reads a NIfTI image and writes one of labels, such as SynthSeg or FastSurfer."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from pydantic import PositiveFloat, field_validator

from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.evaluation.segmentation import Segmentation, of_labels, read_table, structures_of
from volgen.evaluation.specimen import Specimen
from volgen.images import nifti
from volgen.images.volume import Volume

SHOWN = 300
"""Characters of what a program said that a message repeats."""


class Config(BaseConfig):
    """Runs the program on every volume, one after the other; no shell reads the command."""

    kind: Literal["command"] = "command"

    command: str
    """The program and its words, with {input} and {output}: ``mri_synthseg --i {input} --o {output}``."""
    table: Path
    """Names of labels: lines with a number and a name each. Labels that it does not have are unknown."""
    timeout: PositiveFloat = 3600.0
    """Seconds after which a volume is given up."""

    @field_validator("command")
    @classmethod
    def _both(cls, command: str) -> str:
        if not all(word in command for word in ("{input}", "{output}")):
            raise ValueError("needs {input} and {output}, where the program is told of its files")
        return command

    def structures(self) -> tuple[str, ...]:
        """Names in the table, each once."""
        return structures_of(self._table)

    def declared(self) -> Mapping[str, str]:
        """The program's name, checksum of the command, layer and preprocessing."""
        return {
            "name": Path(shlex.split(self.command)[0]).name, "sha256": hashlib.sha256(self.command.encode()).hexdigest(),
            "layer": "volumes of structures", "preprocessing": "own robust window to 0 ... 1000, RAS+, float32",
        }  # fmt: skip

    def segment(self, specimen: Specimen) -> Segmentation:
        """Writes the volume, runs the program, reads the labels."""
        with TemporaryDirectory() as folder:
            given, made = Path(folder, "volume.nii.gz"), Path(folder, "labels.nii.gz")
            affine = np.diag([*specimen.scan.voxel_size, 1.0])
            nifti.write(given, Volume(specimen.scan.unit * np.float32(1000.0), affine))
            words = [word.replace("{input}", str(given)).replace("{output}", str(made)) for word in shlex.split(self.command)]
            try:
                ended = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=self.timeout, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise UserError(words[0], f"did not segment {specimen.name} ({error})", "a program that ends") from None
            if ended.returncode or not made.exists():
                said = " ".join((ended.stderr or ended.stdout).split())[-SHOWN:]
                found = f"ended with {ended.returncode} and {'some' if made.exists() else 'no'} labels for {specimen.name}: {said}"
                raise UserError(words[0], found, "0, and an image at {output}")
            volume = nifti.read(made)
        return of_labels(volume.voxels, self._table, volume.voxel_size, specimen.scan.mask)

    @cached_property
    def _table(self) -> dict[int, str]:
        return read_table(self.table)
