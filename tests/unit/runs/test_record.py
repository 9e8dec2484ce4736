from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pytest

from volgen import recipe
from volgen.core.config import MAY_CHANGE, Config, changeable, dump_yaml, validate
from volgen.core.errors import UserError
from volgen.runs.record import PhaseRecord, check_same


class Data(Config):
    workers: Annotated[int, MAY_CHANGE] = 2
    shape: tuple[int, int, int] = (16, 16, 16)


class Optimiser(Config):
    learning_rate: float = 1e-05
    betas: tuple[float, float] = (0.9, 0.99)


class Recipe(Config):
    seed: int = 1
    data: Data = Data()
    optimiser: Optimiser = Optimiser()


class NewerData(Data):
    order: str = "random"


class Newer(Recipe):
    """The same after an update: with an option more in a section, and a section more."""

    data: NewerData = NewerData()
    bank: Data = Data()


def test_every_key_that_differs_is_named(tmp_path: Path) -> None:
    before = Recipe()
    (tmp_path / "config.yaml").write_text(dump_yaml(before))
    check_same(tmp_path, before)
    check_same(tmp_path, Recipe(data=Data(workers=7)))
    with pytest.raises(UserError, match=r"data\.shape was \[16, 16, 16\] and is now \[16, 16, 24\]; seed was 1 and is now 2"):
        check_same(tmp_path, Recipe(seed=2, data=Data(shape=(16, 16, 24))))
    with pytest.raises(UserError, match=r"optimiser\.learning_rate"):
        check_same(tmp_path, Recipe(optimiser=Optimiser(learning_rate=2e-05)))


def test_what_may_change_is_what_changes_no_number() -> None:
    content = {
        "name": "run", "data": {"store": "s", "shape": [16, 16, 16]}, "schedule": {"kind": "karras", "points": 4},
        "network": {"kind": "wavelet_unet3d"}, "preconditioner": {"kind": "edm"}, "start": {"kind": "public", "run": "r"},
        "experts": {"warm_start": "none"},
    }  # fmt: skip
    assert changeable(validate(recipe.Recipe, content, "test")) == {
        "runs", "data.store", "data.workers", "data.cache_gib", "experts.groups", "start.run", "start.stores", "start.not_compared",
        "engine.zero_stage", "engine.accumulation", "engine.activation_checkpointing", "engine.offload", "engine.checkpoint_every",
        "engine.dead_after", "engine.hung_after", "sampler", "guidance", "mirrored",
    }  # fmt: skip


def test_an_option_that_came_after_the_run_began_has_its_default_there(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump_yaml(Recipe(seed=3)))
    check_same(tmp_path, Newer(seed=3))
    with pytest.raises(UserError, match=r"configuration: data\.order was random and is now sorted; expected"):
        check_same(tmp_path, Newer(seed=3, data=NewerData(order="sorted")))


def test_a_phase_without_a_record_is_not_finished(tmp_path: Path) -> None:
    assert PhaseRecord.read(tmp_path) is None
    record = PhaseRecord(10, 8, 0.5, 100, "0" * 64)
    record.write(tmp_path)
    assert PhaseRecord.read(tmp_path) == record
    text = (tmp_path / "phase.json").read_text()
    for old, new in (
        ('"steps": 10', '"steps": 11'),
        ('"parameters": 100', '"parameters": 101'),
        ("0.5", "0.4"),
        ('"seal": "', '"seal": "0'),
    ):
        (tmp_path / "phase.json").write_text(text.replace(old, new))
        with pytest.raises(UserError, match=r"phase\.json: was changed after it was written.*Restore it from a copy, or delete"):
            PhaseRecord.read(tmp_path)
    before = {"steps": 10, "best_step": 8, "validation_loss": 0.5, "parameters": 100, "sha256": "0" * 64}
    (tmp_path / "phase.json").write_text(json.dumps(before))
    assert PhaseRecord.read(tmp_path) == record, "0.1.0 wrote no seal"
    for odd in ({"steps": -1}, {"steps": 2.5}, {"parameters": True}, {"sha256": 7}):
        (tmp_path / "phase.json").write_text(json.dumps({**before, **odd}))
        with pytest.raises(UserError, match="has another form"):
            PhaseRecord.read(tmp_path)
    (tmp_path / "phase.json").write_text('{"steps": 3}')
    with pytest.raises(UserError, match="has another form"):
        PhaseRecord.read(tmp_path)
