"""The files of a fitted preconditioner, and what is noticed when one of them was changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from volgen.core.errors import UserError
from volgen.core.run_files import CHECKSUMS, FOR_TRAINING, PRECONDITIONER
from volgen.models.assemblies.whole import Whole
from volgen.models.preconditioners.gaussian import Config, GaussianPreconditioner
from volgen.runs.fitted import check_all, check_unchanged, restore, write

CONFIG = Config(rank=2, folds=2)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    volumes = [torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(index)) for index in range(8)]
    write(CONFIG.fit(lambda: iter(volumes), [str(index) for index in range(8)], 0), Whole(), tmp_path)
    return tmp_path


def test_both_files_are_there_and_one_of_them_knows_no_single_person(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {PRECONDITIONER, FOR_TRAINING, CHECKSUMS}
    assert not any(name.startswith("fold_") for name in load_file(run / PRECONDITIONER))
    for name in (PRECONDITIONER, FOR_TRAINING):
        check_unchanged(run / name, "")
    restored = restore(CONFIG, run / FOR_TRAINING, "")
    assert isinstance(restored, GaussianPreconditioner) and restored.folds is not None


@pytest.mark.parametrize("name", [PRECONDITIONER, FOR_TRAINING])
def test_another_finite_number_is_noticed(run: Path, name: str) -> None:
    state = load_file(run / name)
    state["mean"][0, 0, 0, 0] += 0.5
    save_file(state, run / name)
    restore(CONFIG, run / name, "")  # nothing is wrong with it as such
    with pytest.raises(UserError, match=rf"{name}: has SHA-256 .*as preconditioner\.json says: it was changed. Train again"):
        check_unchanged(run / name, "train again")


def test_a_file_that_the_list_does_not_have_is_not_taken_for_whole(run: Path) -> None:
    (run / CHECKSUMS).write_text(json.dumps({"sha256": {}}))
    with pytest.raises(UserError, match="it was changed"):
        check_unchanged(run / PRECONDITIONER, "")


@pytest.mark.parametrize("name", [PRECONDITIONER, FOR_TRAINING, CHECKSUMS])
@pytest.mark.parametrize("how", ["changed", "lost", "a folder"])
def test_training_goes_on_from_a_whole_fit_only(run: Path, name: str, how: str) -> None:
    check_all(run, "")
    content = (run / name).read_bytes()
    (run / name).unlink()
    if how == "changed":
        (run / name).write_bytes(content[:-9] + b"0" + content[-8:])
    elif how == "a folder":
        (run / name).mkdir()
    with pytest.raises(UserError, match=r"preconditioner"):
        check_all(run, "fit again")
