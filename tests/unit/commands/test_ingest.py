"""Ingest as a user meets it: bad inputs, reruns, kills, splits and privacy."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import zarr

from volgen.commands.ingest.ingest import _pool, ingest
from volgen.core.errors import UserError
from volgen.core.files import UNFINISHED
from volgen.core.lock import Lock
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.ingest.subject import COARSER, PARTS
from volgen.data.record import split_of
from volgen.data.store import Store

CONFIG = IngestConfig(shape=(16, 18, 16), voxel_size=2.0)
AFFINE = np.diag([-1.0, 1.0, 2.0, 1.0])


def scan(path: Path, seed: int = 0) -> Path:
    """A small head-like blob with noise, as int16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (28, 30, 14)], indexing="ij"))
    blob = 800 * ((grid**2).sum(0) < 0.6) + np.random.default_rng(seed).normal(0, 20, (28, 30, 14))
    nib.save(nib.Nifti1Image(blob.clip(0).astype(np.int16), AFFINE), path)
    return path


def people(folder: Path, count: int) -> Path:
    for index in range(count):
        scan(folder / f"sub-{index:02d}" / "anat" / f"sub-{index:02d}_T1w.nii.gz", index)
    return folder


def content(store: Path) -> dict[str, bytes]:
    """Every file but the manifest's clock and memory, and the seal over them."""
    files = {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}
    manifest = json.loads(files["manifest.json"])
    for varying in ("wall_seconds", "peak_memory_bytes", "git_revision", "seal"):
        manifest.pop(varying)
    return {**files, "manifest.json": json.dumps(manifest, sort_keys=True).encode()}


def test_what_comes_next_is_a_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scan(tmp_path / "in" / "sub-1_T1w.nii.gz")
    ingest(tmp_path / "in", tmp_path / "my store", CONFIG)
    assert f"Next: volgen train --config CONFIG.yaml --name NAME --data.store '{tmp_path / 'my store'}'" in capfd.readouterr().err


def test_a_bids_tree_becomes_a_store_with_a_manifest(tmp_path: Path) -> None:
    summary = ingest(people(tmp_path / "in", 5), tmp_path / "store", CONFIG)
    store = Store.open(tmp_path / "store")
    assert store.shape == CONFIG.shape and [r.id for r in store.records] == [f"sub-{i:02d}" for i in range(5)]
    assert summary.left_out == () and sum(summary.splits.values()) == 5 and summary.resumed == 0
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert manifest["stage"] == "ingest" and manifest["fingerprint"] == store.fingerprint
    assert {"id", "split", "affine", "voxel_size", "intensity", "checksum"} <= set(manifest["subjects"][0])
    assert str(tmp_path) not in json.dumps(manifest), "absolute paths do not belong in a store"
    assert not [p.name for p in (tmp_path / "store").iterdir() if p.name.startswith(".partial")]


def test_workers_change_nothing(tmp_path: Path) -> None:
    people(tmp_path / "in", 4)
    scan(tmp_path / "in" / "sub-09" / "anat" / "sub-09_T1w.nii.gz").write_bytes(b"")
    for workers in (1, 2):
        ingest(tmp_path / "in", tmp_path / str(workers), CONFIG, workers=workers)
    assert content(tmp_path / "1") == content(tmp_path / "2")


def spoil(folder: Path) -> dict[str, str]:
    """Unusable scans of every kind; relative path -> a word of the reason."""

    def save(name: str, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> None:
        nib.save(nib.Nifti1Image(voxels, affine), folder / name)

    some = np.random.default_rng(1).normal(size=(8, 9, 10)).astype(np.float32)
    hole, sheared, stretched = some.copy(), AFFINE.copy(), AFFINE.copy()
    hole[3, 3, 3] = np.nan
    sheared[0, 1], stretched[:3, 2] = 0.4, 0.0
    folder.mkdir(parents=True, exist_ok=True)
    save("nan.nii.gz", hole)
    save("constant.nii.gz", np.full((8, 9, 10), 7, np.int16))
    save("zeros.nii.gz", np.zeros((8, 9, 10), np.int16))
    save("series.nii.gz", np.stack([some] * 4, -1))
    save("slice.nii.gz", some[..., :1])
    save("sheared.nii.gz", some, sheared)
    nib.save(nib.Nifti1Image(some, AFFINE), folder / "flat_voxel.nii")
    data = bytearray((folder / "flat_voxel.nii").read_bytes())
    data[280:328] = np.vstack([stretched[:3]]).astype("<f4").tobytes()
    (folder / "flat_voxel.nii").write_bytes(bytes(data))
    scan(folder / "cut.nii.gz")
    (folder / "cut.nii.gz").write_bytes((folder / "cut.nii.gz").read_bytes()[:-50])
    (folder / "empty.nii.gz").write_bytes(b"")
    (folder / "text.nii").write_text("hello " * 200)
    data[42:48] = np.array([20000, 20000, 20000], "<i2").tobytes()
    (folder / "absurd.nii.gz").write_bytes(gzip.compress(bytes(data)))
    scan(folder / "sub-a_T1w.nii.gz", 5)
    shutil.copy(folder / "sub-a_T1w.nii.gz", folder / "sub-b_T1w.nii.gz")
    same = nib.load(folder / "sub-a_T1w.nii.gz")
    nib.save(nib.as_closest_canonical(nib.Nifti1Image(np.asarray(same.dataobj), same.affine)), folder / "sub-c_T1w.nii")
    return {
        "nan.nii.gz": "1 NaN",
        "constant.nii.gz": "constant",
        "zeros.nii.gz": "empty",
        "series.nii.gz": "4D",
        "slice.nii.gz": "2D",
        "sheared.nii.gz": "sheared",
        "flat_voxel.nii": "voxel size of zero",
        "cut.nii.gz": "truncated",
        "empty.nii.gz": "empty file",
        "text.nii": "not NIfTI",
        "absurd.nii.gz": "20000 x 20000 x 20000",
        "sub-b_T1w.nii.gz": "duplicate",
        "sub-c_T1w.nii": "duplicate",
    }


def test_bad_inputs_are_named_and_the_rest_is_ingested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = spoil(tmp_path / "in")
    scan(tmp_path / "in" / "sub-good_T1w.nii.gz", 9)
    summary = ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    assert [record.id for record in summary.records] == ["sub-a", "sub-good"]
    listed = {item["source"]: item["reason"] for item in json.loads((tmp_path / "store" / "manifest.json").read_text())["left_out"]}
    assert set(listed) == set(expected)
    shown = capsys.readouterr().err
    for name, word in expected.items():
        assert word in listed[name], f"{name}: {listed[name]}"
        assert f"left out: {name}" in shown
    assert sorted(p.name for p in (tmp_path / "store").iterdir() if p.is_dir()) == ["sub-a", "sub-good"]
    # A second run finds the same and changes nothing.
    before = content(tmp_path / "store")
    again = ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    assert again.resumed == 2 and content(tmp_path / "store") == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    people(tmp_path / "in", 2)
    (tmp_path / "in/sub-01/anat/sub-01_T1w.nii.gz").chmod(0)
    assert "Permission denied" in ingest(tmp_path / "in", tmp_path / "store", CONFIG).left_out[0].reason


def test_a_dangling_link_is_left_out_by_name(tmp_path: Path) -> None:
    people(tmp_path / "in", 1)
    (tmp_path / "in" / "sub-00" / "anat" / "sub-00_run-2_T1w.nii.gz").symlink_to(tmp_path / "gone")
    summary = ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    assert len(summary.records) == 1
    assert [(item.source, item.reason[:9]) for item in summary.left_out] == [("sub-00/anat/sub-00_run-2_T1w.nii.gz", "is a link")]


@pytest.mark.parametrize("piped", [False, True])
def test_a_script_needs_no_guard_for_workers(tmp_path: Path, piped: bool) -> None:
    """``multiprocessing`` imports the script into every worker, which would ingest again, and finds none that comes from a pipe."""
    people(tmp_path / "in", 3)
    lines = "import volgen\nprint('once')\nvolgen.ingest('in', 'store', shape=(16, 18, 16), voxel_size=2, workers=2)\n"
    (tmp_path / "script.py").write_text(lines)
    words = [sys.executable, "-" if piped else "script.py"]
    done = subprocess.run(words, cwd=tmp_path, input=lines if piped else None, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "once\n" and len(Store.open(tmp_path / "store").records) == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_strict_stops_at_the_first_bad_input(tmp_path: Path, workers: int) -> None:
    people(tmp_path / "in", 2)
    (tmp_path / "in/sub-01/anat/sub-01_T1w.nii.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"sub-01/anat/sub-01_T1w\.nii\.gz: is an empty file"):
        ingest(tmp_path / "in", tmp_path / "store", CONFIG, workers=workers, strict=True)
    with pytest.raises(UserError, match="did not finish"):
        Store.open(tmp_path / "store")


def test_strict_refuses_duplicates(tmp_path: Path) -> None:
    scan(tmp_path / "in" / "sub-1_T1w.nii.gz")
    shutil.copy(tmp_path / "in" / "sub-1_T1w.nii.gz", tmp_path / "in" / "sub-2_T1w.nii.gz")
    with pytest.raises(UserError, match=r"sub-2_T1w.*duplicate.*sub-1_T1w"):
        ingest(tmp_path / "in", tmp_path / "store", CONFIG, strict=True)


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    scan(tmp_path / "in" / "a.nii").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of 1 scans can be used; the first, a\.nii, is an empty file"):
        ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    with pytest.raises(UserError, match="at least 1"):
        ingest(tmp_path / "in", tmp_path / "store", CONFIG, workers=0)


DYING = """
import os, signal, sys
from pathlib import Path
import volgen.data.ingest.subject as subject
from volgen.data.ingest.preprocess import IngestConfig
from volgen.commands.ingest.ingest import _pool, ingest
write, written = subject.write_group, []
def dying(folder, *rest):
    write(folder, *rest)
    written.append(folder)
    if len(written) == 3:  # whole, but not renamed yet; and half of the next
        (folder / "0" / "c" / "0" / "0" / "0").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
subject.write_group = dying
ingest(Path(sys.argv[1]), Path(sys.argv[2]), IngestConfig(shape=(16, 18, 16), voxel_size=2.0))
"""


def test_a_killed_ingest_resumes_to_the_same_store(tmp_path: Path) -> None:
    people(tmp_path / "in", 5)
    killed = subprocess.run([sys.executable, "-c", DYING, tmp_path / "in", tmp_path / "store"], capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    left = {p.name for p in (tmp_path / "store").iterdir()}
    assert left >= {"sub-00", "sub-01"} and any(name.startswith(UNFINISHED) for name in left)
    (tmp_path / "store" / ".partial-sub-02").mkdir()  # of volgen 0.1.0
    with pytest.raises(UserError, match=r"did not finish.*resume"):
        Store.open(tmp_path / "store")
    before = (tmp_path / "store/sub-00/0/c/0/0/0").stat().st_mtime_ns
    assert ingest(tmp_path / "in", tmp_path / "store", CONFIG).resumed == 2
    assert (tmp_path / "store/sub-00/0/c/0/0/0").stat().st_mtime_ns == before
    ingest(tmp_path / "in", tmp_path / "undisturbed", CONFIG)
    assert content(tmp_path / "store") == content(tmp_path / "undisturbed")


def test_other_settings_files_or_sources_are_refused(tmp_path: Path) -> None:
    people(tmp_path / "in", 3)
    ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    with pytest.raises(UserError, match=r"other settings: voxel_size was 2\.0, now 3\.0"):
        ingest(tmp_path / "in", tmp_path / "store", CONFIG.model_copy(update={"voxel_size": 3.0}))
    shutil.rmtree(tmp_path / "in" / "sub-02")
    with pytest.raises(UserError, match="holds sub-02, which"):
        ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    people(tmp_path / "in", 3)
    scan(tmp_path / "in/sub-01/anat/sub-01_T1w.nii.gz", seed=77)
    with pytest.raises(UserError, match=r"subject sub-01 .*another file"):
        ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not a store"):
        ingest(tmp_path / "in", tmp_path / "other", CONFIG)
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def test_a_store_of_an_older_version_goes_on_with_its_resampling(tmp_path: Path) -> None:
    people(tmp_path / "in", 2)
    ingest(tmp_path / "in", tmp_path / "store", CONFIG.model_copy(update={"resampling": "linear"}))
    root = tmp_path / "store" / "zarr.json"
    begun = json.loads(root.read_text())
    for key in ("resampling", "bias", "registration", "window"):  # an older version did not know of them
        begun["attributes"]["volgen"]["settings"].pop(key)
    root.write_text(json.dumps(begun))
    people(tmp_path / "in", 3)
    assert ingest(tmp_path / "in", tmp_path / "store", CONFIG).resumed == 2
    ingest(tmp_path / "in", tmp_path / "linear", CONFIG.model_copy(update={"resampling": "linear"}))
    ingest(tmp_path / "in", tmp_path / "sharp", CONFIG)
    stores = {name: Store.open(tmp_path / name) for name in ("store", "linear", "sharp")}
    assert stores["store"].fingerprint == stores["linear"].fingerprint != stores["sharp"].fingerprint
    assert [stores[name].settings["resampling"] for name in stores] == ["linear", "linear", "sharp"]
    with pytest.raises(UserError, match="other settings: resampling was linear, now sharp"):
        ingest(tmp_path / "in", tmp_path / "store", CONFIG.model_copy(update={"resampling": "sharp"}))


def test_adding_people_moves_nobody(tmp_path: Path) -> None:
    people(tmp_path / "in", 4)
    ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    before = {r.id: r.to_dict() for r in Store.open(tmp_path / "store").records}
    people(tmp_path / "in", 9)
    assert ingest(tmp_path / "in", tmp_path / "store", CONFIG).resumed == 4
    after = {r.id: r.to_dict() for r in Store.open(tmp_path / "store").records}
    assert len(after) == 9 and {name: after[name] for name in before} == before


def test_a_deleted_subject_is_replaced(tmp_path: Path) -> None:
    people(tmp_path / "in", 3)
    ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    before = content(tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "sub-01")
    ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    assert content(tmp_path / "store") == before


def test_all_scans_of_a_person_share_a_split_and_shares_come_out_right(tmp_path: Path) -> None:
    for session in range(6):
        scan(tmp_path / "in" / "sub-x" / f"ses-{session}" / "anat" / f"sub-x_ses-{session}_T1w.nii.gz", session)
    ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    assert len({record.split for record in Store.open(tmp_path / "store").records}) == 1
    shares = [split_of(f"sub-{i}", 0.1, 0.2) for i in range(4000)]
    assert shares.count("validation") / 4000 == pytest.approx(0.1, abs=0.02)
    assert shares.count("test") / 4000 == pytest.approx(0.2, abs=0.02)


def test_an_empty_split_and_a_cut_head_are_said_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people(tmp_path / "in", 2)
    summary = ingest(tmp_path / "in", tmp_path / "store", IngestConfig(shape=(8, 8, 8), voxel_size=2.0, validation=0.0))
    shown = capsys.readouterr().err
    assert any("validation split is empty" in warning for warning in summary.warnings) and "validation split is empty" in shown
    assert any("2 of 2 scans have less than 99% of the foreground inside the grid" in warning for warning in summary.warnings)


def test_one_ingest_at_a_time(tmp_path: Path) -> None:
    people(tmp_path / "in", 1)
    with Lock.wait(tmp_path / "store" / ".lock"), pytest.raises(UserError, match=r"store: is being written by .*Wait for it to end"):
        ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    assert {path.name for path in (tmp_path / "store").iterdir()} == {"manifest.json", "sub-00", "zarr.json"}, "no lock stays"


@pytest.mark.parametrize("broken", [*PARTS, COARSER[-1]])
@pytest.mark.parametrize("how", ["empty", "zeros", "missing"])
def test_a_group_that_a_power_cut_broke_is_made_again(tmp_path: Path, broken: str, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    people(tmp_path / "in", 2)
    ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    before = content(tmp_path / "store")
    path = tmp_path / "store" / "sub-01" / broken
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if how == "empty" else bytes(path.stat().st_size))
    assert ingest(tmp_path / "in", tmp_path / "store", CONFIG).resumed == 1
    assert "half-written" in capsys.readouterr().err
    assert content(tmp_path / "store") == before


def test_nothing_but_hidden_files_is_there_before_the_root_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    replace = os.replace

    def at_the_root(source: Path, target: Path) -> None:
        if Path(target) == tmp_path / "store" / "zarr.json":
            seen.append([path.name for path in Path(target).parent.iterdir() if not path.name.startswith(".")])
        replace(source, target)

    monkeypatch.setattr(os, "replace", at_the_root)
    people(tmp_path / "in", 2)
    ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    assert seen[0] == [], "else a killed ingest leaves a folder that looks like somebody else's"


def test_a_store_whose_root_a_power_cut_broke_is_begun_again(tmp_path: Path) -> None:
    people(tmp_path / "in", 1)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "zarr.json").touch()
    ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    assert len(Store.open(tmp_path / "store").records) == 1


def test_a_folder_with_the_name_of_a_scan_is_not_taken_for_a_broken_group(tmp_path: Path) -> None:
    people(tmp_path / "in", 2)
    ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    shutil.rmtree(tmp_path / "store" / "sub-01")
    (tmp_path / "store" / "sub-01").mkdir()
    (tmp_path / "store" / "sub-01" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not a whole group"):
        ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    assert (tmp_path / "store" / "sub-01" / "thesis.txt").read_text() == "mine"


def test_a_broken_group_of_another_scan_is_not_replaced(tmp_path: Path) -> None:
    people(tmp_path / "in", 1)
    ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    (tmp_path / "store" / "sub-00" / "0" / "zarr.json").write_bytes(b"")
    scan(tmp_path / "in/sub-00/anat/sub-00_T1w.nii.gz", seed=77)
    with pytest.raises(UserError, match="sub-00"):
        ingest(tmp_path / "in", tmp_path / "store", CONFIG)


def test_every_file_of_a_group_is_on_the_disk_before_the_group_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people(tmp_path / "in", 1)
    synced: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def sync(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink().as_posix())
        fsync(handle)

    def moved(source: Path, target: Path) -> Path:
        if Path(target).name == "sub-00":
            files = {path.as_posix() for path in source.rglob("*")}
            assert files <= set(synced) and len(files) >= len(PARTS) + len(COARSER)
            # The root with the settings comes first: a file that is synced under its first name, then the folder with its last one.
            assert (tmp_path / "store" / "zarr.json").exists() and (tmp_path / "store").as_posix() in synced
            assert any(Path(name).parent == tmp_path / "store" for name in synced)
            synced.append("renamed")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", moved)
    ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    assert (tmp_path / "store").as_posix() in synced[synced.index("renamed") :]


def test_ingest_writes_nothing_through_links(tmp_path: Path) -> None:
    people(tmp_path / "in", 1)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "letter").write_text("dear")
    for name, target in ((".partial-sub-00", victim), ("sub-00", victim), (".lock", victim / "letter"), ("zarr.json", victim / "letter")):
        store = tmp_path / f"store{name}"
        store.mkdir()
        (store / name).symlink_to(target)
        with pytest.raises(UserError):
            ingest(tmp_path / "in", store, CONFIG)
        assert [path.name for path in victim.iterdir()] == ["letter"] and (victim / "letter").read_text() == "dear"


def test_an_ingest_that_comes_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii").write_bytes(b"junk")
    with pytest.raises(UserError, match="none of 1 scans can be used"):
        ingest(tmp_path / "in", tmp_path / "deep" / "store", CONFIG)
    assert not (tmp_path / "deep").exists()


def test_names_in_headers_do_not_get_in(tmp_path: Path) -> None:
    secret = b"DOE^JANE"
    image = nib.load(scan(tmp_path / "plain.nii"))
    dirty = nib.Nifti1Image(np.asarray(image.dataobj), image.affine)
    for field in ("descrip", "aux_file", "db_name", "intent_name", "data_type"):
        dirty.header[field] = secret
    dirty.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"patient: " + secret))
    (tmp_path / "in").mkdir()
    nib.save(dirty, tmp_path / "in" / "sub-1_T1w.nii")
    assert (tmp_path / "in" / "sub-1_T1w.nii").read_bytes().count(secret) == 6, "the test must plant the name"
    ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    for path in (tmp_path / "store").rglob("*"):
        assert secret not in path.name.encode()
        assert not path.is_file() or secret not in path.read_bytes(), path
    group = zarr.open_group(str(tmp_path / "store" / "sub-1"), mode="r")
    for name, array in group.arrays():
        assert secret not in np.ascontiguousarray(array[...]).tobytes(), name


@pytest.mark.slow
def test_a_killed_pool_leaves_no_workers_and_resumes(tmp_path: Path) -> None:
    """SIGKILL to the parent alone, at an arbitrary moment, as the kernel does when memory runs out."""
    people(tmp_path / "in", 40)
    arguments = [sys.executable, "-m", "volgen", "ingest", "in", "store", "--shape", "[16,18,16]", "--voxel-size", "2", "--workers", "2"]
    with subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 120
        while len(list((tmp_path / "store").glob("sub-*"))) < 5:
            assert time.monotonic() < deadline and running.poll() is None, "the ingest must still be running when it is killed"
            time.sleep(0.002)
        running.kill()
    settled = groups_after(tmp_path / "store", 3.0)
    assert settled == groups_after(tmp_path / "store", 2.0), "orphaned workers go on writing"
    assert ingest(tmp_path / "in", tmp_path / "store", CONFIG, workers=2).resumed == len(settled) < 40
    ingest(tmp_path / "in", tmp_path / "undisturbed", CONFIG)
    assert content(tmp_path / "store") == content(tmp_path / "undisturbed")


def groups_after(store: Path, seconds: float) -> list[str]:
    """Finished groups after a while."""
    time.sleep(seconds)
    return sorted(p.name for p in store.glob("sub-*"))


def test_ingest_says_how_many_people_it_found_and_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(("NYU/51/T1.nii", "NYU/252/T1.nii", "NYU/252/T2.nii", "UCLA/107/T1.nii")):
        scan(tmp_path / "sites" / name, seed)
    summary = ingest(tmp_path / "sites", tmp_path / "one", CONFIG)
    shown = capsys.readouterr().err
    assert "3 scans of 2 people" in shown, "51 may be a visit: then the sites are the people"
    assert "not taken: 1 images, such as NYU/252/T2.nii: has another contrast (T2w) than T1w" in shown
    assert any("(2 people, 3 scans, 2 of them of NYU)" in warning for warning in summary.warnings)
    (tmp_path / "sites" / "NYU" / "51").rename(tmp_path / "sites" / "NYU" / "251")
    summary = ingest(tmp_path / "sites", tmp_path / "two", CONFIG)
    assert {record.patient for record in summary.records} == {"NYU_251", "NYU_252", "UCLA_107"}
    assert "3 scans of 3 people" in capsys.readouterr().err


def test_one_label_in_two_folders_is_said_aloud(tmp_path: Path) -> None:
    for seed, name in enumerate(("A/sub-1/anat/sub-1_T1w.nii", "B/sub-1/anat/sub-1_T1w.nii", "B/sub-2/anat/sub-2_T1w.nii")):
        scan(tmp_path / "sites" / name, seed)
    summary = ingest(tmp_path / "sites", tmp_path / "store", CONFIG)
    assert any("1 people are in more than one folder (sub-1 in A/ and B/)" in warning for warning in summary.warnings)
    assert len({record.patient for record in summary.records}) == 2


def test_workers_know_what_the_environment_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server that they are forked from may be older than an address that was set since."""
    for value in ("before", "since"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", value)
        with _pool(1) as pool:
            assert pool.submit(os.getenv, "AWS_ENDPOINT_URL").result() == value
