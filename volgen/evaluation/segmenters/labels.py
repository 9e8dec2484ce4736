"""Labels that are in files already, of whatever made them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

from volgen.core.config import Config as BaseConfig
from volgen.core.files import sha256
from volgen.evaluation.segmentation import Segmentation, image_of, of_labels, read_table, structures_of
from volgen.evaluation.specimen import Specimen
from volgen.images import nifti


class Config(BaseConfig):
    """One image of labels for each volume, in a folder for either side; its name, or its path, begins with the volume's or the person's."""

    kind: Literal["labels"] = "labels"

    generated: Path
    """Folder with the labels of the generated volumes."""
    real: Path
    """Folder with the labels of the people of the store."""
    table: Path
    """Names of labels: lines with a number and a name each. Labels that it does not have are unknown."""

    def structures(self) -> tuple[str, ...]:
        """Names in the table, each once."""
        return structures_of(self._table)

    def declared(self) -> Mapping[str, str]:
        """Name, checksum of the table, layer and preprocessing."""
        return {
            "name": "labels in files", "sha256": sha256(self.table, follow=True), "layer": "volumes of structures",
            "preprocessing": "whatever made the labels",
        }  # fmt: skip

    def segment(self, specimen: Specimen) -> Segmentation:
        """Reads the labels of a volume."""
        folder = self.generated if specimen.generated else self.real
        volume = nifti.read(image_of(folder, self._files[folder], specimen.name))
        return of_labels(volume.voxels, self._table, volume.voxel_size, specimen.scan.mask)

    @cached_property
    def _table(self) -> dict[int, str]:
        return read_table(self.table)

    @cached_property
    def _files(self) -> dict[Path, list[Path]]:
        folders = {self.generated, self.real}
        return {folder: sorted(path for path in folder.rglob("*") if nifti.is_image(path)) for folder in folders}
