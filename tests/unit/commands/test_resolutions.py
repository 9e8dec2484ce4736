"""Scans of several resolutions in one store: each trains the experts whose voxels are not finer than its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from volgen.commands.ingest.ingest import ingest
from volgen.commands.train import begin, parts
from volgen.commands.train.train import train
from volgen.core.errors import UserError
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.record import COARSEST, SubjectRecord, finest_level
from volgen.data.store import Store
from volgen.data.stream import Stream, StreamConfig
from volgen.models.haar import low_pass, pyramid, subbands
from volgen.models.preconditioners.gaussian import Config as Gaussian
from volgen.parallel.group import Group
from volgen.parallel.launch import Launch
from volgen.recipe import Recipe, load
from volgen.runs.trained import open_run

SHAPE = (16, 16, 16)
FINE, COARSE = 10, 8


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten scans of 2 mm and eight of 4.5 mm, all on 2 mm."""
    folder = tmp_path_factory.mktemp("resolutions")
    (folder / "in").mkdir()
    for person in range(FINE + COARSE):
        size, edge = (2.0, 16) if person < FINE else (4.5, 8)
        random = np.random.default_rng(person)
        axes = np.meshgrid(*[(np.arange(edge) - (edge - 1) / 2) * size] * 3, indexing="ij")
        voxels = 500.0 * np.exp(-sum((axis / random.uniform(6, 9)) ** 2 for axis in axes)) + random.uniform(0, 40, (edge,) * 3)
        nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.diag([size] * 3 + [1.0])), folder / "in" / f"sub-{person:02d}_T1w.nii")
    summary = ingest(folder / "in", folder / "store", IngestConfig(shape=SHAPE, voxel_size=2.0, validation=0.3, test=0.0))
    assert any(f"{COARSE} of {FINE + COARSE} scans" in warning and "coarser levels only" in warning for warning in summary.warnings)
    return folder / "store"


def content(store: Path, runs: Path, levels: tuple[int, ...] = (0, 1, 2), **sections: Any) -> dict[str, Any]:
    return {
        "name": "run", "runs": str(runs), "seed": 1, "data": {"store": str(store), "batch_size": 4},
        "schedule": {"kind": "log_snr", "points": 2 * len(levels), "sigma_max": 20.0},
        "network": {"kind": "wavelet_unet3d", "channels": [4], "norm_groups": 2},
        "preconditioner": {"kind": "gaussian", "rank": 2, "levels": 2, "rank_level": 2, "folds": 3},
        "experts": {"models": [{"points": 2, "level": level} for level in levels]},
        "stopping": {"max_steps": 2, "validate_every": 2, "validation_volumes": 3, "validation_draws": 1}, **sections,
    }  # fmt: skip


def fine(record: SubjectRecord) -> bool:
    return int(record.id[4:6]) < FINE


def test_the_finest_level_is_the_one_with_the_scans_own_voxels_and_a_quarter_is_allowed() -> None:
    for own, expected in ((0.5, 0), (1.0, 0), (1.25, 0), (1.26, 1), (2.5, 1), (2.51, 2), (5.0, 2), (5.01, 3), (10.0, 3), (1e9, COARSEST)):
        assert finest_level([own] * 3, [1.0] * 3) == expected, own
    assert finest_level([1.0, 1.0, 4.0], [1.0, 1.0, 1.0]) == 2, "slices that are thick teach nothing finer"
    assert finest_level([1.0, 1.0, 4.0], [1.0, 1.0, 4.0]) == 0


def test_records_say_it_and_the_fingerprint_knows_it(store: Path) -> None:
    opened = Store.open(store)
    assert {record.finest for record in opened.records if fine(record)} == {0}
    assert {record.finest for record in opened.records if not fine(record)} == {1}
    alike = [SubjectRecord.from_dict({k: v for k, v in record.to_dict().items() if k != "finest"}) for record in opened.records]
    assert Store(store, alike).fingerprint != opened.fingerprint, "training sees other people"
    with pytest.raises(ValueError, match="no level"):
        SubjectRecord.from_dict({**opened.records[0].to_dict(), "finest": COARSEST + 1})


@pytest.mark.parametrize("level", [None, 0, 1, 2])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_stream_of_a_level_draws_from_those_who_show_it(store: Path, level: int | None, split: Any) -> None:
    opened, config = Store.open(store), StreamConfig(store="unused", shape=SHAPE, batch_size=4)
    expected = {record.id for record in opened.split(split) if level != 0 or fine(record)}
    assert len(expected) >= 2
    with closing(Stream(opened, split, config, 0, level=level)) as stream:
        assert {name for step in range(8) for name in stream.batch(step).ids} == expected
    everybody = config.model_copy(update={"interpolated": True})
    with closing(Stream(opened, split, everybody, 0, level=0)) as stream:
        assert len(stream) == len(opened.split(split))


def test_each_band_of_the_gaussian_is_that_of_the_people_who_show_it() -> None:
    """The fine bands are those of a fit to the fine scans alone, whatever noise coarse ones have there; the corner is that of all."""
    generator = torch.Generator().manual_seed(0)
    volumes = [torch.randn(8, 8, 8, generator=generator) for _ in range(12)]
    people = [str(number // 2) for number in range(12)]
    finest = [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 2, 2]
    config = Gaussian(levels=2, rank=0, rank_level=2, folds=3)
    mixed = config.fit(lambda: iter(volumes), people, 0, finest).state(training=True)
    coefficients = torch.stack([pyramid(volume[None, None], 2)[0, 0] for volume in volumes])
    fold = mixed["fold_number"]
    for band, place in subbands((8, 8, 8), 2):
        shown = torch.tensor([level <= band for level in finest])
        mine = coefficients[(slice(None), *place)]
        torch.testing.assert_close(mixed["mean"][0][place], mine[shown].mean(dim=0))
        squares = []
        for number in range(12):
            if shown[number]:
                others = mine[shown & (fold != fold[number])].mean(dim=0)
                torch.testing.assert_close(mixed["fold_means"][fold[number]][place], others)
                squares.append((mine[number] - others) ** 2)
        torch.testing.assert_close(mixed["residual"][place], torch.stack(squares).mean(dim=0))
    noise = [9 * torch.randn(8, 8, 8, generator=generator) for _ in volumes]
    louder = [volume + more if level else volume for volume, level, more in zip(volumes, finest, noise, strict=True)]
    other = config.fit(lambda: iter(louder), people, 0, finest).state()
    outside = torch.ones(8, 8, 8, dtype=torch.bool)
    outside[low_pass((8, 8, 8), 1)] = False
    assert torch.equal(other["residual"][outside], mixed["residual"][outside])
    assert not torch.equal(other["residual"][~outside], mixed["residual"][~outside])


def test_a_fit_to_scans_of_one_resolution_is_what_it_was() -> None:
    generator = torch.Generator().manual_seed(0)
    volumes = [torch.randn(8, 8, 8, generator=generator) for _ in range(9)]
    people, config = [str(number) for number in range(9)], Gaussian(levels=2, rank=2, rank_level=2, folds=3)
    one, other = (config.fit(lambda: iter(volumes), people, 0, finest).state(training=True) for finest in ((), [0] * 9))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_band_that_too_few_people_show_is_refused() -> None:
    config = Gaussian(levels=1, rank=0, rank_level=1, folds=3)

    def volumes() -> Iterator[torch.Tensor]:
        return iter([torch.randn(4, 4, 4)] * 6)

    with pytest.raises(ValueError, match=r"scans of 2 people have voxels as small as those of level 0, and .* at least 3"):
        config.fit(volumes, [str(number) for number in range(6)], 0, [0, 0, 1, 1, 1, 1])


def test_one_bank_learns_from_both_and_validates_on_those_who_show_it(store: Path, tmp_path: Path) -> None:
    recipe = load(content(store, tmp_path))
    seen: dict[int, set[str]] = {}
    batch = Stream.batch

    def noted(self: Stream, step: int) -> Any:
        found = batch(self, step)
        seen.setdefault(found.x_BCXYZ.shape[-1], set()).update(found.ids)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stream, "batch", noted)
        directory = train(recipe)
    opened = Store.open(store)
    known = {record.id: record for record in opened.records}
    assert all(fine(known[name]) for name in seen[16]) and any(not fine(known[name]) for name in seen[8] | seen[4])
    one = Group(Launch(), torch.device("cpu"))
    for phase in recipe.phases():
        own = recipe.of(phase)
        validator = parts.make_validator(own, phase, opened, one)
        count = sum(fine(record) or own.level > 0 for record in opened.split("validation"))
        assert len(validator._volumes) == min(3, count)
    open_run(directory).verify()


def test_numbers_of_the_fit_are_those_of_its_own_pass(store: Path, tmp_path: Path) -> None:
    """A stream of fine scans alone still leaves out the fold that each person is in."""
    recipe = load(content(store, tmp_path))
    opened = Store.open(store)
    fitted = parts.fitted(recipe.variants[0], opened, Gaussian().blank(SHAPE, 20))
    assert list(fitted.numbers) == [record.id for record in opened.split("train")]


def test_nobody_left_is_said(store: Path, tmp_path: Path) -> None:
    opened = Store.open(store)
    coarse = Store(store, [record for record in opened.records if not fine(record)])
    assert len(coarse.split("train")) >= 3
    said = r"no scan in its train split.*as small as those of level 0.*at most 1\.25 times.*Give experts level 1"
    with pytest.raises(UserError, match=said):
        begin.check(load(content(store, tmp_path)), coarse)
    begin.check(load(content(store, tmp_path, data={"store": str(store), "batch_size": 4, "interpolated": True})), coarse)
    begin.check(load(content(store, tmp_path, levels=(1, 2))), coarse)
    with pytest.raises(UserError, match="fine enough for level 0"):
        Stream(coarse, "train", StreamConfig(store="unused", shape=SHAPE), 0, level=0)


def test_a_private_run_is_of_people_who_train_every_expert(store: Path, tmp_path: Path) -> None:
    made = content(
        store, tmp_path, (0,), preconditioner={"kind": "edm"}, optimiser={"gradient_clip": 0.0},
        stopping={"max_steps": 1, "min_steps": 1}, privacy={"kind": "dp_sgd", "epsilon": 8.0, "delta": 1e-3},
    )  # fmt: skip
    with pytest.raises(UserError, match=r"too coarse for experts of level 0; expected scans that train every expert"):
        train(load(made))
    made["data"]["interpolated"] = True
    assert isinstance(load(made), Recipe)


@pytest.mark.slow
def test_real_people_at_one_and_two_millimetres_share_a_store(test_data: Path, tmp_path: Path) -> None:
    """The fine band is what the people at 1 mm have; interpolated ones would take a good part of it away."""
    (tmp_path / "in").mkdir()
    for folder, pattern, count in (("brains-1mm", "sub-DEP*", 9), ("brains-2mm", "sub-IXI*", 9)):
        for person in sorted((test_data / folder).glob(pattern))[:count]:
            (tmp_path / "in" / person.name).symlink_to(person, target_is_directory=True)
    settings: Any = {"shape": (160, 192, 160), "voxel_size": 1.0, "dtype": "uint8", "validation": 0.0, "test": 0.0}
    ingest(tmp_path / "in", tmp_path / "store", IngestConfig(**settings))
    opened = Store.open(tmp_path / "store")
    assert {(record.id.startswith("sub-DEP"), record.finest) for record in opened.records} == {(True, 0), (False, 1)}
    recipe = load(content(tmp_path / "store", tmp_path, (0, 1), preconditioner={"kind": "gaussian", "rank": 0, "folds": 3}))
    one = Group(Launch(), torch.device("cpu"))

    def energy(recipe: Recipe, name: str) -> tuple[float, float]:
        from volgen.origin.starts.scratch import Config as Scratch

        (tmp_path / name).mkdir()
        start = Scratch().build(recipe, opened, open_run)
        residual = parts.fit_preconditioner(recipe, opened, tmp_path / name, one, start).state()["residual"]
        corner = residual[low_pass(residual.shape, 1)]
        return float(corner.sum()), float(residual.sum() - corner.sum())

    everybody = energy(recipe.model_copy(update={"data": recipe.data.model_copy(update={"interpolated": True})}), "interpolated")
    mixed = energy(recipe, "mixed")
    assert everybody[1] < 0.85 * mixed[1] and everybody[0] == pytest.approx(mixed[0], rel=1e-3)
    with closing(Stream(opened, "train", recipe.data, 0, level=0)) as stream:
        assert {name for step in range(3) for name in stream.batch(step).ids} == {r.id for r in opened.records if not r.finest}
