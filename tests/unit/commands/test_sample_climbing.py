"""`volgen sample` of a bank with levels: volumes climb where nothing needs them whole, and folders say whether they did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from volgen.commands.sample.sample import sample
from volgen.core.errors import UserError
from volgen.core.files import read_json, sha256, write_json
from volgen.experts.ensemble import Ensemble, ExpertRecord, write
from volgen.images.geometry import Geometry
from volgen.images.intensity import IntensityMap
from volgen.privacy.plans.none import NOTHING
from volgen.recipe import load
from volgen.runs.trained import open_run
from volgen.sampling import descent

SHAPE = (16, 16, 16)
SIZE = 16**3
LEVELS = [2, 2, 1, 0, 0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three experts with random weights, each of a level of its own, behind a Gaussian that was fitted to random volumes."""
    directory = tmp_path_factory.mktemp("runs") / "levels"
    directory.mkdir()
    content = {
        "name": "levels", "data": {"store": "nowhere.zarr", "shape": list(SHAPE)},
        "schedule": {"kind": "log_snr", "points": 5, "sigma_max": 20.0},
        "network": {"kind": "wavelet_unet3d", "channels": [4], "norm_groups": 2},
        "preconditioner": {"kind": "gaussian", "levels": 2, "rank": 2, "rank_level": 2, "folds": 2},
        "experts": {"models": [{"points": 2}, {"points": 1, "level": 1}, {"points": 2, "level": 2}]},
    }  # fmt: skip
    (directory / "config.yaml").write_text(yaml.safe_dump(content))
    recipe = load(directory / "config.yaml")
    torch.manual_seed(0)
    volumes = [torch.rand(SHAPE) - 0.5 for _ in range(4)]
    save_file(recipe.preconditioner.fit(lambda: iter(volumes), list("abcd"), 0).state(), directory / "preconditioner.safetensors")
    records, grid = [], recipe.schedule.grid()
    for phase in sorted(recipe.phases(), key=lambda phase: phase.span.low):
        module = recipe.of(phase).build().released(phase)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        path = directory / "experts" / phase.name / "weights.safetensors"
        path.parent.mkdir(parents=True)
        save_file(module.state_dict(), path)
        name = path.relative_to(directory).as_posix()
        made = recipe.made_of(phase)
        records.append(ExpertRecord(int(phase.name), phase.span.low, phase.span.high, name, sha256(path), 1, 1, 0.5, made))
    write(directory / "ensemble.json", Ensemble(tuple(records), grid[-1], grid[0], tuple(grid)))
    Geometry(SHAPE, (1.0, 1.0, 1.0), IntensityMap(0.0, 100.0), skull_stripped=True).write(directory)
    write_json(directory / "privacy_ledger.json", NOTHING)
    return directory


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Voxels of every noise that is drawn."""
    sizes: list[int] = []
    real = descent.Descent._noise

    def counted(self: descent.Descent, *key: Any) -> torch.Tensor:
        noise = real(self, *key)
        sizes.append(noise.numel())
        return noise

    monkeypatch.setattr(descent.Descent, "_noise", counted)
    return sizes


def sidecar(out: Path, number: int = 1) -> dict[str, Any]:
    return json.loads(next(out.rglob(f"sub-{number:04d}_*.json")).read_text())  # type: ignore[no-any-return]


def images(out: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(out.rglob("*_T1w.nii.gz"))]


def test_volumes_climb_and_say_so(run: Path, tmp_path: Path, drawn: list[int]) -> None:
    out = sample(run, tmp_path / "out", count=1, device="cpu")
    assert drawn == [SIZE // 64, SIZE // 8, SIZE], "noise of the corner, and of the bands that come later"
    assert sidecar(out)["Levels"] == [*LEVELS, 0]
    assert read_json(out / "manifest.json", "manifest")["config"]["climbs"] is True
    again = sample(run, tmp_path / "again", count=3, device="cpu", memory_gib=0)
    assert images(again)[0] == images(out)[0], "a volume depends on its seed and index alone"
    assert len(set(images(again))) == 3


@pytest.mark.parametrize("options", [{"full": True}, {"noise": "slerp"}])
def test_what_needs_whole_volumes_gets_them(run: Path, tmp_path: Path, drawn: list[int], options: dict[str, Any]) -> None:
    out = sample(run, tmp_path / "out", count=1, device="cpu", **options)
    assert drawn == [SIZE]
    assert "Levels" not in sidecar(out) and "climbs" not in read_json(out / "manifest.json", "manifest")["config"]


def test_a_guidance_gets_whole_volumes(run: Path, tmp_path: Path, drawn: list[int]) -> None:
    data = next(sample(run, tmp_path / "data", count=1, device="cpu").rglob("*_T1w.nii.gz"))
    drawn.clear()
    sample(run, tmp_path / "out", count=1, device="cpu", guidance="projection", operator={"kind": "inpaint", "share": 0.5}, data=data)
    assert set(drawn) == {SIZE}


def test_a_folder_that_was_begun_without_climbing_goes_on_without(run: Path, tmp_path: Path) -> None:
    out = sample(run, tmp_path / "out", count=1, device="cpu", full=True)
    sample(run, out, count=2, device="cpu")
    whole = sample(run, tmp_path / "whole", count=2, device="cpu", full=True)
    assert images(out) == images(whole)


def test_a_folder_that_climbed_is_not_continued_with_whole_volumes(run: Path, tmp_path: Path) -> None:
    out = sample(run, tmp_path / "out", count=1, device="cpu")
    with pytest.raises(UserError, match="another 'config'"):
        sample(run, out, count=2, device="cpu", full=True)


def test_a_row_of_ranks_sends_what_is_on_its_way_and_makes_the_same_volumes(run: Path, tmp_path: Path) -> None:
    """Each step by another rank: states of three sizes are sent."""
    from volgen.core.registry import config_class
    from volgen.runs.draw import Drawing
    from volgen.runs.ranks import Volumes

    trained, device = open_run(run), torch.device("cpu")
    grid = trained.ensemble.grid
    white = config_class("volgen.sampling.noises", "white")()
    drawing = Drawing(trained, trained.preconditioner(device), trained.assembly(), trained.recipe.sampler, white, grid, device, climbs=True)
    kept: dict[int, torch.Tensor] = {}
    with drawing.bank(grid, 2) as bank:
        down = descent.Descent(
            bank, drawing.sampler(), descent.down(grid), 3, (1, *SHAPE), device, drawing.problem, drawing.noise, climb=drawing.climb
        )
        work = Volumes(down, [[0, 1]], kept.__setitem__, lambda count, note: None)
        state = work.begin(0)
        for number in range(len(grid)):
            state = work.advance(0, state, range(number, number + 1))
            if number < len(grid) - 1:
                packed = work.pack(0, state, number + 1)
                assert packed.numel() == work.size(0, number + 1)
                assert packed.numel() <= 2 * (8 * SIZE // 8 ** LEVELS[number + 1] + 8)
                state = work.unpack(0, packed, number + 1)
        work.finish(0, state)
    alone: dict[int, torch.Tensor] = {}
    drawing.draw(3, [0, 1], alone.__setitem__, lambda count, note: None)
    assert all(torch.equal(kept[index], alone[index]) for index in (0, 1))


def test_rows_are_cut_by_what_steps_cost(run: Path) -> None:
    from volgen.runs.choices import costs_of

    trained = open_run(run)
    assert costs_of(trained, trained.ensemble.grid, [1, 1, 1, 1, 1]) == [1 / 64, 1 / 64, 1 / 8, 1.0, 1.0]


def test_experts_of_one_level_do_not_climb(run: Path) -> None:
    trained = open_run(run)
    grid = trained.ensemble.grid
    assert trained.levels(grid) == [*LEVELS, 0]
    assert trained.climbs(grid) and not trained.climbs(grid[:2]) and not trained.climbs(grid[3:])
