"""Every way to read is measured on the same voxels, and volgen's rows say what they are relative to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from s3_server import S3Server

from volgen.bench import stream as benchmark
from volgen.bench.stream.ranks import ranks
from volgen.cli import main
from volgen.data.store import Store


def test_every_way_is_measured_on_the_same_voxels(blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "stream.json"
    command = ["bench", "stream", "--store", str(blob_store), "--volumes", "2", "--repeats", "1", "--block", "6", "--short"]
    assert main([*command, "--out", str(out)]) == 0
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["voxels"]["value"] == 16**3 and 0 < rows["background"]["value"] < 1
    for group in benchmark.GROUPS:
        for layout in ("slices", "volumes"):
            own = rows[f"{group}: volgen, {layout}"]
            gate = rows[f"gate, {group}: volgen, {layout}"]
            assert gate["better"] == "higher" and gate["ratio_to"].items() <= own["ratio_to"].items() and len(gate["ratio_to"]) == 1
            assert len(own["ratio_to"]) >= 3 and rows[f"{group}: volgen, {layout}, wall"]["value"] > 0
            for other, ratio in own["ratio_to"].items():
                assert ratio == pytest.approx(own["value"] / rows[other]["value"])
        assert not any("volgen" in name for name in own["ratio_to"])
    assert "volume, new array: nibabel .nii.gz" in rows["volume, reused buffer: volgen, volumes"]["ratio_to"]
    assert "| volgen, slices |" in capsys.readouterr().out
    assert main([*command, "--against", str(out), "--margin", "0.99"]) == 0


@pytest.mark.slow
def test_an_object_store_stands_beside_the_disk(blob_store: Path, tmp_path: Path, s3: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    out, address = tmp_path / "stream.json", f"{s3.bucket('bench-stream')}/here"
    command = ["bench", "stream", "--store", str(blob_store), "--volumes", "2", "--repeats", "1", "--block", "6", "--short"]
    assert main([*command, "--address", address, "--out", str(out)]) == 0
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    for group in benchmark.GROUPS:
        assert rows[f"{group}: volgen, slices, object store"]["value"] > 0
    assert "| volgen, slices, object store |" in capsys.readouterr().out
    assert s3.objects(address) == {}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    s3.upload(tmp_path / "mine", address)
    assert main([*command, "--address", address]) == 2
    assert "is not empty (it holds thesis.txt)" in capsys.readouterr().err and list(s3.objects(address)) == ["thesis.txt"]


def test_ranks_are_processes(blob_store: Path) -> None:
    rows = ranks(blob_store, Store.open(blob_store).split("train"), 2)
    assert [row.name.rsplit(maxsplit=1)[1] for row in rows] == ["1", "2"] and all(row.value > 0 for row in rows)
    assert rows[1].ratio_to == {rows[0].name: pytest.approx(rows[1].value / rows[0].value)}
