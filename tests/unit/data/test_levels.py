"""The coarser arrays of a scan are means of what networks see, to a fraction of a step; training reads them and nothing finer."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import pytest
import torch
import zarr

from volgen.commands.ingest.ingest import ingest
from volgen.core.errors import UserError
from volgen.data import levels
from volgen.data.augment import AugmentConfig
from volgen.data.cache import Cache
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.ingest.subject import COARSER, torn
from volgen.data.piece import Piece
from volgen.data.record import SubjectRecord
from volgen.data.scan import MirroredScan, StoredScan, VolumeScan
from volgen.data.store import Store
from volgen.data.stream import Stream, StreamConfig
from volgen.images.box import BoxConfig
from volgen.models.model import CoarseScan

SHAPE = (24, 16, 32)
ALL = BoxConfig.whole(SHAPE)
BOX = BoxConfig(start=(8, 0, 8), size=(8, 16, 16))


def _ingest(folder: Path, dtype: Literal["uint8", "uint16"], shape: tuple[int, int, int] = SHAPE) -> Store:
    (folder / "in").mkdir(parents=True)
    for index in range(6):
        voxels = np.random.default_rng(index).gamma(2.0, 200.0, shape).astype(np.float32)  # bright ones are outside of the window
        nib.save(nib.Nifti1Image(voxels, np.diag([2, 2, 3, 1.0])), folder / "in" / f"sub-{index}_T1w.nii")
    settings: Any = {"shape": None, "voxel_size": None, "dtype": dtype, "validation": 0.3, "test": 0.0}
    ingest(folder / "in", folder / "store", IngestConfig(**settings))
    return Store.open(folder / "store")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return _ingest(tmp_path_factory.mktemp("levels"), "uint8")


def older(store: Store) -> Store:
    """The same store, as if it had no levels."""
    records = [SubjectRecord.from_dict({k: v for k, v in record.to_dict().items() if k != "levels"}) for record in store.records]
    return Store(store.path, records)


def scan(store: Store, number: int = 0, place: BoxConfig = ALL, cached: bool = True, decoded: BoxConfig = ALL) -> StoredScan:
    return StoredScan(store, store.records[number], Cache(1 << 24), cached, place, decoded)


def of_cubes(volume: np.ndarray, edge: int) -> np.ndarray:  # type: ignore[type-arg]
    """Reference: the mean of every cube, one after another, in double precision."""
    x, y, z = (size // edge for size in volume.shape)
    found = np.empty((x, y, z))
    for i, j, k in np.ndindex(x, y, z):
        found[i, j, k] = volume[i * edge : (i + 1) * edge, j * edge : (j + 1) * edge, k * edge : (k + 1) * edge].mean(dtype=np.float64)
    return found


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_levels_are_means_of_what_networks_see_to_far_less_than_half_a_step(dtype: Literal["uint8", "uint16"], tmp_path: Path) -> None:
    store = _ingest(tmp_path, dtype)
    record = store.records[0]
    assert record.levels == 3
    step = 2 * record.slope / (record.intensity.high - record.intensity.low)  # of a code, in the model range
    seen = scan(store).whole().numpy()
    assert (seen == 1.0).mean() > 1e-4, "some voxels are beyond the window"
    for level, edge in ((1, 2), (2, 4), (3, 8)):
        error = np.abs(scan(store).coarse(edge).numpy() - of_cubes(seen, edge)).max()
        assert error <= step * 2.0 ** -levels.FRACTION[dtype] + 3e-7, (level, error / step)
    naive = np.abs(of_cubes(store.read_codes(record).astype(np.float64), 2) - np.round(of_cubes(store.read_codes(record), 2)))
    assert naive.max() > 0.4, "codes of the same type would be half a step off"


def test_the_last_voxel_stands_for_those_that_are_missing(tmp_path: Path) -> None:
    store = _ingest(tmp_path, "uint8", (13, 16, 21))
    record = store.records[0]
    seen = BoxConfig(start=(0, 0, 0), size=(13, 16, 21)).crop(store.read_unit(record)) * 2 - 1
    padded = np.pad(seen, [(0, 3), (0, 0), (0, 3)], mode="edge")
    for level in (1, 2, 3):
        shape = levels.shape_of(record.shape, level)
        assert shape == tuple(-(-size // 2**level) for size in record.shape)
        found = levels_of(store, record, level, BoxConfig.whole(shape))
        np.testing.assert_allclose(found, of_cubes(padded, 2**level)[tuple(slice(0, size) for size in shape)], atol=4e-5)
    inner = BoxConfig(start=(4, 8, 8), size=(8, 8, 8))  # whole cubes, in a volume that does not consist of them
    here = StoredScan(store, record, Cache(1 << 20), True, inner, inner)
    np.testing.assert_allclose(here.coarse(4), of_cubes(inner.crop(seen), 4), atol=4e-5)


def levels_of(store: Store, record: SubjectRecord, level: int, box: BoxConfig) -> Any:
    from volgen.data.convert import means_to_model

    return means_to_model(store.read_means(record, level, box), record)


@pytest.mark.parametrize("place", [ALL, BOX])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("edge", [2, 4, 8, 16])
def test_a_coarse_scan_is_that_of_an_older_store(store: Store, place: BoxConfig, mirrored: bool, edge: int) -> None:
    if edge == 16 and place is ALL:
        place = BoxConfig(start=(0, 0, 16), size=(16, 16, 16))
    if edge == 16 and place is BOX:
        pytest.skip("it has no such cubes")
    kept = BoxConfig.around([place, place.mirrored(SHAPE)])
    for number in (0, 1):
        new, old = (scan(each, number, place.mirrored(SHAPE) if mirrored else place, decoded=kept) for each in (store, older(store)))
        one, other = (MirroredScan(each) if mirrored else each for each in (new, old))
        torch.testing.assert_close(one.coarse(edge), other.coarse(edge), rtol=0, atol=4e-5)
        np.testing.assert_allclose(one.coarse(edge), of_cubes(one.whole().numpy(), edge), atol=4e-5)
        assert torch.equal(one.slices(0, 1, 4), one.whole()[1:4]) and torch.equal(one.slices(2, 1, 4), one.whole()[:, :, 1:4])
        assert torch.equal(one.part((1, 2, 3), (4, 5, 6)), one.whole()[1:5, 2:7, 3:9])


def test_a_place_off_the_cubes_is_averaged_from_voxels(store: Store) -> None:
    place = BoxConfig(start=(3, 0, 5), size=(8, 8, 16))
    here = scan(store, place=place)
    np.testing.assert_allclose(here.coarse(4), of_cubes(here.whole().numpy(), 4), atol=1e-6)
    half = scan(store, place=BoxConfig(start=(2, 0, 6), size=(8, 8, 16)))  # on those of level 1, and made of these
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "read_block", lambda *_: pytest.fail("voxels were read"))
        found = half.coarse(4)
    np.testing.assert_allclose(found, of_cubes(half.whole().numpy(), 4), atol=4e-5)


@pytest.mark.parametrize("box", [None, BOX, BoxConfig(start=(0, 0, 8), size=(16, 16, 16))])
@pytest.mark.parametrize("flips", [False, True])
def test_training_at_a_level_touches_nothing_finer(store: Store, tmp_path: Path, box: BoxConfig | None, flips: bool) -> None:
    """With the shards of level 0 gone, an expert of level 1 goes on; bytes of its files are a fraction."""
    import shutil

    copy = shutil.copytree(Path(str(store.path)), tmp_path / "copy")
    for shard in copy.glob("sub-*/0/c/0/0/0"):
        shard.unlink()
    config = StreamConfig(store="unused", shape=SHAPE, batch_size=4, box=box, augment=AugmentConfig(flip_left_right=flips))

    def cut(scan: Any, seed: int, *key: int | str) -> Any:
        from volgen.data.stream import everything

        return everything(CoarseScan(scan, 1), seed, *key)

    found = []
    for each in (Store.open(copy), older(store)):
        with closing(Stream(each, "train", config, 3, cut=cut)) as stream:
            found.append(torch.cat([stream.batch(step).x_BCXYZ for step in range(4)]))
    torch.testing.assert_close(*found, rtol=0, atol=4e-5)
    with pytest.raises(UserError, match="is missing"), closing(Stream(Store.open(copy), "train", config, 3)) as stream:
        stream.batch(0)
    sizes = [sum(path.stat().st_size for path in copy.glob(f"sub-*/{level}/c/0/0/0")) for level in (1, 2, 3)]
    whole = sum(path.stat().st_size for path in Path(str(store.path)).glob("sub-*/0/c/0/0/0"))
    assert [whole / size > least for size, least in zip(sizes, (3.5, 20, 60), strict=True)] == [True] * 3


def test_mirroring_alone_is_what_the_resampling_made_of_it(store: Store) -> None:
    """It used to be an interpolation at whole numbers: the same bits."""
    from volgen.data.augment import MIRRORED, Mirroring, _draws, resample

    turned = 0
    for step in range(12):
        here, key = scan(store, step % 6), (step, 1)
        expected = here.whole()
        if _draws(3, *key)[MIRRORED] > 0:
            matrix = np.eye(4)
            matrix[0, 0], matrix[0, 3] = -1.0, SHAPE[0] - 1.0
            expected, turned = resample(Piece.of(here.whole()), matrix, ALL), turned + 1
        assert torch.equal(Mirroring()(here, 3, *key).whole(), expected)
    assert 0 < turned < 12


def test_levels_are_listed_sealed_and_placed(store: Store) -> None:
    record, folder = store.records[0], Path(str(store.path)) / store.records[0].id
    content = json.loads((folder / "zarr.json").read_text())["attributes"]
    (image,) = content["ome"]["multiscales"]
    assert [one["path"] for one in image["datasets"]] == ["0", "1", "2", "3"]
    for level, one in enumerate(image["datasets"]):
        scale, translation = (step[step["type"]] for step in one["coordinateTransformations"])
        size = np.array([3.0, 2.0, 2.0])
        np.testing.assert_allclose(scale, size * 2**level)
        # The middle of the first cube is the mean of the places of its voxels.
        first = [[0.0, 0.0, 0.0] + size * (np.array(index)) for index in np.ndindex(*[2**level] * 3)]
        np.testing.assert_allclose(translation, np.mean(first, axis=0))
        array = zarr.open_group(str(folder), mode="r")[str(level)]
        assert array.shape == tuple(n // 2**level for n in SHAPE[::-1])  # type: ignore[union-attr]
    assert set(COARSER) <= content["volgen"]["files"].keys()
    root = json.loads((Path(str(store.path)) / "zarr.json").read_text())
    assert {f"{record.id}/{level}" for level in range(4)} <= root["consolidated_metadata"]["metadata"].keys()
    for each in store.records:
        store.verify(each)


def test_ome_zarr_readers_take_it_for_a_pyramid(store: Store) -> None:
    models = pytest.importorskip("ome_zarr_models.v05.image")
    image = models.Image.from_zarr(zarr.open_group(str(Path(str(store.path)) / store.records[0].id), mode="r"))
    assert len(image.attributes.ome.multiscales[0].datasets) == 4


def test_damage_to_a_level_is_named(tmp_path: Path) -> None:
    store = _ingest(tmp_path, "uint8")
    record, folder = store.records[0], tmp_path / "store" / store.records[0].id
    whole = json.loads((folder / "zarr.json").read_text())["attributes"]["volgen"]["file"]
    shard = folder / "2/c/0/0/0"
    good = shard.read_bytes()
    for content, said in ((good[:-40] + bytes(40), "level 2 is damaged"), (None, "level 2 is missing")):
        shard.unlink() if content is None else shard.write_bytes(content)
        opened = Store.open(tmp_path / "store")
        with pytest.raises(UserError, match=rf"{record.id} of .*{said}"):
            StoredScan(opened, record, Cache(0), True, ALL, ALL).coarse(4)
        assert StoredScan(opened, record, Cache(0), True, ALL, ALL).coarse(2).shape == (12, 8, 16), "other levels are fine"
    assert torn(folder, whole) and not torn(tmp_path / "store" / store.records[1].id, whole)
    # The same ingest makes it again.
    settings: Any = {"shape": None, "voxel_size": None, "dtype": "uint8", "validation": 0.3, "test": 0.0}
    ingest(tmp_path / "in", tmp_path / "store", IngestConfig(**settings))
    assert shard.read_bytes() == good
    other = zarr.open_group(str(folder), mode="r+")["3"]
    other[0, 0, 0] = 7  # type: ignore[index]
    with pytest.raises(UserError, match="level 3 is not made of its voxels"):
        Store.open(tmp_path / "store").verify(record)


def test_a_volume_in_memory_has_levels_too() -> None:
    volume = torch.rand(8, 8, 8)
    np.testing.assert_allclose(VolumeScan((8, 8, 8), lambda: volume).coarse(2), of_cubes(volume.numpy(), 2), atol=1e-6)
