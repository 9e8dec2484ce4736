"""ensemble.json: what is written is read back, and anything that does not tile the noise axis is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from volgen.core.errors import UserError
from volgen.core.span import owner, tile
from volgen.experts.ensemble import Ensemble, ExpertRecord, read, write

GRID = (10.0, 4.0, 1.0, 0.3)


def make(directory: Path, count: int = 2) -> Path:
    records = []
    for index, span in enumerate(tile(GRID, count)):
        path = directory / "experts" / str(index) / "weights.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
        name = path.relative_to(directory).as_posix()
        records.append(ExpertRecord(index, span.low, span.high, name, "0" * 64, 10, 5, 0.25 if index else None))
    write(directory / "ensemble.json", Ensemble(tuple(records), GRID[-1], GRID[0], GRID))
    return directory / "ensemble.json"


@pytest.mark.parametrize("count", [1, 2, 4])
def test_round_trip_keeps_every_digit_and_has_the_fixed_keys(tmp_path: Path, count: int) -> None:
    path = make(tmp_path, count)
    ensemble = read(path)
    assert ensemble.spans == tile(GRID, count)
    assert ensemble.grid == GRID
    assert [owner(ensemble.spans, sigma) for sigma in GRID] == sorted((owner(tile(GRID, count), s) for s in GRID), reverse=True)
    content = json.loads(path.read_text())
    assert set(content) == {"experts", "sigma_min", "sigma_max", "grid"}
    keys = {"index", "sigma_low", "sigma_high", "weights", "sha256", "parameters", "steps", "validation_loss"}
    assert all(set(expert) == keys for expert in content["experts"])
    write(path, ensemble)
    assert read(path) == ensemble


def test_what_an_expert_is_made_of_stands_beside_it_where_it_differs(tmp_path: Path) -> None:
    path = make(tmp_path)
    ensemble = read(path)
    model = {"network": {"kind": "toy", "channels": [1]}, "level": 2, "view": {"kind": "toy"}}
    other = replace(ensemble, experts=(replace(ensemble.experts[0], model=model), ensemble.experts[1]))
    write(path, other)
    content = json.loads(path.read_text())["experts"]
    assert {name: content[0][name] for name in model} == model and not {*model} & {*content[1]}
    assert read(path) == other
    assert read(path).digest != ensemble.digest, "a sample depends on it"
    for name, wrong in (("network", "unet3d"), ("level", True), ("level", 1.0), ("view", None)):
        write(path, replace(ensemble, experts=(replace(ensemble.experts[0], model={name: wrong}), ensemble.experts[1])))
        with pytest.raises(UserError, match=f"'{name}' of an expert has another form"):
            read(path)


def test_keys_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    path = make(tmp_path)
    content = json.loads(path.read_text())
    content["later"] = content["experts"][0]["later"] = 1
    path.write_text(json.dumps(content))
    assert len(read(path).experts) == 2


Damage = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c["experts"][1].update(sigma_low=3.0), "gap"),
        (lambda c: c["experts"][1].update(sigma_low=0.5), "overlap"),
        (lambda c: c["experts"][0].update(sigma_low=0.1), "below 0.1"),
        (lambda c: c["experts"][1].update(sigma_high=9.0), "sigma_max"),
        (lambda c: c["experts"].reverse(), "numbered"),
        (lambda c: c["experts"].clear(), "no experts"),
        (lambda c: c["experts"][1].update(sigma_high=1.0), "not a span"),
        (lambda c: c["experts"][1].update(weights="experts/7/weights.safetensors"), "does not exist"),
        (lambda c: c["experts"][1].update(weights="../weights.safetensors"), "not a path inside"),
        (lambda c: c["experts"][1].update(weights="/etc/passwd"), "not a path inside"),
        (lambda c: c["experts"][1].update(sha256="abc"), "64 hexadecimal"),
        (lambda c: c["experts"][1].update(index=True), "whole number"),
        (lambda c: c["experts"][1].update(sigma_low="1"), "finite number"),
        (lambda c: c["experts"][1].pop("steps"), "'steps' is missing"),
        (lambda c: c.pop("grid"), "'grid' is missing"),
        (lambda c: c.update(grid=[10.0, 1.0, 4.0, 0.3]), "descending"),
        (lambda c: c.update(sigma_max=5.0), "the grid runs from"),
        (lambda c: c.update(experts=3), "experts that tile"),
        (lambda c: c.update(sigma_max=10**400), "experts that tile"),
    ],
)
def test_damage_is_refused_with_the_reason(tmp_path: Path, damage: Damage, message: str) -> None:
    path = make(tmp_path)
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read(path)


def test_link_out_of_the_run_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    path = make(run)
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(b"x")
    weights = run / "experts/1/weights.safetensors"
    weights.unlink()
    weights.symlink_to(outside)
    with pytest.raises(UserError, match="a link out of the run"):
        read(path)


def test_missing_or_cut_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ensemble\.json: there is no such file"):
        read(tmp_path / "ensemble.json")
    path = make(tmp_path)
    path.write_text(path.read_text()[:50])
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read(path)
