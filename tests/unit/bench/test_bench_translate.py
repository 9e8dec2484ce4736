"""`volgen bench translate`: a CycleGAN learns a difference, regressions read it, and the command compares."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from volgen.bench._shared.columns import Learnt
from volgen.bench.translate import RealPeople, Regressions
from volgen.bench.translate.cyclegan import train_cyclegan
from volgen.cli import main
from volgen.commands.participants.participants import participants
from volgen.commands.train.train import train
from volgen.core.protocols import Shape3
from volgen.data.store import Store
from volgen.recipe import load

SHAPE: Shape3 = (16, 16, 16)


def balls(count: int, bright: float, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, 16)
    distance = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None] ** 2
    return [
        (bright * torch.exp(-4 * distance) - 0.5 + 0.02 * torch.randn(SHAPE, generator=generator))[None] for _ in range(count)
    ]  # fmt: skip


def test_a_cyclegan_learns_what_two_groups_differ_in_and_comes_back() -> None:
    dark, light = balls(6, 0.3, 0), balls(6, 0.9, 1)
    gan = train_cyclegan(dark, light, steps=60, channels=4, blocks=1, rate=2e-3, seed=0, device=torch.device("cpu"))
    (x,) = balls(1, 0.3, 2)
    with torch.no_grad():
        there = gan.to_b(x[None])
        back = gan.to_a(there)
    moved, aim = float((there[0] - x)[0, 6:10, 6:10, 6:10].mean()), 0.5
    assert moved > 0.4 * aim
    assert float((back[0] - x).abs().mean()) < float((there[0] - x).abs().mean())
    untrained = train_cyclegan(dark, light, steps=0, channels=4, blocks=1, rate=2e-3, seed=0, device=torch.device("cpu"))
    assert torch.equal(untrained.to_b(x[None])[0], x), "it begins as the identity"


@pytest.fixture(scope="module")
def told(blob_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("told")
    store = Path(shutil.copytree(blob_store, root / "store"))
    rows = []
    for number, record in enumerate(Store.open(store).records):
        size = float(Store.open(store).read_unit(record).sum())
        rows.append(f"{record.patient}\t{size}\t{2 * size + 1}\t{'ab'[number % 2]}")
    (root / "table.tsv").write_text("\n".join(["participant_id\tage\tshare\tgroup", *rows]))
    participants(store, root / "table.tsv", columns=["age", "share", "group"])
    return store


def test_regressions_read_numbers_and_who_it_is(told: Path) -> None:
    store = Store.open(told)
    records = store.split("train")
    volumes = tuple(torch.from_numpy(np.asarray(2 * store.read_unit(record) - 1))[None].float() for record in records)
    age = Learnt.of_numbers(store, "age")
    cohort = RealPeople(tuple(records), volumes, age.values(records))
    reader = Regressions(cohort, cohort, 0)
    assert np.corrcoef(reader.read(age, volumes), cohort.number)[0, 1] > 0.95
    one, two = (reader.slope(Learnt.of_numbers(store, name), age) for name in ("age", "share"))
    assert 0.5 < one[0] < 1.05 and one[1][0] <= one[0] <= one[1][1] and two[0] == pytest.approx(2 * one[0], rel=1e-3)
    assert reader.is_kept(volumes[0] + 0.01, 0) and not reader.is_kept(volumes[1], 0)


def test_the_command_compares_methods(told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content: dict[str, Any] = {
        "name": "run", "runs": str(tmp_path), "data": {"store": str(told), "shape": list(SHAPE), "batch_size": 2, "workers": 1},
        "schedule": {"kind": "karras", "points": 3, "sigma_min": 0.1, "sigma_max": 10.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4}, "preconditioner": {"kind": "edm"},
        "conditions": [{"kind": "continuous", "column": "age"}],
        "stopping": {"max_steps": 2, "min_steps": 2, "validation_volumes": 1, "validation_draws": 1},
    }  # fmt: skip
    run = train(load(content))
    store = Store.open(told)
    ages = sorted(float(record.covariates["age"]) for record in store.split("train"))
    ends = ["--low", str(ages[5] + 1e-6), "--high", str(ages[5] + 2e-6)]
    words = [
        "bench",
        "translate",
        str(run),
        "--store",
        str(told),
        "--split",
        "train",
        "--people",
        "2",
        "--gan-steps",
        "2",
        "--gan-channels",
        "4",
    ]
    assert main([*words, *ends, "--read", "share", "--device", "cpu", "--out", str(tmp_path / "t.json")]) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "t.json").read_text())["rows"]}
    for method in ("run", "line", "cyclegan"):
        assert {f"{method}: {what}" for what in ("change", "cycle error", "kept", "age moves", "share moves")} <= set(rows)
    assert rows["line: cycle error"]["value"] < 1e-6 < rows["line: change"]["value"]
    assert "real people: share moves" in rows
    capsys.readouterr()
    for more, message in (
        (["--column", "group"], "is one of the words a, b"),
        (["--low", "-5", "--high", "0"], "has 0 people below -5"),
        (["--column", "share"], "cannot be asked for 'share'"),
    ):
        assert main([*words, *(ends if "--low" not in more else []), *more]) == 2
        assert message in capsys.readouterr().err
    # A CycleGAN sees what the run computes on, and that is a box of its volumes.
    boxed = train(load({**content, "name": "boxed", "data": {**content["data"], "box": {"start": [1, 0, 0], "size": [14, 16, 16]}}}))
    words[2] = str(boxed)
    assert main([*words, *ends]) == 2 and "computes on [14, 16, 16] voxels" in capsys.readouterr().err
