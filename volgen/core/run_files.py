"""What the files of a run directory are called: names are spelled here and nowhere else (a test looks), so that a run has one description.

It stands this low because all who write a part of a run are below :mod:`volgen.runs`, which puts the parts together: training its metrics
and checkpoints, experts the ensemble, privacy the ledger. ``docs/architecture.md`` says what is in each file.
"""

from __future__ import annotations

from volgen.core.manifest import NAME as MANIFEST

__all__ = ["MANIFEST"]

CONFIG = "config.yaml"
ENSEMBLE = "ensemble.json"
"""There once the run is finished."""
GEOMETRY = "geometry.json"
PRECONDITIONER = "preconditioner.safetensors"
FOR_TRAINING = "preconditioner_training.safetensors"
"""The same with what leaves people out, which could give away single ones: gone when the run is finished."""
ASSEMBLY = "assembly.safetensors"
"""There if the assembly has anything to store."""
CHECKSUMS = "preconditioner.json"
"""``{"sha256": {"<file>": "<hexadecimal>"}}``: a number that was changed to another finite one shows nowhere else."""
LEDGER = "privacy_ledger.json"
JOURNAL = "privacy_journal.jsonl"
METRICS = "metrics.jsonl"
BOARD = "tensorboard"
"""Folder with one of TensorBoard's for each network."""
CARD = "README.md"
CURVES = "curves.png"

EXPERTS = "experts"
"""Folder with one for each network; the names below are those of files in these."""
WEIGHTS = "weights.safetensors"
PHASE = "phase.json"
CHECKPOINT = "checkpoint-"
"""Beginning of the name of a folder; the step follows."""
DAMAGED = ".damaged-checkpoint-"
BEST = "best.safetensors"
"""A checkpoint's file of the best weights so far."""
STATE = "state.json"
"""A checkpoint's file of all that is not a tensor, with the checksums of what is."""

METRICS_LOCK, LEDGER_LOCK = ".metrics.lock", ".privacy.lock"

BEGUN = (
    CONFIG, MANIFEST, GEOMETRY, PRECONDITIONER, FOR_TRAINING, ASSEMBLY, CHECKSUMS, LEDGER, JOURNAL, METRICS, BOARD, EXPERTS,
)  # fmt: skip
"""What a run has that was begun and not trained."""
DECISIVE = (CONFIG, GEOMETRY, PRECONDITIONER, CHECKSUMS, ASSEMBLY, LEDGER)
"""Files beside the weights that decide what a sample of a run is, or say what it costs: ``ensemble.json`` has their checksums."""


def of_expert(name: str, file: str = "") -> str:
    """Path of a network's folder, or of a file in it, relative to the run, with ``/``; both may be patterns."""
    return f"{EXPERTS}/{name}" + (f"/{file}" if file else "")


TRAIN_AGAIN = "restore the file from a copy, or train the run again"
"""What to do about a file of a finished run that is damaged or does not belong to it."""
