"""Parts of a scan are the same from the store, the cache or memory; batches of slabs are functions of (seed, step)."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from volgen.commands.ingest.ingest import ingest
from volgen.core.given import Examples
from volgen.data.augment import AugmentConfig
from volgen.data.cache import Cache
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.scan import StoredScan, VolumeScan
from volgen.data.store import Store
from volgen.data.stream import Stream, StreamConfig
from volgen.images.box import BoxConfig
from volgen.models.assemblies.autoregressive import Config as Autoregressive

SHAPE = (8, 12, 16)
ALL = BoxConfig.whole(SHAPE)
SLABS = Autoregressive(coarse_levels=2, thickness=2, axis="S")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("scan")
    (folder / "in").mkdir()
    for index in range(12):  # two scans of each of six people
        voxels = np.random.default_rng(index).integers(0, 900, SHAPE).astype(np.int16)
        name = f"sub-{index // 2}_ses-{index % 2}_T1w.nii"
        nib.save(nib.Nifti1Image(voxels, np.diag([2, 2, 2, 1.0])), folder / "in" / name)
    ingest(folder / "in", folder / "store", IngestConfig(shape=None, voxel_size=None, validation=0.4, test=0.0))
    return Store.open(folder / "store")


@pytest.mark.parametrize("cached", [True, False])
def test_a_part_is_the_cut_of_the_whole(store: Store, cached: bool) -> None:
    for record in store.records[:3]:
        scan = StoredScan(store, record, Cache(1 << 20), cached, ALL, ALL)
        whole = scan.whole()
        plain = VolumeScan(SHAPE, lambda whole=whole: whole)  # type: ignore[misc]
        assert torch.equal(whole, torch.from_numpy(store.read_unit(record)) * 2 - 1)
        for axis in range(3):
            for start, stop in ((0, 1), (3, 6), (SHAPE[axis] - 2, SHAPE[axis])):
                part = scan.slices(axis, start, stop)
                torch.testing.assert_close(part, whole.narrow(axis, start, stop - start), rtol=0, atol=1e-6)
                assert torch.equal(plain.slices(axis, start, stop), whole.narrow(axis, start, stop - start))
        means = np.mean(whole.numpy().reshape(2, 4, 3, 4, 4, 4), axis=(1, 3, 5))
        np.testing.assert_allclose(scan.coarse(4), means, atol=1e-5)
        np.testing.assert_allclose(plain.coarse(4), means, atol=1e-5)


def test_slices_of_a_large_cohort_come_from_the_store_without_the_rest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    record = store.records[0]
    scan = StoredScan(store, record, Cache(0), cached=False, place=ALL, decoded=ALL)
    coarse = scan.coarse(4)
    monkeypatch.setattr(Store, "read_codes", lambda *_: pytest.fail("the whole scan was read"))
    assert scan.slices(1, 4, 6).shape == (8, 2, 16)
    assert torch.equal(scan.coarse(4), coarse), "kept"


def joined(examples: Examples) -> torch.Tensor:
    """Pieces and the channels that are known beside them, side by side."""
    known = examples.given.channels
    return examples.x_BCXYZ if known is None else torch.cat([examples.x_BCXYZ, known], dim=1)


@pytest.mark.parametrize("augment", [AugmentConfig(), AugmentConfig(rotation_degrees=10, flip_left_right=True)])
@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_slabs_of_a_batch_do_not_depend_on_ranks_or_cache(store: Store, augment: AugmentConfig, cache_gib: float) -> None:
    def batches(rank: int, world: int, **more: float) -> list[torch.Tensor]:
        config = StreamConfig(store="unused", shape=SHAPE, batch_size=4, augment=augment, **more)  # type: ignore[arg-type]
        with closing(Stream(store, "train", config, 3, rank, world, SLABS.cut)) as stream:
            return [joined(Examples(batch.x_BCXYZ, batch.given)) for batch in map(stream.batch, (0, 1, 5))]

    whole = batches(0, 1)
    assert whole[0].shape == (4, 1 + SLABS.known, 8, 12, 2)
    parts = [batches(rank, 2, cache_gib=cache_gib) for rank in (0, 1)]
    for number, expected in enumerate(whole):
        torch.testing.assert_close(torch.cat([part[number] for part in parts]), expected, rtol=0, atol=1e-6)
    assert not torch.equal(whole[0], whole[1])


def test_slabs_of_a_person_stay_on_one_side_of_the_split(store: Store) -> None:
    people = {name: {record.patient for record in store.split(name)} for name in ("train", "validation")}
    assert all(len(store.split(name)) == 2 * len(people[name]) > 0 for name in ("train", "validation"))
    assert not people["train"] & people["validation"]
    of = {record.id: record.patient for record in store.records}
    with closing(Stream(store, "train", StreamConfig(store="unused", shape=SHAPE), 0, cut=SLABS.cut)) as stream:
        assert {of[name] for step in range(10) for name in stream.batch(step).ids} == people["train"]


def test_validation_pieces_are_fixed(store: Store, tmp_path: Path) -> None:
    found = []
    for seed in (0, 9):
        with closing(Stream(store, "validation", StreamConfig(store="unused", shape=SHAPE), seed, cut=SLABS.cut)) as stream:
            found.append(joined(stream.validation_volumes(2, cuts=3)))
    assert found[0].shape == (6, 1 + SLABS.known, 8, 12, 2)
    assert torch.equal(found[0], found[1])
    assert len({tuple(piece.flatten()[:8].tolist()) for piece in found[0]}) > 3
