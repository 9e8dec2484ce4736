"""How scans become a cohort: the settings of ``volgen ingest``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from volgen.core.options import Section
from volgen.core.registry import union
from volgen.data.ingest.grid import GridConfig
from volgen.data.layout import Layout
from volgen.data.quantise import CodeType

Bias: Any = union("volgen.data.ingest.biases")
Registration: Any = union("volgen.data.ingest.registrations")
Window: Any = union("volgen.data.ingest.windows")


class IngestConfig(GridConfig):
    """How scans become a cohort."""

    bias: Annotated[Bias, Section("volgen.data.ingest.biases")] = Field(default="none")
    """What is done about the shading of scans, with settings as --bias.KEY VALUE."""
    registration: Annotated[Registration, Section("volgen.data.ingest.registrations")] = Field(default="none")
    """How scans are brought into the frame of a --registration.template: an image, pretrained:NAME, or cohort, which makes one of the
    training people."""
    window: Annotated[Window, Section("volgen.data.ingest.windows")] = Field(default={"kind": "robust"})
    """What of a scan's brightness becomes 0 and 1, with settings as --window.KEY VALUE."""
    dtype: CodeType = "uint16"
    """Levels of the stored codes: uint8 halves the store, uint16 keeps scans of up to 65536 integer levels exactly."""
    layout: Layout = "slices"
    """What reading is to be quick for: ``slices`` in every orientation, blocks and volumes; or whole ``volumes`` alone, twice as quick."""
    suffix: str | None = Field(default=None, pattern=r"^[A-Za-z0-9]+(,[A-Za-z0-9]+)*$")
    """Last word of the names of images to take, such as T1w or t1n; several contrasts have commas between them: T1w,T2w,FLAIR (default:
    T1w in a BIDS tree, one contrast of each visit elsewhere)"""
    glob: str | None = Field(default=None, min_length=1)
    """Pattern of the names of images to take, such as '*_T1.nii.gz'; with a slash in it, of their paths inside SOURCE."""
    space: str | None = Field(default=None, pattern=r"^[A-Za-z0-9]+$")
    """Space of images to take: the label of space-<label> in their names, or native for those without one (default: the most frequent)"""
    every: bool = False
    """Whether every image of a visit is taken instead of one, whatever tells them apart."""
    validation: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of people in the validation split."""
    test: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of people in the test split; the rest is for training."""

    @field_validator("bias", "registration", "window", mode="before")
    @classmethod
    def _kinds(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _shares(self) -> IngestConfig:
        if self.validation + self.test >= 1.0:
            raise ValueError(f"validation ({self.validation}) and test ({self.test}) leave nobody to train on")
        return self

    @model_validator(mode="after")
    def _one_grid(self) -> IngestConfig:
        if self.registration.template is not None and (self.shape is None or self.voxel_size is None):
            raise ValueError("registration brings scans onto one grid, so shape and voxel_size have to be numbers")
        return self
