"""Batches are a function of (seed, step): of no rank, worker, cache or history."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from volgen.commands.ingest.ingest import ingest
from volgen.core.errors import UserError
from volgen.data.augment import AugmentConfig, RandomPose
from volgen.data.cache import Cache
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.piece import Piece
from volgen.data.store import Store
from volgen.data.stream import Batch, Stream, StreamConfig
from volgen.images.box import BoxConfig

SHAPE = (12, 14, 10)
MOVING = AugmentConfig(rotation_degrees=20, translation_mm=2, scale=0.1, flip_left_right=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("stream")
    (folder / "in").mkdir()
    for index in range(9):
        voxels = np.random.default_rng(index).integers(0, 900, SHAPE).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([2, 2, 2, 1.0])), folder / "in" / f"sub-{index}_T1w.nii")
    ingest(folder / "in", folder / "store", IngestConfig(shape=None, voxel_size=None, validation=0.3, test=0.0))
    opened = Store.open(folder / "store")
    assert len(opened.split("train")) >= 3 and len(opened.split("validation")) >= 2
    return opened


def config(**more: object) -> StreamConfig:
    return StreamConfig(**{"store": "unused", "shape": SHAPE, "batch_size": 4, **more})  # type: ignore[arg-type]


def batches(store: Store, steps: list[int], rank: int = 0, world: int = 1, seed: int = 5, **more: object) -> list[Batch]:
    with closing(Stream(store, "train", config(**more), seed, rank, world)) as stream:
        return [stream.batch(step) for step in steps]


def test_a_batch_holds_the_stores_voxels_in_model_range(store: Store) -> None:
    (batch,) = batches(store, [0])
    assert batch.x_BCXYZ.shape == (4, 1, *SHAPE) and batch.x_BCXYZ.dtype == torch.float32 and batch.positions == [0, 1, 2, 3]
    known = {record.id: record for record in store.records}
    for x_CXYZ, name in zip(batch.x_BCXYZ, batch.ids, strict=True):
        assert np.abs(x_CXYZ[0].numpy() - (store.read_unit(known[name]) * 2 - 1)).max() < 1e-6
        assert known[name].split == "train"


@pytest.mark.parametrize("augment", [AugmentConfig(), MOVING])
def test_ranks_together_see_the_batch_of_one(store: Store, augment: AugmentConfig) -> None:
    whole = batches(store, [0, 1, 7], augment=augment)
    for world in (2, 4):
        parts = [batches(store, [0, 1, 7], rank, world, augment=augment, workers=1 + rank % 2) for rank in range(world)]
        for number, one in enumerate(whole):
            assert torch.equal(torch.cat([part[number].x_BCXYZ for part in parts]), one.x_BCXYZ)
            assert [name for part in parts for name in part[number].ids] == one.ids
            assert [place for part in parts for place in part[number].positions] == one.positions


@pytest.mark.parametrize("augment", [AugmentConfig(), MOVING])
def test_resuming_and_jumping_give_the_same_batches(store: Store, augment: AugmentConfig) -> None:
    straight = batches(store, list(range(6)), augment=augment)
    resumed = batches(store, [4, 5, 1, 4], augment=augment, workers=3, cache_gib=0.0)
    for one, other in zip([straight[4], straight[5], straight[1], straight[4]], resumed, strict=True):
        assert torch.equal(one.x_BCXYZ, other.x_BCXYZ) and one.ids == other.ids


def test_every_epoch_visits_everybody_once_in_its_own_order(store: Store) -> None:
    people = len(store.split("train"))
    order = [name for batch in batches(store, list(range(3 * people)), batch_size=1) for name in batch.ids]
    epochs = [order[i * people : (i + 1) * people] for i in range(3)]
    assert all(Counter(epoch) == Counter(r.id for r in store.split("train")) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert [name for batch in batches(store, list(range(people)), batch_size=1, seed=6) for name in batch.ids] != epochs[0]
    # The same sequence, whatever the batch size.
    assert [name for batch in batches(store, list(range(people)), batch_size=3) for name in batch.ids] == order


def test_passes_over_a_split(store: Store) -> None:
    with closing(Stream(store, "validation", config(), 0)) as stream:
        volumes = list(stream.volumes())
        chosen = stream.validation_volumes(100).x_BCXYZ
        assert len(volumes) == len(stream) == len(store.split("validation")) == len(chosen)
        assert all(volume.shape == SHAPE and float(volume.min()) >= -1 and float(volume.max()) <= 1 for volume in volumes)
        assert torch.equal(chosen[:, 0], torch.stack(volumes))
    with closing(Stream(store, "validation", config(augment=MOVING, cache_gib=0.0), 99)) as other:
        assert torch.equal(other.validation_volumes(2).x_BCXYZ, stream_of(store).validation_volumes(2).x_BCXYZ)


def stream_of(store: Store) -> Stream:
    return Stream(store, "validation", config(), 0)


def test_augmentation_leaves_the_global_generator_alone(store: Store) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = batches(store, [0, 1], augment=MOVING)
    assert torch.equal(torch.get_rng_state(), before)
    assert float(first.x_BCXYZ.min()) >= -1 and float(first.x_BCXYZ.max()) <= 1 + 1e-6
    plain = batches(store, [0], augment=AugmentConfig())[0]
    assert plain.ids == first.ids and not torch.equal(plain.x_BCXYZ, first.x_BCXYZ)
    assert not torch.equal(first.x_BCXYZ, second.x_BCXYZ)


def test_flips_mirror_left_and_right_only(store: Store) -> None:
    flipped = 0
    for step in range(6):
        (moved,) = batches(store, [step], augment=AugmentConfig(flip_left_right=True))
        (plain,) = batches(store, [step])
        for one, other in zip(moved.x_BCXYZ, plain.x_BCXYZ, strict=True):
            mirrored = torch.equal(one, other.flip(1))
            assert mirrored or torch.equal(one, other)
            flipped += mirrored
    assert 4 <= flipped <= 20


def test_rotation_is_about_the_centre_and_fills_with_the_minimum() -> None:
    volume = torch.full((21, 21, 21), -1.0)
    volume[8:13, 8:13, 8:13] = 1.0
    moved = RandomPose(AugmentConfig(rotation_degrees=30)).moved(Piece.of(volume), BoxConfig.whole((21, 21, 21)), np.eye(4), 0, 1, 2)
    assert float(moved.min()) == -1.0 and not torch.equal(moved, volume)
    weights = moved + 1
    centre = [float((weights.sum(dim=[a for a in range(3) if a != axis]) * torch.arange(21)).sum() / weights.sum()) for axis in range(3)]
    assert centre == pytest.approx([10, 10, 10], abs=0.05)


def test_the_cache_keeps_within_its_limit_and_its_order(store: Store) -> None:
    size = int(np.prod(SHAPE)) * 2

    def codes(cache: Cache, number: int) -> Any:
        return cache.get(number, lambda: store.read_codes(store.records[number]))

    cache = Cache(2 * size)
    held = codes(cache, 0)
    codes(cache, 1)
    assert codes(cache, 0) is held
    codes(cache, 2)  # 1 is now the least recently used
    assert cache.held_bytes == 2 * size and codes(cache, 0) is held
    with pytest.raises(ValueError, match="read-only"):
        held[0, 0, 0] = 1
    nothing = Cache(0)
    assert np.array_equal(codes(nothing, 0), held) and nothing.held_bytes == 0


def test_misfits_are_refused(store: Store) -> None:
    with pytest.raises(UserError, match=r"data\.shape"):
        Stream(store, "train", config(shape=(8, 8, 8)), 0)
    with pytest.raises(UserError, match="multiple of 3"):
        Stream(store, "train", config(), 0, 0, 3)
    with pytest.raises(UserError, match="nobody in its test split"):
        Stream(store, "test", config(), 0)
