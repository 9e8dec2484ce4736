"""What segmenters find in phantoms whose volumes are known, and what anatomy makes of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.registry import config_class
from volgen.evaluation.comparisons.anatomy import Config as Anatomy
from volgen.evaluation.evaluate import extractors, keep
from volgen.evaluation.segmentation import Segmenter
from volgen.evaluation.specimen import Specimen
from volgen.evaluation.two_cohorts import TwoCohorts, pooled
from volgen.images import nifti
from volgen.images.volume import Volume

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
PACKAGE = "volgen.evaluation.segmenters"
LEVELS = {1: 0.4, 2: 0.7, 3: 1.0}
RADII = (24.0, 16.0, 8.0)
TABLE = "0 Unknown\n1 Outer 0 0 0 0\n2 Middle\n3 Inner\n"


def segmenter(kind: str, **settings: object) -> Segmenter:
    found: Segmenter = validate(config_class(PACKAGE, kind), {"kind": kind, **settings}, "test")  # type: ignore[assignment]
    return found


def phantom(scale: float = 1.0, edge: float = 2.0) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Three balls inside each other, of 24, 16 and 8 mm, and their labels."""
    size = round(64 / edge)
    places = (np.indices((size,) * 3) - (size - 1) / 2) * edge
    far = np.sqrt((places**2).sum(axis=0))
    labels = sum((far < radius * scale).astype(np.uint8) for radius in RADII)
    volume = np.zeros(labels.shape, np.float32)
    for label, level in LEVELS.items():
        volume[labels == label] = level
    return volume, labels


def exact(scale: float = 1.0) -> NDArray[np.float64]:
    balls = 4 / 3 * np.pi * (np.array(RADII) * scale) ** 3 / 1000
    return np.array([balls[0] - balls[1], balls[1] - balls[2], balls[2]])


class ByLevel(nn.Module):
    """Logits of the distance of brightness to 0, 0.4, 0.7 and 1; sure where they are large."""

    def __init__(self, sharp: float) -> None:
        super().__init__()
        self.sharp = sharp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = torch.tensor([0.0, 0.4, 0.7, 1.0]).reshape(1, 4, 1, 1, 1)
        return -self.sharp * (x - levels) ** 2


@pytest.fixture
def script(tmp_path: Path) -> Path:
    torch.jit.script(ByLevel(2000.0)).save(tmp_path / "sure.pt")
    return tmp_path / "sure.pt"


@pytest.mark.parametrize("edge", [1.0, 2.0])
def test_volumes_of_a_phantom_are_those_of_its_balls(script: Path, edge: float) -> None:
    volume, _ = phantom(edge=edge)
    found = segmenter("torchscript", path=script, names=["outer", "middle", "inner"]).segment(Specimen("a", volume, (edge,) * 3))
    shell = 4 * np.pi * np.array([24**2 + 16**2, 16**2 + 8**2, 8**2]) * edge / 1000
    assert (np.abs(found.millilitres - exact()) < 0.25 * shell).all()
    assert found.unknown == 0 and found.confidence == pytest.approx(1, abs=1e-6)
    assert found.shares.sum() == pytest.approx(1)
    assert found.shares == pytest.approx(exact() / exact().sum(), abs=0.02), "whatever the grid"


def test_a_network_that_knows_nothing_is_as_sure_as_chance(tmp_path: Path) -> None:
    torch.jit.script(ByLevel(0.0)).save(tmp_path / "x.pt")
    found = segmenter("torchscript", path=tmp_path / "x.pt", names=["a", "b", "c"]).segment(Specimen("a", phantom()[0], (2.0,) * 3))
    assert found.confidence == pytest.approx(0.25) and found.unknown == 1 and found.millilitres.sum() == 0


def test_labels_in_files_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text(TABLE)
    volume, labels = phantom()
    hidden = np.where(labels == 3, 9, labels)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    nifti.write(tmp_path / "ours" / "sub-1" / "sub-1_desc-synthetic_T1w_dseg.nii.gz", Volume(hidden.astype(np.float32), affine))
    nifti.write(tmp_path / "theirs" / "sub-1.nii.gz", Volume(labels.astype(np.float32), affine))
    one = segmenter("labels", generated=tmp_path / "ours", real=tmp_path / "theirs", table=tmp_path / "table.tsv")
    assert one.structures() == ("Outer", "Middle", "Inner")
    ours = one.segment(Specimen("sub-1_desc-synthetic_T1w", volume, (2.0,) * 3))
    theirs = one.segment(Specimen("sub-1", volume, (2.0,) * 3, generated=False))
    counts = np.bincount(labels.ravel())[1:] * 8 / 1000
    assert theirs.millilitres == pytest.approx(counts) and theirs.unknown == 0 and np.isnan(theirs.confidence)
    assert ours.millilitres == pytest.approx([*counts[:2], 0]) and ours.unknown == pytest.approx(counts[2] / counts.sum())
    with pytest.raises(UserError, match="holds no image of labels for sub-2"):
        one.segment(Specimen("sub-2", volume, (2.0,) * 3))


PROGRAM = """
import sys, numpy as np, nibabel as nib
image = nib.load(sys.argv[1]); values = image.get_fdata()
labels = sum((values > 1000 * level).astype(np.uint8) for level in (0.2, 0.55, 0.85))
nib.save(nib.Nifti1Image(labels, image.affine), sys.argv[2])
"""


def test_a_program_segments_and_its_failure_is_told(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text(TABLE)
    (tmp_path / "program.py").write_text(PROGRAM)
    volume, labels = phantom()
    words = f"{sys.executable} {tmp_path / 'program.py'} {{input}} {{output}}"
    found = segmenter("command", command=words, table=tmp_path / "table.tsv").segment(Specimen("a", volume, (2.0,) * 3))
    assert found.millilitres == pytest.approx(np.bincount(labels.ravel())[1:] * 8 / 1000) and found.unknown == 0
    (tmp_path / "program.py").write_text("raise SystemExit('no licence')")
    with pytest.raises(UserError, match="ended with 1 and no labels for a: no licence"):
        segmenter("command", command=words, table=tmp_path / "table.tsv").segment(Specimen("a", volume, (2.0,) * 3))
    with pytest.raises(UserError, match=r"needs \{input\} and"):
        segmenter("command", command="mri_synthseg", table=tmp_path / "table.tsv")


@pytest.fixture
def mesh(tmp_path: Path) -> Path:
    """Two layers, whose outputs follow brightness and the step to the voxel in front (in the network's own axes)."""
    shared = {"stride": 1, "kernel_size": 3, "padding": 1, "dilation": 1}
    layers = [
        {"in_channels": 1, "out_channels": 2, **shared},
        {"in_channels": 2, "out_channels": 3, **shared, "kernel_size": 1, "padding": 0},
    ]
    (tmp_path / "model.json").write_text(json.dumps({"elu": False, "layers": layers}))
    (tmp_path / "colormap.json").write_text(json.dumps({"labels": ["Unknown", "Tissue", "Front"]}))
    first, second = torch.zeros(2, 1, 3, 3, 3), torch.zeros(3, 2, 1, 1, 1)
    first[0, 0, 1, 1, 1] = 1.0
    first[1, 0, 1, 1, 1], first[1, 0, 1, 1, 2] = 1.0, -1.0  # brighter than the next voxel along the last axis, A
    second[1, 0], second[2, 1] = 10.0, 100.0
    save_file(
        {
            "model.0.weight": first, "model.0.bias": torch.zeros(2), "model.2.weight": second,
            "model.2.bias": torch.tensor([1.0, 0.0, 0.0]),
        },
        tmp_path / "model.pth",
    )  # fmt: skip
    return tmp_path


@pytest.mark.parametrize("edge", [1.0, 2.0])
def test_a_meshnet_sees_the_front_in_front(mesh: Path, edge: float) -> None:
    """Its last axis points to the front: only the front face of a block is brighter than what is before it."""
    volume = np.zeros((round(40 / edge),) * 3, np.float32)
    block = slice(round(10 / edge), round(30 / edge))
    volume[block, block, block] = 0.8
    found = segmenter("meshnet", folder=mesh)
    assert found.structures() == ("Tissue", "Front")
    seen = found.segment(Specimen("a", volume, (edge,) * 3))
    assert seen.unknown < 0.02 and seen.confidence > 0.9
    # Linear interpolation puts half of a voxel of 2 mm around the block, where the network still sees tissue.
    assert seen.millilitres.sum() == pytest.approx((20 if edge == 1 else 22) ** 3 / 1000, rel=0.03)
    # A face of 20 x 20 mm, a voxel of 1 mm deep; after linear interpolation the step is three voxels wide.
    assert seen.millilitres[1] == pytest.approx(0.4 if edge == 1 else 22 * 22 * 3 / 1000, rel=0.05)


def test_another_network_is_told(mesh: Path) -> None:
    (mesh / "colormap.json").write_text(json.dumps({"labels": ["Unknown", "Tissue"]}))
    with pytest.raises(UserError, match="lists no labels"):
        segmenter("meshnet", folder=mesh).structures()
    (mesh / "colormap.json").write_text(json.dumps({"labels": ["Unknown", "Tissue", "a", "b"]}))
    with pytest.raises(UserError, match="3 classes and 4 labels"):
        segmenter("meshnet", folder=mesh).segment(Specimen("a", phantom()[0], (2.0,) * 3))


def cohorts(script: Path, scales: NDArray[np.float64], ages: NDArray[np.float64], ours: int) -> TwoCohorts:
    used = [one for one in extractors({"kind": "anatomy", "segmenter": {"kind": "torchscript", "path": script, "names": ["a", "b", "c"]}})
            if one.kind == "anatomy"]  # fmt: skip
    kept = []
    for scale in scales:
        volume, labels = phantom()
        places = np.sqrt((((np.indices(volume.shape) - 15.5) * 2) ** 2).sum(axis=0))
        volume[(labels > 0) & (places < 16 * scale)] = 0.7
        volume[places < 8] = 1.0
        kept.append(keep(Specimen("x", volume, (2.0,) * 3), used))
    return pooled(kept[:ours], kept[ours:], trained=[False] * (len(scales) - ours), ages=list(ages), extractors=used, seed=0)


def test_a_structure_that_is_too_large_is_named_and_slopes_are_those_of_age(script: Path) -> None:
    """The middle ball grows with age; generated ones are larger by two standard deviations, and do not grow."""
    random = np.random.default_rng(0)
    ages = random.uniform(20, 80, size=60)
    growth = 0.9 + 0.2 * (ages - 20) / 60
    ours = 24
    growth[:ours] = 1.12 + 0.01 * random.normal(size=ours)
    found = Anatomy().compare(cohorts(script, growth, ages, ours))
    numbers = {number.name: number for number in found.numbers}
    assert set(numbers) == {"shares", "share a", "share b"}, "what is the same in everybody is left out"
    effect = numbers["share b"].floored
    assert effect is not None and effect.value > 1 and not effect.inside and effect.interval is not None and effect.interval[0] > 0.5
    assert numbers["shares"].floored is not None and not numbers["shares"].floored.inside
    slopes = {one["name"]: one for one in found.more["age"]}["share b"]
    assert slopes["real"]["interval"][0] > 0 and slopes["generated"]["interval"][0] < 0 < slopes["generated"]["interval"][1]
    assert found.more["people"]["share b"]["outside"] > 0.5


@pytest.mark.slow
@pytest.mark.skipif("VOLGEN_TEST_MESHNET" not in os.environ, reason="VOLGEN_TEST_MESHNET names no folder of a MeshNet")
def test_a_real_meshnet_knows_a_brain_and_not_one_on_its_head(test_data: Path) -> None:
    volume = nifti.read(next((test_data / "brains-1mm").rglob("*T1w.nii.gz")))
    one = segmenter("meshnet", folder=os.environ["VOLGEN_TEST_MESHNET"])
    upright, turned = (one.segment(Specimen("a", voxels, volume.voxel_size)) for voxels in (volume.voxels, volume.voxels[:, :, ::-1]))
    named = dict(zip(one.structures(), upright.shares, strict=True))
    assert 0.3 < named["Cerebral-White-Matter"] < 0.5 and 0.3 < named["Cerebral-Cortex"] < 0.5
    assert upright.unknown < 0.2 < turned.unknown or turned.confidence < upright.confidence
