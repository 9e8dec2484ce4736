"""A folder of generated volumes as a BIDS derivative: names, sidecars and the description of the data set.

Everything is in one flat folder (no ``sub-*/anat``), so that a folder of samples is a folder of images.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import volgen
from volgen.core.files import write_json, write_text
from volgen.core.manifest import NAME
from volgen.core.rounding import upper

LARGEST = sys.float_info.max
BIDS_VERSION = "1.10.0"
README = """# Synthetic brain MRI

Every image in this folder was drawn from a generative model by volgen. None shows a person. `manifest.json` says how they were
made; the sidecar of each image has its seed, its noise levels and what is known about privacy.
"""


def image_name(index: int) -> str:
    """File of sample ``index`` (from 0): ``sub-0001_T1w.nii.gz`` is sample 0."""
    return f"sub-{index + 1:04d}_T1w.nii.gz"


def sidecar_name(index: int) -> str:
    """Sidecar of sample ``index``."""
    return f"sub-{index + 1:04d}_T1w.json"


def write_description(directory: Path, name: str, readme: str = README) -> None:
    """Writes ``dataset_description.json``, a README, and a ``.bidsignore`` for the manifest and the like, which BIDS has no name for."""
    generator = {"Name": "volgen", "Version": volgen.__version__}
    content = {"Name": name, "BIDSVersion": BIDS_VERSION, "DatasetType": "derivative", "GeneratedBy": [generator]}
    write_json(directory / "dataset_description.json", content)
    write_text(directory / "README.md", readme)
    write_text(directory / ".bidsignore", f"{NAME}\ncertificate.json\nstatement.json\nstatement.html\n")


def is_ledger(content: object) -> bool:
    """Whether this is a ``privacy_ledger.json``: no epsilon, or one that can be a bound, with its delta."""
    if not isinstance(content, dict):
        return False
    epsilon, delta = content.get("epsilon"), content.get("delta")
    if epsilon is None:
        return True
    if not (isinstance(epsilon, int | float) and isinstance(delta, int | float)):
        return False
    return 0.0 <= epsilon <= LARGEST and 0.0 < delta < 1.0 and {"unit", "neighbouring", "accountant"} <= content.keys()


def privacy_statement(ledger: Mapping[str, Any]) -> str:
    """One sentence from ``privacy_ledger.json``."""
    if ledger.get("epsilon") is None:
        why = str(ledger.get("why") or "the run was trained without a privacy mechanism").rstrip(".")
        return f"No privacy guarantee: {why}. The volumes may resemble training subjects."
    bound = f"({upper(ledger['epsilon'], 3)}, {upper(ledger['delta'], 2)})"
    return (
        f"The model is {bound}-differentially private per {ledger['unit']} ({ledger['neighbouring']}),"
        f" accounted with {ledger['accountant']} over all experts and releases of the run."
    )
