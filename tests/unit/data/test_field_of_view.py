"""What is read and computed is a box of a scan, as if there were nothing else; where the box is follows from the heads."""

from __future__ import annotations

from contextlib import closing

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from volgen.commands.ingest.ingest import ingest
from volgen.data import field_of_view
from volgen.data.augment import AugmentConfig
from volgen.data.cache import Cache
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.record import SubjectRecord
from volgen.data.scan import StoredScan
from volgen.data.store import Store
from volgen.data.stream import Stream, StreamConfig
from volgen.images.box import BoxConfig
from volgen.images.intensity import IntensityMap

SHAPE = (20, 16, 24)
BOX = BoxConfig(start=(4, 2, 8), size=(8, 12, 16))
MOVING = AugmentConfig(rotation_degrees=20, translation_mm=3, scale=0.1, flip_left_right=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Noise in a box of its own in each of nine scans, and exact background around it."""
    folder = tmp_path_factory.mktemp("box")
    (folder / "in").mkdir()
    for index in range(9):
        voxels, random = np.zeros(SHAPE, np.int16), np.random.default_rng(index)
        voxels[3 + index % 2 : 12, 1:15, 7 : 21 + index % 3] = random.integers(300, 900, (9 - index % 2, 14, 14 + index % 3))
        nib.save(nib.Nifti1Image(voxels, np.diag([2, 2, 2, 1.0])), folder / "in" / f"sub-{index}_T1w.nii")
    ingest(folder / "in", folder / "store", IngestConfig(shape=None, voxel_size=None, validation=0.3, test=0.0))
    return Store.open(folder / "store")


def test_ingest_notes_where_the_head_is_and_a_store_that_does_not_say_it_is_looked_at(store: Store) -> None:
    for record in store.records:
        index = int(record.id.removeprefix("sub-").removesuffix("_T1w"))
        first = 3 + index % 2
        assert record.foreground == BoxConfig(start=(first, 1, 7), size=(12 - first, 14, 14 + index % 3))
    older = [SubjectRecord.from_dict({k: v for k, v in r.to_dict().items() if k != "foreground"}) for r in store.records]
    assert all(record.foreground is None for record in older)
    silent = Store(store.path, older)
    assert field_of_view.boxes(silent, older) == field_of_view.boxes(store, store.records)
    assert silent.fingerprint == store.fingerprint, "runs of the older store go on with the newer one"


def test_what_is_faint_is_background() -> None:
    codes = np.full(SHAPE, 1, np.uint8)
    codes[5:9, 4:6, 3:20] = 200
    codes[0, 0, 0] = 4  # 1.5 % of the window
    box = field_of_view.of_codes(codes, 0.5, 10.0, IntensityMap(10.5, 110.0))
    assert box == BoxConfig(start=(5, 4, 3), size=(4, 2, 17))
    assert field_of_view.of_codes(np.zeros(SHAPE, np.uint8), 1.0, 0.0, IntensityMap(0.0, 9.0)) == BoxConfig.whole(SHAPE)


def test_a_record_whose_foreground_leaves_its_volume_is_refused(store: Store) -> None:
    content = store.records[0].to_dict()
    for start, size in (((15, 0, 0), (6, 1, 1)), ((-1, 0, 0), (2, 2, 2)), ((0, 0, 0), (0, 1, 1))):
        with pytest.raises(ValueError, match=r"outside of its volume|greater than"):
            SubjectRecord.from_dict({**content, "foreground": {"start": start, "size": size}})


@given(
    st.tuples(st.integers(0, 99), st.integers(1, 100), st.integers(0, 40)),
    st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from([0, 1, 2]),
)  # fmt: skip
def test_the_box_holds_what_is_wanted_and_is_as_small_as_can_be(axis: tuple[int, int, int], multiple: int, fewer: int) -> None:
    start, size, more = axis
    step, edge = max(1, multiple >> fewer), start + size + more
    wanted = BoxConfig(start=(start, 0, 0), size=(size, 1, 1))
    box = field_of_view.smallest(wanted, (edge, 1, 1), multiple, step)
    assert box.holds(wanted) and BoxConfig.whole((edge, 1, 1)).holds(box)
    fits = [
        length
        for length in range(multiple, edge, multiple)
        for first in range(0, edge - length + 1, step)
        if first <= start and first + length >= start + size
    ]
    assert box.size[0] == min(fits, default=edge)
    assert box.start[0] % step == 0


def test_boxes_grow_turn_and_become_coarse() -> None:
    assert BOX.grown((1, 3, 9), SHAPE) == BoxConfig(start=(3, 0, 0), size=(10, 16, 24))
    assert BOX.mirrored(SHAPE) == BoxConfig(start=(8, 2, 8), size=(8, 12, 16))
    assert BOX.coarse(2) == BoxConfig(start=(2, 1, 4), size=(4, 6, 8))
    assert BoxConfig.around([BOX, BoxConfig(start=(0, 5, 20), size=(2, 2, 4))]) == BoxConfig(start=(0, 2, 8), size=(12, 12, 16))
    volume = torch.arange(20.0 * 16 * 24).view(1, *SHAPE)
    whole = BOX.pad(BOX.crop(volume), SHAPE, -1.0)
    assert torch.equal(BOX.crop(whole), BOX.crop(volume)) and (whole == -1.0).sum() == volume.numel() - 8 * 12 * 16


@pytest.mark.parametrize("cached", [True, False])
def test_a_scan_is_its_box_whoever_asks(store: Store, cached: bool) -> None:
    for record in store.records[:3]:
        scan = StoredScan(store, record, Cache(1 << 20), cached, BOX, BOX)
        whole = torch.from_numpy(BOX.crop(store.read_unit(record))) * 2 - 1
        assert scan.shape == BOX.size and torch.equal(scan.whole(), whole)
        for axis in range(3):
            torch.testing.assert_close(scan.slices(axis, 3, 6), whole.narrow(axis, 3, 3), rtol=0, atol=1e-6)
        means = np.mean(whole.numpy().reshape(4, 2, 6, 2, 8, 2), axis=(1, 3, 5))
        np.testing.assert_allclose(scan.coarse(2), means, atol=1e-6)


def test_only_the_box_is_kept_in_memory(store: Store) -> None:
    cache = Cache(1 << 20)
    StoredScan(store, store.records[0], cache, True, BOX, BOX).whole()
    assert cache.held_bytes == 8 * 12 * 16 * 2


@pytest.mark.parametrize("augment", [AugmentConfig(), MOVING, AugmentConfig(flip_left_right=True)])
@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_batches_are_the_box_of_those_without_one(store: Store, augment: AugmentConfig, cache_gib: float) -> None:
    """Heads move about the middle of the whole volume, and are cut after that."""

    def batch(box: BoxConfig | None) -> torch.Tensor:
        config = StreamConfig(store="unused", shape=SHAPE, batch_size=4, augment=augment, box=box, cache_gib=cache_gib)
        with closing(Stream(store, "train", config, 3)) as stream:
            validation = stream.validation_volumes(2).x_BCXYZ
            return torch.cat([stream.batch(step).x_BCXYZ for step in range(3)] + [validation])

    torch.testing.assert_close(batch(BOX), BOX.crop(batch(None)), rtol=0, atol=2e-5)


def test_a_box_has_to_be_inside_and_numbers() -> None:
    with pytest.raises(ValueError, match=r"starts at \[4, 2, 9\] and has \[8, 12, 16\] voxels, which are not all in"):
        StreamConfig(store="s", shape=SHAPE, box=BoxConfig(start=(4, 2, 9), size=(8, 12, 16)))
    with pytest.raises(ValueError, match="is 'brain': it is foreground"):
        StreamConfig(store="s", shape=SHAPE, box="brain")  # type: ignore[arg-type]
