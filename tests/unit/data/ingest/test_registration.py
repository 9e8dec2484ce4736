"""Bias fields that are found again, scans that come into one frame and out of it, and templates that are nobody's in particular."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import affine_transform, gaussian_filter

from volgen.commands.ingest.ingest import ingest
from volgen.core.errors import UserError
from volgen.data.ingest.biases.n4 import Config as N4
from volgen.data.ingest.discover import Found
from volgen.data.ingest.frame import TEMPLATE, SharedFrame, on_grid
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.ingest.registrations.affine import Config as Affine
from volgen.data.ingest.registrations.rigid import Config as Rigid
from volgen.data.ingest.template import chosen, made, member
from volgen.data.record import SubjectRecord
from volgen.data.store import Store
from volgen.images import nifti
from volgen.images.volume import Volume

GRID = {"shape": (48, 56, 48), "voxel_size": 4.0}
MIDDLE = np.array([3.0, -5.0, 8.0])


def head(points: np.ndarray) -> np.ndarray:
    """A head with nothing symmetric about it but its sides: a skull of three axes, a bright core, ventricles and a stem; points in mm."""
    x, y, z = np.moveaxis(points, -1, 0)
    outer = ((x / 62) ** 2 + (y / 78) ** 2 + (z / 58) ** 2) ** 0.5
    inner = (((np.abs(x) - 24) / 22) ** 2 + ((y + 8) / 48) ** 2 + ((z - 6) / 34) ** 2) ** 0.5
    horns = (((np.abs(x) - 10) / 7) ** 2 + ((y - 12) / 26) ** 2 + ((z - 12) / 9) ** 2) ** 0.5
    stem = ((x / 14) ** 2 + ((y + 22) / 14) ** 2 + ((z + 52) / 30) ** 2) ** 0.5

    def step(distance: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(24 * (distance - 1)))

    return 500 * step(outer) + 250 * step(inner) - 550 * step(horns) + 300 * step(stem) * (1 - step(outer))


def moved(degrees: float, shift: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """4 x 4: a turn about z and then about x, a scale, and a shift."""
    a, b = np.radians(degrees), np.radians(-0.7 * degrees)
    matrix = np.eye(4)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    matrix[:3, :3] = scale * turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    matrix[:3, 3] = shift
    return matrix


def scanned(matrix: np.ndarray, seed: int = 0, edges: tuple[float, float, float] = (4.0, 4.0, 5.0)) -> Volume:
    """The head, moved by a matrix (mm of the head -> mm of the scanner), in voxels of a scanner, with noise."""
    affine = np.diag([*edges, 1.0])
    shape = (48, 52, 40)
    affine[:3, 3] = matrix[:3, 3] - affine[:3, :3] @ (np.array(shape) / 2 + [2, -1, 3])
    places = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
    inverse = np.linalg.inv(matrix)
    noise = np.random.default_rng(seed).normal(0, 6, shape)
    voxels = head(places @ inverse[:3, :3].T + inverse[:3, 3])
    return Volume(np.where(voxels > 20, voxels + noise, 0.0).clip(0).astype(np.float32), affine)


MOVES = [moved(0, MIDDLE), moved(9, MIDDLE + np.array([12, -20, 31]), 1.06), moved(-7, MIDDLE - np.array([4, 40, -3]), 0.93)]


def places(matrix: np.ndarray) -> np.ndarray:
    """Where points all over the head go."""
    points = np.array([[x, y, z] for x in (-50, 0, 50) for y in (-60, 0, 60) for z in (-40, 0, 40)], dtype=float)
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def test_a_bias_field_is_found_again_and_units_stay() -> None:
    clean = scanned(MOVES[0])
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in clean.shape], indexing="ij"))
    field = np.exp(0.35 * grid[1] - 0.25 * grid[2] * grid[0] + 0.2 * grid[2]).astype(np.float32)
    corrected = (
        N4(voxel_size=8.0, spline_distance=100.0, iterations=(80,), convergence=1e-5)
        .corrected(Volume(clean.voxels * field + 40, clean.affine))
        .voxels
        - 40
    )
    inside = clean.voxels > 300
    before, after = (np.std(np.log(ratio[inside])) for ratio in (field, corrected / np.maximum(clean.voxels, 1)))
    assert after < 0.35 * before, "what is left of the field"
    foreground = clean.voxels * field > (clean.voxels * field).mean()
    taken_out = np.log(corrected[foreground] / (clean.voxels * field)[foreground])
    assert abs(taken_out.mean()) < 0.01, "units stay"
    assert (corrected[clean.voxels == 0] == 0).all(), "air stays what it was"
    again = (
        N4(voxel_size=8.0, spline_distance=100.0, iterations=(80,), convergence=1e-5)
        .corrected(Volume(clean.voxels * field + 40, clean.affine))
        .voxels
        - 40
    )
    assert again.tobytes() == corrected.tobytes()


@pytest.mark.parametrize(("kind", "scales"), [(Rigid, (1.0, 1.0)), (Affine, (1.06, 0.93))])
def test_a_moved_head_is_found(kind: type[Rigid], scales: tuple[float, float]) -> None:
    template = scanned(MOVES[0], edges=(4.0, 4.0, 4.0))
    for scale, degrees, shift in zip(scales, (9, -7), ([12, -20, 31], [-4, -40, 3]), strict=True):
        truth = moved(degrees, MIDDLE + np.array(shift), scale)
        found = kind().matrix(scanned(truth, seed=5), template)
        away = np.linalg.norm(places(found @ MOVES[0]) - places(truth), axis=1)
        assert away.max() < 3.0, f"{away.max():.2f} mm, of voxels of 4"
        sizes = np.linalg.svd(found[:3, :3])[1]
        assert np.abs(sizes - scale).max() < (1e-9 if kind is Rigid else 0.02)
    assert kind().matrix(scanned(truth, seed=5), template).tobytes() == found.tobytes(), "the same scan lands in the same place"


def test_a_scan_is_taken_once_through_the_composed_transform_and_comes_back() -> None:
    template = scanned(MOVES[0], edges=(4.0, 4.0, 4.0))
    scan = scanned(MOVES[1], seed=1)
    config = IngestConfig(shape=(72, 84, 72), voxel_size=2.5, registration={"kind": "affine", "voxel_size": 8.0})
    taken = SharedFrame(template, config).take(scan)
    assert taken.source is not None and taken.kept == 1.0
    assert taken.volume.voxels.tobytes() == on_grid(scan, taken.source, (72, 84, 72)).tobytes()
    # By another hand: back to the scanner's voxels.
    back = affine_transform(taken.volume.voxels, np.linalg.solve(taken.source, scan.affine), output_shape=scan.shape, order=3)
    inside = gaussian_filter((scan.voxels > 0).astype(float), 1.5) > 0.99
    assert np.corrcoef(back[inside], scan.voxels[inside])[0, 1] > 0.985
    shifted = np.eye(4)
    shifted[0, 3] = 4.0
    wrong = affine_transform(taken.volume.voxels, np.linalg.solve(taken.source, shifted @ scan.affine), output_shape=scan.shape, order=3)
    assert np.corrcoef(wrong[inside], scan.voxels[inside])[0, 1] < 0.95, "four millimetres would have been seen"


def test_voxels_that_are_larger_than_a_scan_s_are_means_of_it() -> None:
    voxels = np.random.default_rng(0).normal(100, 10, (24, 20, 16)).astype(np.float32)
    source = np.diag([2.0, 2.0, 2.0, 1.0])
    source[:3, 3] = 0.5
    found = on_grid(Volume(voxels, np.eye(4)), source, (12, 10, 8))
    expected = voxels.reshape(12, 2, 10, 2, 8, 2).mean(axis=(1, 3, 5))
    assert np.abs(found - expected).max() < 1e-3


def test_nothing_rings_out_of_the_image_s_range_or_into_the_air() -> None:
    voxels = np.zeros((30, 30, 30), np.float32)
    voxels[8:22, 8:22, 8:22] = 100.0
    source = moved(8, np.array([-2.0, 1.5, 1.0]))
    found = on_grid(Volume(voxels, np.eye(4)), source, (30, 30, 30))
    assert found.min() == 0.0 and found.max() == 100.0
    inside = on_grid(Volume(voxels, np.eye(4)), source, (30, 30, 30), linear=True) > 0
    assert (found[~inside] == 0).all() and (found[inside] > 0).mean() > 0.5


# Templates of a cohort


def people(folder: Path, patients: list[str]) -> list[Found]:
    found = []
    for index, patient in enumerate(patients):
        path = folder / f"{patient}_T1w.nii.gz"
        if not path.exists():
            number = int(patient.removeprefix("sub-"))
            draw = np.random.default_rng(number)
            matrix = moved(float(draw.uniform(-8, 8)), MIDDLE + draw.uniform(-20, 20, 3), float(draw.uniform(0.93, 1.07)))
            nifti.write(path, scanned(matrix, seed=number))
        found.append(Found(patient, patient, path, path.name))
        assert index < 40
    return found


def test_a_template_is_of_training_people_and_symmetric(tmp_path: Path) -> None:
    config = IngestConfig(**GRID, registration={"kind": "affine", "people": 4, "voxel_size": 8.0})
    everybody = [f"sub-{n}" for n in range(12)]
    scans = people(tmp_path, everybody)
    taken = chosen(scans, config)
    assert len(taken) == 4 and chosen(scans[::-1], config) == taken
    splits = {found.patient: "train" for found in taken}
    assert splits == {patient: _split(patient) for patient in splits}
    others = [found for found in scans if _split(found.patient) != "train"]
    assert others and chosen([found for found in scans if found not in others], config) == taken, "nobody else is looked at"

    def each(work, things):  # type: ignore[no-untyped-def]
        return [work(thing) for thing in things]

    members = [volume for volume in map(member, taken) if volume is not None]
    template = made(members, config, each)
    assert template.voxels.tobytes() == made(members, config, each).voxels.tobytes()
    assert (template.voxels == template.voxels[::-1]).all() and template.affine[0, 3] == -template.affine[0, 0] * (
        template.shape[0] - 1
    ) / 2
    # Its size is the middle of theirs.
    sizes = [np.cbrt(np.linalg.det(config.registration.matrix(person, template)[:3, :3])) for person in members]
    assert np.mean(np.log(sizes)) == pytest.approx(0.0, abs=0.02) and np.ptp(sizes) > 0.02


def _split(patient: str) -> str:
    from volgen.data.record import split_of

    return split_of(patient, 0.1, 0.1)


def test_a_registered_store_says_so_goes_on_and_keeps_its_template(tmp_path: Path) -> None:
    people(tmp_path / "in", ["sub-1", "sub-2", "sub-3"])
    config = IngestConfig(
        **GRID,
        bias={"kind": "n4", "iterations": [20, 20], "voxel_size": 8.0},
        registration={"kind": "rigid", "rounds": 1, "voxel_size": 8.0},
        validation=0.0,
        test=0.0,
    )
    ingest(tmp_path / "in", tmp_path / "store", config)
    store = Store.open(tmp_path / "store")
    assert store.fitted and store.settings["registration"]["template"] == "cohort" and store.settings["resampling"] == "sharp"
    assert len({record.affine.tobytes() for record in store.records}) == 1
    middle = store.records[0].affine @ [*((np.array(GRID["shape"]) - 1) / 2), 1]
    assert middle[0] == 0.0, "the midsagittal plane is the middle of the grid"
    for record in store.records:
        assert record.source_affine is not None
        again = SubjectRecord.from_dict(record.to_dict())
        assert again.source_affine is not None and again.source_affine.tobytes() == record.source_affine.tobytes()
        original = nifti.read(tmp_path / "in" / f"{record.id}_T1w.nii.gz")
        back = affine_transform(
            store.read(record).voxels, np.linalg.solve(record.source_affine, original.affine), output_shape=original.shape
        )
        assert np.corrcoef(back.ravel(), original.voxels.ravel())[0, 1] > 0.97
    template = (tmp_path / "store" / TEMPLATE).read_bytes()
    people(tmp_path / "in", ["sub-4"])
    assert ingest(tmp_path / "in", tmp_path / "store", config, workers=2).resumed == 3
    assert (tmp_path / "store" / TEMPLATE).read_bytes() == template
    (tmp_path / "store" / TEMPLATE).write_bytes(template[:-9] + b"123456789")
    with pytest.raises(UserError, match=r"template\.nii\.gz: is not that of manifest\.json"):
        ingest(tmp_path / "in", tmp_path / "store", config)


def test_a_named_template_is_copied_and_known_by_its_content(tmp_path: Path) -> None:
    people(tmp_path / "in", ["sub-1", "sub-2"])
    nifti.write(tmp_path / "atlas.nii.gz", scanned(MOVES[0], edges=(4.0, 4.0, 4.0)))

    def config(template: str) -> IngestConfig:
        return IngestConfig(**GRID, registration={"kind": "rigid", "template": str(tmp_path / template), "voxel_size": 8.0})

    ingest(tmp_path / "in", tmp_path / "store", config("atlas.nii.gz"))
    store = Store.open(tmp_path / "store")
    assert not store.fitted and str(tmp_path) not in (tmp_path / "store/manifest.json").read_text()
    (tmp_path / "atlas.nii.gz").rename(tmp_path / "moved.nii.gz")
    assert ingest(tmp_path / "in", tmp_path / "store", config("moved.nii.gz")).resumed == 2
    with pytest.raises(UserError, match=r"atlas\.nii\.gz: cannot be opened"):
        ingest(tmp_path / "in", tmp_path / "store", config("atlas.nii.gz"))
    nifti.write(tmp_path / "other.nii.gz", scanned(MOVES[1]))
    with pytest.raises(UserError, match="other settings: registration was"):
        ingest(tmp_path / "in", tmp_path / "store", config("other.nii.gz"))


def test_a_registration_needs_a_grid() -> None:
    with pytest.raises(ValueError, match="registration brings scans onto one grid"):
        IngestConfig(shape="native", registration="rigid")


def test_a_cohort_without_training_people_has_no_template(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(scanned(MOVES[0]).voxels, scanned(MOVES[0]).affine), tmp_path / "in" / "sub-1_T1w.nii.gz")
    with pytest.raises(UserError, match=r"registration\.template: no training person's scan can be used \(0 were tried\)"):
        ingest(tmp_path / "in", tmp_path / "store", IngestConfig(**GRID, registration="rigid", validation=0.99, test=0.0))
