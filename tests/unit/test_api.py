"""The Python interface: each function does what its command does, bit for bit."""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

import volgen
from volgen import api, cli, commands
from volgen.core import exit_codes
from volgen.core.given import Given
from volgen.core.protocols import Denoiser
from volgen.images import nifti
from volgen.models.condition import ConditionConfig

RUN, STORE = "runs/finished", "cohort.zarr"


@pytest.fixture
def there(made_by_0_1_0: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a store, a finished run of four noise levels and its samples."""
    monkeypatch.chdir(made_by_0_1_0)
    return made_by_0_1_0


def _files(folder: Path) -> dict[str, bytes]:
    """Every file but the manifest, which has times in it."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_an_import_is_cheap_and_the_version_needs_nothing() -> None:
    code = "import sys, volgen; volgen.__version__, dir(volgen); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "pydantic", "nibabel", "volgen.api"} & set(loaded)


def test_every_name_is_there_and_no_other() -> None:
    assert set(volgen.__all__) == {*api.__all__, "__version__"} and set(volgen.__all__) <= set(dir(volgen))
    for name in api.__all__:
        words = set((getattr(volgen, name).__doc__ or "").split())
        assert words and (name in ("Model", "UserError") or words >= {"Args:", "Returns:", "Raises:", "Example:"}), name
    for package in ("volgen.evaluation.measure", "volgen.reporting.page"):
        importlib.import_module(package)
    assert callable(volgen.report) and callable(volgen.evaluate), "packages of these names would take their place once they are imported"
    with pytest.raises(AttributeError, match="'sampel'"):
        _ = volgen.sampel  # type: ignore[attr-defined]
    assert issubclass(volgen.UserError, ValueError)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("ingest", set()),
        ("export", set()),
        ("participants", set()),
        ("sample", set()),
        ("translate", set()),
        ("reconstruct", {"strict"}),
        ("tune", set()),
        ("report", {"compare", "strict"}),
        ("evaluate", set()),
        ("train", {"print_config", "dry_run"}),
        ("explain", set()),
    ],
)
def test_a_function_has_the_options_and_defaults_of_its_command(name: str, others: set[str]) -> None:
    """``others``: what is for shells only, such as exit codes, or comes in another form."""
    fields = commands.module(name).Config.model_fields
    parameters = inspect.signature(getattr(volgen, name)).parameters
    assert set(parameters) == set(fields) - others
    for key, parameter in parameters.items():
        field = fields[key]
        if parameter.default not in (inspect.Parameter.empty, None) and not field.is_required():
            required = {name: 1 if other.annotation is int else "x" for name, other in fields.items() if other.is_required()}
            made = commands.module(name).Config
            assert getattr(made(**required, **{key: parameter.default}), key) == getattr(made(**required), key), key


@pytest.mark.parametrize("options", [{}, {"sampler": "heun", "steps": 3}, {"noise": {"kind": "slerp", "axis": "A"}, "dtype": "int16"}])
def test_sample_gives_the_volumes_of_the_command(options: dict[str, Any], there: Path) -> None:
    words: list[str] = []
    for key, value in options.items():
        section = value if isinstance(value, dict) else {"kind": value}
        words += [word for name, text in section.items() for word in (f"--{key}" + ("" if name == "kind" else f".{name}"), str(text))]
    assert cli.main(["sample", RUN, "--out", "by_command", "--count", "2", "--seed", "4", "--start-index", "1", *words]) == 0
    paths = sorted(Path("by_command").rglob("*.nii.gz"))
    in_memory = volgen.sample(RUN, count=2, seed=4, start_index=1, **options)
    in_files = volgen.sample(RUN, "by_function", count=2, seed=4, start_index=1, **options)
    assert _files(Path("by_command")) == _files(Path("by_function"))
    for path, one, other in zip(paths, in_memory, in_files, strict=True):
        expected = nib.Nifti1Image.from_filename(path)
        for image in (one, other):
            assert isinstance(image, nib.Nifti1Image) and image.header == expected.header
            assert np.array_equal(np.asarray(image.dataobj), np.asarray(expected.dataobj))
    assert {path.name for path in there.iterdir()} >= {"by_command", "by_function"} and not list(there.glob("volgen-sample-*"))


def test_ranks_that_sample_together_need_a_folder(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(volgen.UserError, match="out: is None, and several ranks"):
        volgen.sample(RUN)


def test_what_samples_without_a_folder_says_of_no_folder(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volgen.sample(RUN)
    assert "volgen-sample" not in capsys.readouterr().err


def test_a_loop_of_ones_own_gives_the_volume_of_the_sampler(there: Path) -> None:
    expected = volgen.sample(RUN, count=2, seed=3, sampler="euler")[1]
    with volgen.load(RUN, device="cpu") as model:
        assert isinstance(model, Denoiser)
        y = x = model.prior(model.noise(seed=3, index=1))
        for sigma, lower in itertools.pairwise([*model.grid, 0.0]):
            y = y + (lower - sigma) / sigma * (y - model(y, sigma))  # as the books have it
            x0 = model(x, torch.tensor([sigma]))
            x = x0 + lower / sigma * (x - x0)  # as volgen computes it
        assert model.image(x).to_bytes() == expected.to_bytes()
        assert np.allclose(model.image(y).get_fdata(), expected.get_fdata(), atol=1e-2)
        assert np.ptp(expected.get_fdata()) > 50.0


def test_a_run_whose_networks_see_a_coarser_level_is_a_denoiser_of_whole_volumes(there: Path) -> None:
    stopping = {"max_steps": 2, "min_steps": 1, "validate_every": 2, "validation_volumes": 1, "validation_draws": 1}
    run = volgen.train("run.yaml", {"name": "coarse", "level": 1, "preconditioner": {"kind": "edm"}, "stopping": stopping})
    (expected,) = volgen.sample(run, sampler="euler")
    with volgen.load(run, device="cpu") as model:
        assert model.shape == expected.shape
        x = model.prior(model.noise())
        for sigma, lower in itertools.pairwise([*model.grid, 0.0]):
            x0 = model(x, sigma)
            x = x0 + lower / sigma * (x - x0)
        assert model.image(x).to_bytes() == expected.to_bytes()


def test_the_loop_in_the_docs_is_such_a_loop(there: Path, repository: Path) -> None:
    (there / "runs" / "first").symlink_to(there / RUN)
    page = (repository / "docs" / "python.md").read_text()
    (block,) = (text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "volgen.load" in text)
    exec(block, {})
    expected = volgen.sample("runs/first", sampler="euler")[0]
    assert np.allclose(nib.Nifti1Image.from_filename("volume.nii.gz").get_fdata(), expected.get_fdata(), atol=1e-2)


class _Age(ConditionConfig):
    kind: Literal["age"] = "age"

    def value(self, about: Mapping[str, Any]) -> float:
        return 0.0

    def build(self, width: int) -> torch.nn.Module:
        return torch.nn.Identity()


def test_what_volumes_are_asked_to_be_is_told_to_all_of_a_batch(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with volgen.load(RUN, device="cpu") as model:
        y = torch.randn(3, 1, 16, 16, 16)
        assert torch.equal(model(y, 1.0, {}), model(y, 1.0))
        with pytest.raises(volgen.UserError, match=r"there is no condition 'age'; expected nothing: this run was trained without"):
            model(y, 1.0, {"age": 70})
        monkeypatch.setattr(model, "_conditions", (_Age(),))
        asked: list[Given] = []
        monkeypatch.setattr(model, "_bank", lambda y, sigma, given: asked.append(given))
        model(y, 1.0, {"age": 70})
        model(y, 1.0, Given(values={"age": torch.tensor([1.0, 2.0, 3.0])}))
        monkeypatch.undo()
    assert [given.values["age"].tolist() for given in asked] == [[70.0, 70.0, 70.0], [1.0, 2.0, 3.0]]


def test_a_model_says_what_it_is_of_and_refuses_what_it_is_not_for(there: Path) -> None:
    with volgen.load(RUN) as model:
        assert (model.name, model.shape, model.voxel_size, len(model.grid)) == ("finished", (16, 16, 16), (14.0, 14.0, 14.0), 4)
        assert model.grid[0] == model.sigma_max and model.grid[-1] == model.sigma_min and list(model.grid) == sorted(model.grid)[::-1]
        assert np.array_equal(model.affine, volgen.sample(RUN)[0].affine) and model.config["network"]["kind"] == "wavelet_unet3d"
        assert "4 noise levels, 16 x 16 x 16 voxels of 14 x 14 x 14 mm" in repr(model) and len(model.fingerprint) == 64
        y = torch.randn(3, 1, 16, 16, 16)
        several = model(y, torch.tensor([80.0, 0.02, 1.0]))
        assert torch.allclose(several[1:2], model(y[1:2], 0.02), atol=1e-5) and not several.requires_grad
        slope = torch.autograd.grad(model(leaf := y[:1].clone().requires_grad_(), 1.0).sum(), leaf)[0]
        assert slope.shape == leaf.shape and float(slope.abs().max()) > 0.0
        for bad, message in ((y[:, :, 1:], r"expected \[B, 1, 16, 16, 16\]"), (y[0], "noisy volumes of shape")):
            with pytest.raises(ValueError, match=message):
                model(bad, 1.0)
        for level in (0.0, -1.0, float("nan"), 100.0):
            with pytest.raises(ValueError, match=r"noise level|sigma"):
                model(y, level)
        with pytest.raises(ValueError, match="is not one volume"):
            model.image(y)
    with pytest.raises(volgen.UserError, match=r"nowhere: there is no such directory; expected a run"):
        volgen.load("nowhere")
    with pytest.raises(volgen.UserError, match="capacity: 0"):
        volgen.load(RUN, capacity=0)


def test_ingest_and_export_make_the_files_of_the_commands(there: Path) -> None:
    images = volgen.export(STORE, "by_function", ["sub-DEP02", "sub-DEP01"], orientation="RAS")
    assert cli.main(["export", STORE, "--out", "by_command", "--ids", "sub-DEP02", "sub-DEP01", "--orientation", "RAS"]) == 0
    assert _files(Path("by_function")) == _files(Path("by_command"))
    assert [path.name for path in images] == ["sub-DEP02_T1w.nii.gz", "sub-DEP01_T1w.nii.gz"]
    summary = volgen.ingest("by_function", "store_of_function", shape=(8, 12, 8), voxel_size=20, workers=1, validation=0.5)
    words = "ingest by_function store_of_command --shape 8 12 8 --voxel-size 20 --workers 1 --validation 0.5"
    assert cli.main(words.split()) == 0
    assert _files(Path("store_of_function")) == _files(Path("store_of_command"))
    assert sum(summary.splits.values()) == len(summary.records) == 2 and summary.records[0].shape == (8, 12, 8)
    with pytest.raises(volgen.UserError, match=r"volgen\.ingest: voxel_size"):
        volgen.ingest("by_function", "store", voxel_size=-1)


def test_report_and_evaluate_say_what_the_command_says(there: Path) -> None:
    outcome = volgen.report("samples", STORE, "by_function", split="train", real_pictures=False)
    assert cli.main(["report", "samples", "--reference", STORE, "--out", "by_command", "--split", "train", "--no-real-pictures"]) == 0
    assert _files(Path("by_function")) == _files(Path("by_command"))
    content = json.loads(Path("by_command/report.json").read_text())
    assert outcome.passed + outcome.failed == len(content["volumes"]) and outcome.page == Path("by_function/report.html")
    images = [nifti.image(path) for path in sorted(Path("samples").glob("*.nii.gz"))]
    assert volgen.evaluate("samples", STORE) == volgen.evaluate(images, STORE) == content["cohort"]
    found = volgen.verdicts("samples", STORE, split="train")
    told = [
        {name: value for name, value in volume.items() if name not in ("file", "shape", "worst", "head")} for volume in content["volumes"]
    ]
    assert found["volumes"] == told
    assert [found[level] for level in ("pass", "other", "fail")] == [content["summary"][key] for key in ("passed", "other", "failed")]
    assert found["metrics"].keys() == content["metrics"].keys()
    by_bands = volgen.verdicts(images, "by_command/bands.json")
    assert [{**entry, "name": ""} for entry in by_bands["volumes"]] == [{**entry, "name": ""} for entry in told]
    one = by_bands["metrics"]["tv_ratio"]
    assert one["outside"] == sum(any(f["metric"] == "tv_ratio" for f in volume["findings"]) for volume in told)
    assert one["axes"]["S"]["median"] == pytest.approx(np.median([volume["metrics"]["tv_ratio"]["S"] for volume in told]), rel=1e-4)
    with pytest.raises(volgen.UserError, match="no volume"):
        volgen.verdicts([], STORE)
    comparison = volgen.report({"ours": "samples", "theirs": "export"}, STORE, "side_by_side")
    assert sorted(comparison.order) == ["ours", "theirs"] and (there / "side_by_side" / "compare.json").exists()
    flat = nib.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.diag([14.0, 14.0, 14.0, 1.0]))
    with pytest.raises(volgen.UserError, match="do not share one shape"):
        volgen.evaluate([flat], STORE)


def test_train_makes_the_run_of_the_command(there: Path) -> None:
    recipe = yaml.safe_load(Path("run.yaml").read_text())
    run = volgen.train({**recipe, "name": "mine"}, {"stopping": {"max_steps": 2}, "experts.count": 2, "runs": Path("by_function")})
    words = ["--config", "run.yaml", "--name", "mine", "--stopping.max_steps", "2", "--experts.count", "2", "--runs", "by_command"]
    assert cli.main(["train", *words]) == 0
    assert run == Path("by_function/mine")
    weights = [sorted(Path(folder).rglob("weights.safetensors")) for folder in ("by_function", "by_command")]
    assert len(weights[0]) == 2 and [path.read_bytes() for path in weights[0]] == [path.read_bytes() for path in weights[1]]
    assert volgen.sample(run)[0].shape == (16, 16, 16)
    with pytest.raises(volgen.UserError, match=r"unknown key 'experts.cuont'; expected a key of the configuration\. Did you mean 'count'"):
        volgen.train("run.yaml", {"experts": {"cuont": 2}})


@pytest.mark.parametrize(("code", "raised"), [(exit_codes.INTERRUPTED, KeyboardInterrupt), (exit_codes.SAVED, SystemExit)])
def test_a_stop_of_training_is_the_kind_of_error_that_python_has_for_it(
    code: int, raised: type[BaseException], there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("volgen.commands.train.train.train", lambda recipe, only: sys.exit(code))
    with pytest.raises(raised):
        volgen.train("run.yaml", {"name": "stopped"})


def test_explain_knows_every_key_of_a_configuration(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = volgen.explain("optimiser.learning_rate")
    assert all(words in text for words in ("Peak step size", "number > 0", "default: 0.001"))
    assert cli.main(["explain", "optimiser.learning_rate"]) == 0 and capsys.readouterr().out == text + "\n"

    def keys(prefix: str, content: dict[str, Any]) -> list[str]:
        return [
            key
            for name, value in content.items()
            for key in (keys(f"{prefix}{name}.", value) if isinstance(value, dict) else [f"{prefix}{name}"])
        ]

    with volgen.load(RUN) as model:
        for key in keys("", model.config):
            assert key in volgen.explain(key) or key.endswith(".kind"), key
    assert "heun" in volgen.explain("sampler") and "(of ddim)" in volgen.explain("sampler.eta") and "Haar" in volgen.explain("network.kind")
    assert all(f"\n{section} " in volgen.explain() for section in ("sampler", "privacy", "data"))
    assert volgen.explain("experts.models[0].points") == volgen.explain("experts.models.points") in volgen.explain("experts.models")
    learning_rate = "optimiser.learning_rate"
    for typo, meant in {"optimizer.learning_rat": learning_rate, "learning_rate": learning_rate, "smapler": "sampler"}.items():
        with pytest.raises(volgen.UserError, match=f"there is no key '{typo}'.*Did you mean ('.*' or )?'{meant}'"):
            volgen.explain(typo)
