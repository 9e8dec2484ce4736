"""What a segmentation network finds in a volume: how much is unknown to it, how sure it is, and how large every structure is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from volgen.core.errors import UserError
from volgen.core.files import read_bytes
from volgen.evaluation.scan import Triple
from volgen.evaluation.specimen import Specimen
from volgen.images import nifti

LARGEST_TABLE = 1 << 20
FORM = "lines with a number and a name each, as in a BIDS dseg.tsv or a colour table of FreeSurfer"


@dataclass(frozen=True)
class Segmentation:
    """One volume, segmented.

    Attributes:
        millilitres: volume of every structure.
        unknown: share of the head that is none of them; NaN where the labels are on another grid than the volume.
        confidence: mean over the head of the largest probability; NaN of a segmenter that does not say.
    """

    millilitres: NDArray[np.float64]
    unknown: float
    confidence: float = float("nan")

    @property
    def shares(self) -> NDArray[np.float64]:
        """Volumes of structures over that of all of them; zeros where there is none."""
        return self.millilitres / max(float(self.millilitres.sum()), 1e-12)


class Segmenter(Protocol):
    """What every file in ``volgen/evaluation/segmenters`` offers as ``Config``.

    Attributes:
        kind: name of the kind.
    """

    kind: str

    def structures(self) -> tuple[str, ...]:
        """Names of the structures."""
        ...

    def declared(self) -> Mapping[str, str]:
        """``name``, ``sha256`` of what it is made of, ``layer`` and ``preprocessing``."""
        ...

    def segment(self, specimen: Specimen) -> Segmentation:
        """Segments a volume.

        Raises:
            UserError: it cannot be segmented.
        """
        ...


def of_labels(labels: NDArray[Any], structures: Mapping[int, str], voxel_size: Triple, head: NDArray[np.bool_]) -> Segmentation:
    """A segmentation of labels: those of one name count together, and what is in no table is unknown.

    Args:
        labels: [X, Y, Z] whole numbers.
        structures: name of each label but 0.
        voxel_size: mm, of the labels.
        head: where the head is; of another shape where the labels have another grid.
    """
    names = list(dict.fromkeys(structures.values()))
    whole = np.rint(np.asarray(labels)).astype(np.int64)
    found, counts = np.unique(whole, return_counts=True)
    volume = np.zeros(len(names))
    for label, count in zip(found.tolist(), counts.tolist(), strict=True):
        if label in structures:
            volume[names.index(structures[label])] += count
    unknown = float("nan")
    if whole.shape == head.shape and head.any():
        unknown = 1.0 - float(np.isin(whole[head], list(structures)).mean())
    return Segmentation(volume * float(np.prod(voxel_size)) / 1000.0, unknown)


def of_probabilities(best: NDArray[Any], sure: NDArray[Any], structures: int, voxel_size: Triple, head: NDArray[np.bool_]) -> Segmentation:
    """A segmentation of the likeliest class of each voxel and its probability; class 0 is unknown.

    Args:
        best: [X, Y, Z] classes, 0 to ``structures``.
        sure: [X, Y, Z] their probabilities.
        structures: number of classes but 0.
        voxel_size: mm.
        head: where the head is.
    """
    counts = np.bincount(best.ravel().astype(np.int64), minlength=structures + 1)[1 : structures + 1]
    inside = head if head.any() else np.ones_like(head)
    return Segmentation(
        np.asarray(counts * (float(np.prod(voxel_size)) / 1000.0), dtype=np.float64),
        float((best[inside] == 0).mean()),
        float(sure[inside].mean(dtype=np.float64)),
    )


def read_table(path: Path) -> dict[int, str]:
    """Names of labels but 0.

    Raises:
        UserError: the file is none, or names nothing.
    """
    try:
        text = read_bytes(path, limit=LARGEST_TABLE, follow=True).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(str(path), f"cannot be read ({error})", FORM) from None
    found = {}
    for line in text.splitlines():
        words = line.replace("\t", " ").replace(",", " ").split()
        if len(words) > 1 and words[0].isdigit() and int(words[0]):
            found[int(words[0])] = words[1]
    if len(set(found.values())) < 2:
        raise UserError(str(path), f"names {len(set(found.values()))} structures", FORM)
    return found


def image_of(folder: Path, images: Sequence[Path], name: str) -> Path:
    """The image of labels of a volume: its name, or that of its person, is the volume's or begins with it.

    Args:
        folder: what messages call the place.
        images: all that there are.
        name: the volume's; its person's is what stands before the first ``_``.

    Raises:
        UserError: there is none, or there are several.
    """
    person = name.split("_")[0]
    for wanted in dict.fromkeys((name, person)):
        found = [path for path in images if nifti.stem(path) == wanted or path.name.startswith(f"{wanted}_")]
        if len(found) == 1:
            return found[0]
        if found:
            more = f"{len(found)} images that begin with {wanted}_ ({found[0].name}, {found[1].name})"
            raise UserError(str(folder), f"holds {more}", "one image of labels for each volume")
    raise UserError(str(folder), f"holds no image of labels for {name}", f"a file called {name}.nii.gz, or that begins with {person}_")


def structures_of(structures: Mapping[int, str]) -> tuple[str, ...]:
    """Names of a table, each once."""
    return tuple(dict.fromkeys(structures.values()))
