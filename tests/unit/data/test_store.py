"""A store is OME-Zarr and NIfTI-Zarr for other libraries, and damage is found when it is read."""

from __future__ import annotations

import itertools
import json
import resource
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tensorstore
import zarr

from volgen.commands.ingest.ingest import ingest
from volgen.core.errors import UserError
from volgen.core.files import fingerprint
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.layout import PACKINGS, chunk_shape
from volgen.data.record import UNCOUNTED
from volgen.data.store import Store, _parts

SHAPE = (40, 70, 33)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two scans, the second a little larger in range, both oblique."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "in").mkdir()
    affine = np.array([[1.2, 0.2, 0, -20], [-0.2, 1.2, 0, -30], [0, 0, 1.5, -10], [0, 0, 0, 1.0]])
    for index in range(2):
        voxels = np.random.default_rng(index).gamma(2.0, 100.0 * (index + 1), SHAPE).astype(np.float32)
        voxels[:, :35] = 0.0  # whole chunks of zeros: they too must be stored
        nib.save(nib.Nifti1Image(voxels, affine), folder / "in" / f"sub-{index}_T1w.nii.gz")
    ingest(folder / "in", folder / "store", IngestConfig(shape=None, voxel_size=None))
    return folder / "store"


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "store"))


def test_reads_agree_with_each_other_and_with_zarr(made: Path) -> None:
    store = Store.open(made)
    for record in store.records:
        codes = store.read_codes(record)
        with_zarr = zarr.open_group(str(made / record.id), mode="r")["0"]
        assert isinstance(with_zarr, zarr.Array) and with_zarr.shape == SHAPE[::-1]
        assert np.array_equal(codes, np.asarray(with_zarr[...]).T) and codes.flags.f_contiguous
        for out in (np.zeros(SHAPE, np.uint16), store.buffer(record)):
            assert store.read_codes(record, out=out) is out and np.array_equal(out, codes)
        volume = store.read(record)
        assert np.array_equal(volume.voxels, (codes.astype(np.float64) * record.slope + record.inter).astype(np.float32))
        unit = store.read_unit(record)
        assert unit.dtype == np.float32 and unit.min() == 0.0 and unit.max() == 1.0
        assert np.abs(unit - record.intensity.to_unit(volume.voxels)).max() < 1e-5
        for axis in range(3):
            window = [slice(None)] * 3
            window[axis] = slice(5, 9)
            assert np.array_equal(store.read_slices(record, axis, 5, 9), unit[tuple(window)])
        assert np.array_equal(store.read_block(record, (3, 30, 0), (20, 40, 33)), unit[3:23, 30:])
        store.verify(record)
    assert store.shape == SHAPE and len(store.split("train")) + len(store.split("validation")) + len(store.split("test")) == 2


def test_wrong_buffers_and_windows_are_refused(made: Path) -> None:
    store = Store.open(made)
    with pytest.raises(ValueError, match="buffer is"):
        store.read_codes(store.records[0], out=np.zeros(SHAPE, np.uint8))
    with pytest.raises(ValueError, match="outside"):
        store.read_slices(store.records[0], 2, 30, 34)
    with pytest.raises(ValueError, match="outside"):
        store.read_block(store.records[0], (0, 0, 30), (5, 5, 5))
    with pytest.raises(UserError, match="one of train"):
        store.split("holdout")  # type: ignore[arg-type]


def test_new_arrays_and_buffers_may_be_written_and_are_nobody_elses(made: Path) -> None:
    store = Store.open(made)
    record = store.records[0]
    one, two, part = store.read_codes(record), store.read_codes(record), store.read_window(record, [slice(1, 3), slice(0, 2), slice(2, 3)])
    for codes in (one, two, part):
        assert codes.flags.writeable and codes.flags.f_contiguous
    assert not np.shares_memory(one, two) and not np.shares_memory(one, part)
    before = two.copy()
    one[:] = 0
    part[:] = 0
    assert np.array_equal(two, before) and np.array_equal(store.read_codes(record), before)
    buffer = store.buffer(record)
    assert buffer.ctypes.data % 64 == 0, "rows of a chunk lie in one cache line"
    assert buffer.shape == record.shape and buffer.flags.f_contiguous
    buffer.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        store.read_codes(record, buffer)
    crooked = np.zeros(before.nbytes + 1, np.uint8)[1:].view(np.uint16).reshape(SHAPE, order="F")
    with pytest.raises(ValueError, match="does not begin at a multiple of 2 bytes"):
        store.read_codes(record, crooked)


@pytest.fixture(scope="module")
def tall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one scan with three rows of chunks along z, which several threads copy."""
    folder = tmp_path_factory.mktemp("tall")
    (folder / "in").mkdir()
    voxels = np.random.default_rng(5).gamma(2.0, 100.0, (70, 30, 150)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / "in" / "sub-0_T1w.nii.gz")
    ingest(folder / "in", folder / "store", IngestConfig(shape=None, voxel_size=None))
    return folder / "store"


@pytest.mark.parametrize("copiers", [0, 1, 2, 3, 8])
def test_any_number_of_threads_fills_a_buffer_with_the_same_codes(tall: Path, copiers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [tensorstore.Context({"data_copy_concurrency": {"limit": 1}}) for _ in range(copiers)]
    monkeypatch.setattr("volgen.data.place.COPIERS", alone)
    monkeypatch.setattr("volgen.data.place.Local.copiers", copiers)
    store = Store.open(tall)
    (record,) = store.records
    out = store.buffer(record)
    out[:] = 1
    assert store.read_codes(record, out) is out
    opened = {copier for _, copier, _ in store._arrays}
    assert opened == {None} if copiers == 0 else len(opened) == min(copiers, 3), "three rows of chunks, each for a thread of its own"
    assert np.array_equal(out, store.read_codes(record))
    shard = tall / record.id / "0" / "c" / "0" / "0" / "0"
    intact = shard.read_bytes()
    try:
        for at in (len(intact) // 5, len(intact) * 4 // 5):  # in the part of the first thread, in that of the last
            shard.write_bytes(intact[:at] + bytes([intact[at] ^ 1]) + intact[at + 1 :])
            with pytest.raises(UserError, match=r"subject sub-0 .*is damaged"):
                store.read_codes(record, out)
    finally:
        shard.write_bytes(intact)


def test_parts_are_whole_chunks_and_miss_nothing() -> None:
    for length, chunk, most in itertools.product((1, 63, 64, 65, 150, 256), (1, 16, 50, 64, 300), (1, 2, 3, 8)):
        parts = _parts(length, chunk, most)
        assert [at for part in parts for at in range(part.start, part.stop)] == list(range(length))
        assert 1 <= len(parts) <= most and all(part.start % chunk == 0 for part in parts)


def test_a_fault_that_is_not_the_files_tells_nobody_to_delete_it(made: Path) -> None:
    store = Store.open(made)
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    store.read_codes(store.records[0])
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        with pytest.raises(UserError, match="cannot be read") as refusal:
            store.read_codes(store.records[0])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    assert "delete" not in str(refusal.value).lower() and "RESOURCE_EXHAUSTED" in str(refusal.value)


def test_layout_is_one_shard_with_checked_chunks_all_stored(made: Path) -> None:
    array = made / "sub-0" / "0"
    assert [p.relative_to(array).as_posix() for p in sorted(array.rglob("*")) if p.is_file()] == ["c/0/0/0", "zarr.json"]
    metadata = json.loads((array / "zarr.json").read_text())
    (sharding,) = metadata["codecs"]
    names = [codec["name"] for codec in sharding["configuration"]["codecs"]]
    assert sharding["name"] == "sharding_indexed" and names == ["bytes", "blosc", "crc32c"]
    assert metadata["dimension_names"] == ["z", "y", "x"]
    inner = sharding["configuration"]["chunk_shape"]
    assert inner == list(chunk_shape(SHAPE))[::-1]
    # The shard ends in an index of (offset, length) pairs and its checksum; an absent chunk has all bits set.
    count = int(np.prod([-(-n // c) for n, c in zip(SHAPE[::-1], inner, strict=True)]))
    index = np.frombuffer((array / "c/0/0/0").read_bytes()[-(16 * count + 4) : -4], "<u8")
    assert (index != 2**64 - 1).all()


def test_the_layout_for_volumes_holds_the_same_cohort_in_whole_slices(made: Path, tmp_path: Path) -> None:
    ingest(made.parent / "in", tmp_path / "store", IngestConfig(shape=None, voxel_size=None, layout="volumes"))
    store, other = Store.open(tmp_path / "store"), Store.open(made)
    assert store.fingerprint == other.fingerprint
    for record in store.records:
        store.verify(record)
        assert np.array_equal(store.read_slices(record, 0, 3, 8), other.read_slices(record, 0, 3, 8))
    (sharding,) = json.loads((tmp_path / "store" / "sub-0" / "0" / "zarr.json").read_text())["codecs"]
    assert sharding["configuration"]["chunk_shape"] == list(SHAPE)[::-1]  # all of it is below 1 MiB
    assert PACKINGS["volumes"].inner((256, 256, 256), 1) == (16, 256, 256)
    assert PACKINGS["volumes"].inner((181, 288, 288), 2) == (6, 288, 288)
    with pytest.raises(UserError, match="layout was volumes, now slices"):
        ingest(made.parent / "in", tmp_path / "store", IngestConfig(shape=None, voxel_size=None))


def test_a_store_that_is_older_than_the_choice_of_layout_goes_on(made: Path, store: Path) -> None:
    content = json.loads((store / "zarr.json").read_text())
    assert content["attributes"]["volgen"]["settings"].pop("layout") == "slices"
    (store / "zarr.json").write_text(json.dumps(content))
    ingest(made.parent / "in", store, IngestConfig(shape=None, voxel_size=None))


def test_chunks_divide_evenly() -> None:
    assert chunk_shape((256, 256, 256)) == (64, 64, 64)
    assert chunk_shape((96, 112, 48)) == (48, 56, 48)
    assert chunk_shape((181, 65, 1)) == (61, 33, 1)


def test_other_libraries_open_it(made: Path) -> None:
    store = Store.open(made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from niizarr import zarr2nii
        from ome_zarr.io import parse_url
        from ome_zarr.reader import Reader
        from ome_zarr_models.v05.image import Image

        for record in store.records:
            group = zarr.open_group(str(made / record.id), mode="r")
            dataset = Image.from_zarr(group).ome_attributes.multiscales[0].datasets[0]
            assert dataset.coordinateTransformations[0].scale == pytest.approx(list(record.voxel_size[::-1]))
            location = parse_url(made / record.id)
            assert location is not None
            (node,) = list(Reader(location)())
            assert np.array_equal(np.asarray(node.data[0]).T, store.read_codes(record))
            image = zarr2nii(str(made / record.id))
            assert np.abs(image.header.get_best_affine() - record.affine).max() < 1e-5
            assert image.header.get_xyzt_units() == ("mm", "sec")
            # zarr2nii maps the stored codes; the stored header has what turns them into scanner units.
            stored = nib.Nifti1Header(np.asarray(group["nifti"]).tobytes())
            slope, inter = float(stored["scl_slope"]), float(stored["scl_inter"])
            codes = np.asarray(image.dataobj)
            assert np.abs(codes * slope + inter - store.read(record).voxels).max() < 1e-3


def remove(shard: Path) -> None:
    shard.unlink()


def truncate(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-1000])


def halve(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])


def empty(shard: Path) -> None:
    shard.write_bytes(b"")


def flip(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 0x10
    shard.write_bytes(bytes(data))


def flip_index(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[-20] ^= 0x01
    shard.write_bytes(bytes(data))


def forget_a_chunk(shard: Path) -> None:
    """A valid index that says the first chunk was never written: the silent zeros of most readers."""
    data = bytearray(shard.read_bytes())
    count = int(np.prod([-(-n // c) for n, c in zip(SHAPE, chunk_shape(SHAPE), strict=True)]))
    start = len(data) - 16 * count - 4
    data[start : start + 16] = b"\xff" * 16
    from google_crc32c import value

    data[-4:] = value(bytes(data[start:-4])).to_bytes(4, "little")
    shard.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [remove, truncate, halve, empty, flip, flip_index, forget_a_chunk])
def test_a_damaged_shard_names_the_subject(store: Path, damage: Callable[[Path], None]) -> None:
    damage(store / "sub-1" / "0" / "c" / "0" / "0" / "0")
    opened = Store.open(store)
    good, bad = opened.records
    opened.verify(good)
    for read in (opened.read, opened.read_unit, opened.read_codes, lambda r: opened.read_slices(r, 1, 0, SHAPE[1])):
        with pytest.raises(UserError, match=r"subject sub-1 of .*its data is"):
            read(bad)


def test_damaged_array_metadata_names_the_subject(store: Path) -> None:
    (store / "sub-0" / "0" / "zarr.json").write_text("{")
    opened = Store.open(store)
    with pytest.raises(UserError, match="subject sub-0"):
        opened.read(opened.records[0])


def test_exchanged_voxels_are_found_by_verify(store: Path) -> None:
    shutil.copy(store / "sub-1" / "0" / "c" / "0" / "0" / "0", store / "sub-0" / "0" / "c" / "0" / "0" / "0")
    opened = Store.open(store)
    with pytest.raises(UserError, match=r"subject sub-0.*not those that were ingested"):
        opened.verify(opened.records[0])


def test_what_is_not_a_finished_store_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        Store.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no manifest\.json;"):
        Store.open(store / "sub-0" / "0" / "c")
    content = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps({**content, "people": "bids" if content["people"] != "bids" else "files"}))
    with pytest.raises(UserError, match="was changed: its seal"):
        Store.open(store)
    content["subjects"][0]["split"] = "test" if content["subjects"][0]["split"] == "train" else "train"
    (store / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="was changed"):
        Store.open(store)
    del content["subjects"][0]["affine"]
    (store / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="another form"):
        Store.open(store)
    (store / "manifest.json").unlink()
    with pytest.raises(UserError, match="did not finish"):
        Store.open(store)


def changed(store: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """A manifest that says something else, with a fingerprint that fits."""
    content = json.loads((store / "manifest.json").read_text())
    change(content["subjects"])
    subjects = [{key: value for key, value in subject.items() if key not in UNCOUNTED} for subject in content["subjects"]]
    content["fingerprint"] = fingerprint(subjects)
    (store / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda first: first["affine"][0].__setitem__(0, 1e300),
        lambda first: first["affine"].__setitem__(3, [5.0, 5.0, 5.0, 5.0]),
        lambda first: first["affine"].__setitem__(1, first["affine"][0]),
        lambda first: first["affine"].__setitem__(0, [0.0, 0.0, 0.0, 0.0]),
        lambda first: first["codes"].__setitem__("dtype", "foo"),
        lambda first: first["codes"].__setitem__("dtype", ["uint8"]),
        *(lambda first, code=code: first["source"].__setitem__("orientation", code) for code in ("XYZ", "", "RA", "LIAx", "RRR", "RLA")),
        lambda first: first.__setitem__("shape", [65536] * 3),
        lambda first: first.__setitem__("shape", [-4, 4, 4]),
        lambda first: first["source"].__setitem__("shape", [0, 4, 4]),
        lambda first: first["intensity"].__setitem__("low", 10**400),
    ],
)
def test_a_manifest_that_no_ingest_wrote_is_refused_when_it_is_opened(store: Path, change: Callable[[dict[str, Any]], None]) -> None:
    changed(store, lambda subjects: change(subjects[0]))
    with pytest.raises(UserError, match=r"manifest\.json: its subjects have another form"):
        Store.open(store)


def test_a_cohort_without_scans_with_one_twice_or_with_a_person_in_two_splits_is_refused(store: Path, made: Path) -> None:
    splits = {record.split for record in Store.open(store).records}
    other = next(split for split in ("train", "validation", "test") if split not in splits)

    def same_person(subjects: list[dict[str, Any]]) -> None:
        subjects[1] |= {"patient": subjects[0]["patient"], "split": other}

    for change, message in (
        (list.clear, "lists no scan"),
        (lambda subjects: subjects.append(subjects[0]), "lists a scan twice"),
        (same_person, "has a person in two splits"),
    ):
        shutil.copy(made / "manifest.json", store / "manifest.json")
        changed(store, change)
        with pytest.raises(UserError, match=message):
            Store.open(store)


def test_arrays_that_were_closed_are_opened_again(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volgen.data.place.Local.most", 1)
    store = Store.open(made)
    for record in (*store.records, *store.records):
        store.verify(record)
        store.read_codes(record, store.buffer(record))
        assert len(store._arrays) == 1


def test_tensorstore_is_told_not_to_invent_data(made: Path) -> None:
    """The default of the library would read a missing shard as zeros; this is what the setting is for."""
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{made}/sub-0/0/"}, "fill_missing_data_reads": False}
    assert tensorstore.open(spec).result().shape == SHAPE[::-1]
