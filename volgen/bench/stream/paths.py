"""Ways from a file to a float tensor that a network could take, with and without augmentation: for ``volgen bench stream``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torchio as tio
from torch.nn.functional import avg_pool3d

from volgen.data.augment import AugmentConfig
from volgen.data.cache import Cache
from volgen.data.record import SubjectRecord
from volgen.data.scan import StoredScan
from volgen.data.store import Store
from volgen.data.stream import Stream, StreamConfig
from volgen.images.box import BoxConfig

AUGMENT = AugmentConfig(rotation_degrees=15.0, translation_mm=5.0, scale=0.1, flip_left_right=True)
RADIANS = 0.2618
AVERAGED = "means of level 0"
LOAD, PERSISTENT, CACHED = "MONAI LoadImage", "MONAI PersistentDataset", "MONAI CacheDataset"
Paths = dict[str, Callable[[int], Any]]


@contextmanager
def streams(places: Mapping[str, Path | str], records: Sequence[SubjectRecord]) -> Iterator[tuple[Paths, Paths]]:
    """Volgen's way, scan number i -> tensor, plain and augmented: nothing is cached, an example at a time."""
    opened = []
    plain: Paths = {}
    moved: Paths = {}
    for name, at in places.items():
        for found, augment in ((plain, AugmentConfig()), (moved, AUGMENT)):
            config = StreamConfig(store="", shape=records[0].shape, batch_size=1, workers=1, cache_gib=0.0, augment=augment)
            stream = Stream(Store(at, records), records[0].split, config, seed=0)
            opened.append(stream)
            found[f"volgen, {name}"] = lambda i, stream=stream: next(stream.examples([(records[i], 0, (i, 0))]))  # type: ignore[misc]
    yield plain, moved
    for stream in opened:
        stream.close()


def coarse_paths(folder: Path, places: Mapping[str, Path | str], records: Sequence[SubjectRecord], level: int) -> Paths:
    """Scan number i -> float tensor of a level: from the store's array of it; and from all voxels, as without one."""
    from monai.transforms import LoadImage

    files, load = _files(folder, len(records)), LoadImage(image_only=True, ensure_channel_first=True)
    edge = 2**level

    def read(at: Path | str, levels: int) -> Callable[[int], Any]:
        store = Store(at, [replace(record, levels=levels) for record in records])
        whole = BoxConfig.whole(records[0].shape)
        return lambda i: StoredScan(store, store.records[i], Cache(0), False, whole, whole).coarse(edge)

    return {
        **{f"volgen, {name}": read(at, level) for name, at in places.items()},
        AVERAGED: read(places["slices"], 0),
        f"{AVERAGED}, nibabel .nii.gz": lambda i: avg_pool3d(torch.tensor(_voxels(files[i]))[None, None], edge),
        f"{AVERAGED}, {LOAD}": lambda i: avg_pool3d(load(files[i])[None], edge),
    }


def _voxels(file: Path) -> Any:
    return nib.load(file).get_fdata(dtype=np.float32)  # type: ignore[attr-defined]


def plain_paths(folder: Path, count: int) -> Paths:
    """Scan number i -> float tensor, not augmented; the cached ones are filled here."""
    from monai.data import CacheDataset, PersistentDataset
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, ScaleIntensity

    files = _files(folder, count)
    load = LoadImage(image_only=True, ensure_channel_first=True)
    steps = Compose([LoadImage(image_only=True), EnsureChannelFirst(), ScaleIntensity(-1.0, 1.0)])
    (folder / "monai").mkdir()
    persistent = PersistentDataset(files, steps, cache_dir=folder / "monai")
    cached = CacheDataset(files, steps, progress=False, num_workers=1)
    subjects = tio.SubjectsDataset([tio.Subject(image=tio.ScalarImage(file)) for file in files], load_getitem=True)
    return {
        LOAD: lambda i: load(files[i]),
        PERSISTENT: lambda i: persistent[i],
        CACHED: lambda i: cached[i],
        "TorchIO SubjectsLoader": lambda i: next(iter(tio.SubjectsLoader(torch.utils.data.Subset(subjects, [i]), batch_size=1))),
    }


def moved_paths(folder: Path, count: int) -> Paths:
    """Scan number i -> augmented float tensor: the same ranges as volgen's, every volume moved."""
    from monai.data import CacheDataset
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, RandAffine, RandFlip

    files = _files(folder, count)
    pose = {"rotate_range": [RADIANS] * 3, "translate_range": [5.0] * 3, "scale_range": [0.1] * 3}
    random = [RandAffine(prob=1.0, padding_mode="zeros", **pose), RandFlip(prob=0.5, spatial_axis=0)]
    load = [LoadImage(image_only=True), EnsureChannelFirst()]
    monai = Compose([*load, random[0]])
    cached = CacheDataset(files, Compose([*load, *random]), progress=False, num_workers=1)
    affine = tio.RandomAffine(scales=0.1, degrees=15, translation=5, default_pad_value="minimum")
    torchio = tio.Compose([affine, tio.RandomFlip(axes=0)])
    return {
        f"{LOAD} + RandAffine": lambda i: monai(files[i]),
        f"{CACHED} + RandAffine": lambda i: cached[i],
        "TorchIO RandomAffine": lambda i: torchio(tio.Subject(image=tio.ScalarImage(files[i]))),
    }


def queue(folder: Path, count: int, block: int) -> Callable[[], Any]:
    """TorchIO's queue of random blocks, which reads a volume for every few of them; each call gives the next one."""
    subjects = tio.SubjectsDataset([tio.Subject(image=tio.ScalarImage(file)) for file in _files(folder, count)])
    patches = tio.Queue(subjects, max_length=16, samples_per_volume=8, sampler=tio.UniformSampler(block), num_workers=0)

    def forever() -> Iterator[Any]:
        while True:
            yield from tio.SubjectsLoader(patches, batch_size=1, num_workers=0)

    endless = forever()
    return lambda: next(endless)


def _files(folder: Path, count: int) -> list[Path]:
    return [folder / f"{number}.nii.gz" for number in range(count)]
