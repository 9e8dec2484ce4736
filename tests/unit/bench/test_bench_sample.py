"""`volgen bench sample`: every way draws the same volumes, the figures are there, and a bank's size does not show in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from volgen.bench.sample import stream
from volgen.bench.sample.run import make_run
from volgen.cli import main


def test_a_small_form_has_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "peak", lambda run, capacity: (2**20, 2**21))  # has a test of its own
    out = tmp_path / "sample.json"
    words = "bench sample --edge 16 --row-edge 16 --channels 8 --experts 4 --volumes 1 --repeats 1 --banks 2 --ranks 0 --simulated 2 8"
    assert main([*words.split(), "--device", "cpu", "--out", str(out)]) == 0
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    for way in stream.WAYS:
        assert rows[f"{way}: time"]["value"] > 0 and rows[f"{way}: processor time"]["value"] > 0
    assert rows["from disk, page cache dropped: time"]["ratio_to"].keys() == {"in memory: time"}
    shown = capsys.readouterr().out
    assert "from disk, files in the page cache" in shown and "| weights of two |" in shown


def test_a_bank_from_disk_draws_the_volumes_of_one_in_memory_and_loads_each_expert_once(tmp_path: Path) -> None:
    run, device = make_run(tmp_path / "run", (16, 16, 16), (8,), 5), torch.device("cpu")
    drawn = []
    for capacity in (5, 2):
        with run.bank(run.preconditioner(device), device, run.ensemble.grid, capacity) as bank:
            drawn.append(stream.draw(run, bank, range(3), device))
            assert bank.loads == [4, 3, 2, 1, 0]
    assert all(torch.equal(one, two) for one, two in zip(*drawn, strict=True))


def test_peak_memory_is_that_of_two_experts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", (16, 16, 16), (64, 128, 128), 12, files=1)
    two = 2 * 2 * run.ensemble.experts[0].parameters  # bf16
    own, _ = stream.peak(run.directory, 2)
    assert 0.8 * two < own < 1.5 * two, "and not that of twelve"
