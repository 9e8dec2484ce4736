"""A folder of volumes as a BIDS derivative that the validator accepts: names, sidecars and the description of the data set."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import volgen
from volgen.core.files import write_json, write_text
from volgen.core.ledger import checked
from volgen.core.manifest import NAME
from volgen.core.rounding import upper
from volgen.images.contrasts import SUFFIXES, UNSAID

LARGEST = sys.float_info.max
BIDS_VERSION = "1.10.0"
OVERVIEW = "overview.png"
"""Picture of the images in a folder."""
DESCRIPTION = ("dataset_description.json", "README.md", ".bidsignore")
"""Files that say of a folder of images what it is, as BIDS has it."""
README = f"""# Synthetic brain MRI

Every image in this folder was drawn from a generative model by volgen. None shows a person. `{NAME}` says how they were
made; the sidecar of each image has its seed, its noise levels and what is known about privacy.
"""


def _unsaid(index: int) -> str:
    return UNSAID


@dataclass(frozen=True)
class Names:
    """Where images lie in a folder, and what they are called.

    Attributes:
        pattern: path without ending, relative to the folder; ``{0}`` is the number of the image, from 0001, and ``{1}`` what it shows.
        contrast: what image i (from 0) shows, as a suffix of BIDS; "" where nobody said.
    """

    pattern: str
    contrast: Callable[[int], str] = _unsaid

    def image(self, index: int) -> str:
        """Relative path of image ``index`` (from 0)."""
        return f"{self._stem(index)}.nii.gz"

    def sidecar(self, index: int) -> str:
        """Relative path of the sidecar of image ``index``."""
        return f"{self._stem(index)}.json"

    def complete(self, directory: Path) -> list[str]:
        """Relative paths of the images of a folder that have a sidecar, which is written last; sorted."""
        images = {path for suffix in SUFFIXES for path in directory.glob(f"{self.pattern.format('*', suffix)}.nii.gz")}
        return sorted(path.relative_to(directory).as_posix() for path in images if path.with_name(f"{path.name[:-7]}.json").is_file())

    def found(self, directory: Path, index: int) -> str:
        """Relative path of image ``index`` in a folder that holds it, whatever it shows."""
        known = (f"{self.pattern.format(_number(index), suffix)}.nii.gz" for suffix in SUFFIXES)
        return next((name for name in known if (directory / name).is_file()), self.image(index))

    def _stem(self, index: int) -> str:
        return self.pattern.format(_number(index), self.contrast(index) or UNSAID)


def _number(index: int) -> str:
    return f"{index + 1:04d}"


NOBODY = "synthetic: no scan of a person"
"""What the header of a volume says that was drawn from a run."""
SYNTHETIC = Names("sub-{0}/anat/sub-{0}_desc-synthetic_{1}")
ANONYMISED = Names("sub-{0}/anat/sub-{0}_desc-anonymised_{1}")
FLAT = Names("sub-{0}_T1w")
"""What volgen 0.1.0 wrote, without folders. Such a folder of samples is continued as it was begun."""


def names_in(directory: Path, contrast: Callable[[int], str] = _unsaid) -> Names:
    """Where the samples of a folder lie: a new one has folders for them, as BIDS wants it, and one that was begun stays as it is.

    Args:
        directory: the folder.
        contrast: what sample i shows, as a suffix of BIDS; "" where nobody said.
    """
    return FLAT if FLAT.complete(directory) else replace(SYNTHETIC, contrast=contrast)


def description(of: str) -> str:
    """What the header of a written image says of it (``descrip``): what it is and which volgen made it, and nothing of a person."""
    return f"{of}, volgen {volgen.__version__}"


def write_description(directory: Path, name: str, readme: str = README, others: Sequence[str] = ()) -> None:
    """Writes ``dataset_description.json``, a README, and a ``.bidsignore`` for the manifest and the like, which BIDS has no name for.

    Args:
        directory: where.
        name: what the data set is called.
        readme: content of the README.
        others: more files and folders that BIDS has no name for.
    """
    generator = {"Name": "volgen", "Version": volgen.__version__}
    content = {"Name": name, "BIDSVersion": BIDS_VERSION, "DatasetType": "derivative", "GeneratedBy": [generator]}
    described, read_me, ignored = (directory / name for name in DESCRIPTION)
    write_json(described, content)
    write_text(read_me, readme)
    write_text(ignored, "".join(f"{name}\n" for name in (NAME, "certificate.json", "statement.json", "statement.html", OVERVIEW, *others)))


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
    """One sentence from ``privacy_ledger.json``. A claim that no longer counts is called void."""
    ledger = checked(ledger)
    if ledger.get("epsilon") is None:
        why = str(ledger.get("why") or "the run was trained without a privacy mechanism").rstrip(".")
        return f"No privacy guarantee: {why}. The volumes may resemble training subjects."
    bound = f"({upper(ledger['epsilon'], 3)}, {upper(ledger['delta'], 2)})"
    return (
        f"The model is {bound}-differentially private per {ledger['unit']} ({ledger['neighbouring']}),"
        f" accounted with {ledger['accountant']} over all experts and releases of the run."
    )
