"""``volgen plan``: answers, files and refusals. The network is tiny, so that a trace takes a second."""

from __future__ import annotations

import gc
import json
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as serialise

from volgen import recipe as recipes
from volgen.cli import main
from volgen.commands.plan.memory import memory
from volgen.commands.plan.settings import Cluster, Planner, disk_bytes, hours_of_run, shares
from volgen.commands.plan.text import duration
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.experts.plan import ExpertsConfig
from volgen.experts.plan import plan as phases_of
from volgen.parallel.engine import Engine
from volgen.parallel.group import Group
from volgen.parallel.launch import Launch, take_part
from volgen.parallel.memory_trace import Allocations
from volgen.planning.checkpoints import checkpoint_bytes
from volgen.planning.step import trace
from volgen.recipe import Recipe
from volgen.training import checkpoint
from volgen.training.checkpoint import Moment
from volgen.training.ema import EMA
from volgen.training.stopping import Stopping

MIB = 2**20

CONFIG = """
name: tiny
runs: {runs}
data: {{store: {store}, shape: [16, 16, 16], batch_size: 4}}
schedule: {{kind: log_snr, sigma_min: 0.2, sigma_max: 5.0, points: 4}}
network: {{kind: wavelet_unet3d, channels: [8]}}
preconditioner: {{kind: edm}}
experts: {{count: 2}}
optimiser: {{warmup_steps: 0}}
stopping: {{max_steps: 2, validate_every: 2, validation_volumes: 1, validation_draws: 1}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG.format(store="no-such-store.zarr", runs=tmp_path / "runs"))
    return path


def plan(config: Path, *more: str, memory: str = "8") -> int:
    return main(["plan", "--config", str(config), "--nodes", "1", "--gpus-per-node", "2", "--gpu-memory", memory, *more])


def test_a_plan_that_fits_writes_its_files(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan"
    assert plan(config, "--out", str(out), "--throughput", "1") == 0
    printed = capsys.readouterr().out
    assert "cheapest setting that fits: --engine.zero_stage 0" in printed
    assert "assumed, not measured" in printed and "throughput: " not in printed
    content = json.loads((out / "plan.json").read_text())
    assert [row["stage"] for row in content["stages"]] == [0, 1, 2, 3]
    for row in content["settings"]:
        parts = row["bytes_per_gpu"]
        assert set(parts) == {"weights", "gradients", "optimizer", "activations", "buffers", "total"}
        assert parts["total"] == sum(value for name, value in parts.items() if name != "total")
        assert row["fits"] == (parts["total"] <= 8 * 2**30)
        assert row["hours"] > 0 and row["disk_bytes"] > 0
    assert content["chosen"]["fits"]
    deepspeed = json.loads((out / "deepspeed.json").read_text())
    assert deepspeed["train_micro_batch_size_per_gpu"] == 2
    assert deepspeed["zero_optimization"]["stage"] == content["chosen"]["stage"]
    assert (out / "launch.txt").read_text().startswith("bash launch/local.sh 2 --config ")
    assert json.loads((out / "manifest.json").read_text())["stage"] == "plan"


def test_a_store_of_another_shape_is_refused(config: Path, blob_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # It is of 16^3; training would say so, after a queue.
    words = ["--data.store", str(blob_store), "--data.shape", "[32, 32, 32]"]
    for more in ([], ["--people", "100"]):
        assert plan(config, *words, *more) == 2
        message = capsys.readouterr().err
        assert "data.shape: is [32, 32, 32], but sub-00" in message and "is [16, 16, 16]" in message
    assert plan(config, "--data.store", str(blob_store)) == 0


def test_a_step_of_a_small_network_takes_as_long_as_its_operations(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(config, "--stopping.max_steps", "480", "--out", str(tmp_path / "plan")) == 0
    chosen = json.loads((tmp_path / "plan" / "plan.json").read_text())["chosen"]
    operations = trace(recipes.load(config), 2, 10, gpu=True).operations
    assert operations > 500 and chosen["flops_per_step"] / 10e12 < 1e-3, "0.0001 s of computing"
    assert chosen["step_seconds"] > operations * 10e-6
    assert 960 * operations * 10e-6 < chosen["hours"] * 3600 < 1200 * operations * 10e-6, "two experts of 480 steps, and validations"
    printed = capsys.readouterr().out
    assert f"at most {duration(chosen['hours'])})" in printed and "us for each operation" in printed


@pytest.mark.parametrize(
    ("hours", "words"),
    [(0.0001, "0.36 s"), (59.99 / 3600, "1 min"), (0.5, "30 min"), (1.0, "1 h"), (105.0, "105 h"), (1009.0, "42 d"), (1e6, "41,667 d")],
)
def test_durations_have_a_unit_that_people_can_judge(hours: float, words: str) -> None:
    assert duration(hours) == words


def test_nothing_fits(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan"
    assert plan(config, "--out", str(out), memory="0.01") == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("nothing fits: the smallest setting needs 1.5 GiB on each rank")
    assert json.loads((out / "plan.json").read_text())["chosen"] is None
    assert not (out / "launch.txt").exists()


def test_a_batch_that_ranks_cannot_share(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", str(config), "--nodes", "3", "--gpus-per-node", "1", "--gpu-memory", "8"]) == 1
    assert "data.batch_size 4 cannot be shared evenly by 3 ranks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--gpu-memory", "-1"], "--gpu-memory"),
        (["--nodes", "0"], "--nodes"),
        (["--throughput", "nan"], "--throughput"),
        (["--throughput", "1", "--measure"], "--throughput"),
        (["--no.such.key", "1"], "no"),
    ],
)
def test_bad_numbers_are_refused(config: Path, more: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(config, *more) == 2
    message = capsys.readouterr().err
    assert named in message and "Traceback" not in message


def test_shares_begin_with_what_is_configured(config: Path) -> None:
    recipe = recipes.load(config)
    assert list(shares(recipe, 2)) == [(1, 1), (1, 2)]
    assert list(shares(recipe, 8)) == []  # 4 volumes for 8 ranks in one group
    grouped = recipes.load(config, [("experts.chains", "2"), ("experts.groups", "2")])
    assert next(shares(grouped, 8)) == (2, 1)


def test_checkpointing_computes_more_and_keeps_less(config: Path) -> None:
    recipe = recipes.load(config, [("network.channels", "[16, 16]"), ("network.residual_blocks", "3")])
    kept = trace(recipe, 4, 10, gpu=True)
    again = trace(
        recipe.model_copy(update={"engine": recipe.engine.model_copy(update={"activation_checkpointing": True})}), 4, 10, gpu=True
    )
    assert again.flops > 1.15 * kept.flops
    assert again.peak < 0.8 * kept.peak
    # Twice the volumes, twice the work.
    assert trace(recipe, 2, 10, gpu=True).flops * 2 == kept.flops


def test_the_fit_of_the_preconditioner_is_planned_where_it_takes_most(config: Path) -> None:
    recipe = recipes.load(config, [("preconditioner.kind", "gaussian"), ("preconditioner.rank", "64"), ("data.cache_gib", "0.5")])
    process, people = 10 * MIB, 2000
    fit, cache = recipe.preconditioner.fit_bytes((16, 16, 16), people), 2 * 16**3 * people
    small = memory(recipe, trace(recipe, 4, people, gpu=False), 1, people, process)
    assert small.moment == "fit of the preconditioner"
    assert small.total == process + cache + fit == sum(small.parts.values()) + small.activations
    # With few people there is little to fit, and training is the worst.
    few = memory(recipe, trace(recipe, 4, 8, gpu=False), 1, 8, process)
    assert few.moment != small.moment and few.total > process + recipe.preconditioner.fit_bytes((16, 16, 16), 8)
    # With GPUs it is done in the host's memory.
    gpu = memory(recipe, trace(recipe, 4, people, gpu=True), 1, people, None)
    assert gpu.moment != small.moment and gpu.host == cache + fit


def test_a_checkpoint_takes_what_the_plan_says(config: Path, tmp_path: Path) -> None:
    """A kind of state once as tensors and once as bytes, and the best weights as bytes: no more."""
    take_part(Launch())
    recipe = recipes.load(config, [("network.channels", "[64, 128]")])
    network = recipe.network.build(inputs=1)
    whole = 4 * sum(p.numel() for p in network.parameters())
    engine = Engine(network, recipe.engine, 1)
    group, ema = Group(Launch(), torch.device("cpu")), EMA(recipe.ema, engine.masters())
    engine.backward(engine(torch.randn(1, 1, 16, 16, 16), torch.zeros(1)).square().mean())
    engine.step(1e-3)
    gc.collect()
    (tmp_path / "experts").mkdir()
    exported = tmp_path / "experts" / "weights.safetensors"
    tracemalloc.start()
    try:
        with Allocations() as tensors:
            exported.write_bytes(serialise(engine.full_state()))
            checkpoint.save(Moment("0", 0, 1, 0), engine, ema, Stopping(recipe.stopping, 2), group, exported)
        _, in_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        engine.destroy()
    assert 0.9 * whole < in_bytes < 1.15 * whole, "one copy as bytes at a time"
    assert 0.9 * whole < tensors.peak < 1.3 * whole, "one kind of state at a time"


def test_disk_is_that_of_a_real_run(blob_store: Path, tmp_path: Path) -> None:
    content = {
        "name": "real", "runs": str(tmp_path), "data": {"store": str(blob_store), "shape": [16, 16, 16], "batch_size": 2},
        "schedule": {"kind": "log_snr", "sigma_min": 0.2, "sigma_max": 5.0, "points": 4},
        "network": {"kind": "wavelet_unet3d", "channels": [16, 32]}, "preconditioner": {"kind": "edm"}, "experts": {"count": 2},
        "stopping": {"max_steps": 1, "validate_every": 1, "validation_volumes": 1, "validation_draws": 1},
    }  # fmt: skip
    recipe = validate(Recipe, content, "test")
    run = train(recipe)
    written = sum(path.stat().st_size for path in run.glob("experts/*/weights.safetensors"))
    planned = disk_bytes(recipe, [trace(recipe, 2, 10, gpu=True).network], 0)["weights (EMA) of all networks"]
    assert written == pytest.approx(planned, rel=0.03)  # names and shapes are in the files too


@pytest.mark.parametrize(
    ("experts", "chains", "groups", "hours"), [(200, 25, 4, 56), (200, 25, 8, 32), (30, 3, 2, 20), (16, 5, 4, 7), (7, 1, 1, 7)]
)
def test_experts_of_a_chain_follow_one_another(experts: int, chains: int, groups: int, hours: int) -> None:
    """An expert takes an hour, the shared network two; found by an independent simulation, and for one group by counting."""
    config = ExpertsConfig(count=experts, chains=chains, shared_steps=1)
    phases = phases_of(config, [1.0 + index for index in range(experts)])
    each = {phase.name: 2.0 if phase.index is None else 1.0 for phase in phases}
    assert hours_of_run(phases, each, groups) == 2 + hours


@pytest.mark.parametrize("adapter", ["bias", "lora"])
def test_an_adapter_is_planned_as_it_is_trained(repository: Path, adapter: str) -> None:
    recipe = recipes.load(repository / "configs" / "brain4mm_private.yaml", [("adapter.kind", adapter)])
    network = recipe.build().network(recipe.phases()[-1])  # what training takes
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert trained == {"bias": 3016, "lora": 97_440}[adapter]
    size = trace(recipe, 1, 10, gpu=True).network
    assert (size.parameters, size.released) == (trained, 1_119_048), "branches of lora are merged into what is released"
    assert disk_bytes(recipe, [size], 0)["weights (EMA) of all networks"] == 2 * 4 * 1_119_048
    assert checkpoint_bytes(size) == 3 * (4 * 1_119_048 + 4 * 4 * trained)
    whole = trace(recipe.model_copy(update={"adapter": recipes.load(repository / "configs" / "quickstart.yaml").adapter}), 1, 10, gpu=True)
    assert whole.network.parameters == 1_119_048
    few, all_of_them = (memory(recipe, each, 1, 10, None) for each in (trace(recipe, 1, 10, gpu=True), whole))
    assert few.optimizer < 0.1 * all_of_them.optimizer and few.weights >= all_of_them.weights


def test_plan_and_dry_run_say_how_much_an_adapter_trains(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = repository / "configs" / "brain4mm_private.yaml"
    assert plan(config, "--people", "2000", "--privacy.delta", "1e-5", "--out", str(tmp_path / "plan")) == 0
    content = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert (content["parameters"], content["trained_parameters"]) == (1_119_048, 3016)
    assert main(["train", "--config", str(config), "--dry-run"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("parameters")]
    assert len(told) == 2 and all("1,119,048 in each expert" in line and "3,016 in each are trained" in line for line in told)


def _hours(recipe: Recipe, ranks: int, groups: int) -> tuple[float, float]:
    """Of the run with stage 0, and of an expert."""
    cluster = Cluster(1, ranks, 2**40, 1e9, 1e9, None)
    (found,) = [
        s for s in Planner(recipe, cluster, 10).settings(groups, 1) if s.engine.zero_stage == 0 and not s.engine.activation_checkpointing
    ]
    return found.hours, found.expert_hours


def test_all_ranks_train_the_shared_network_whatever_their_groups(config: Path) -> None:
    shared = [("experts.shared_steps", "2"), ("experts.warm_start", "shared"), ("data.batch_size", "4")]
    recipe = recipes.load(config, shared)
    run, expert = _hours(recipe, ranks=4, groups=2)
    alone, _ = _hours(recipe, ranks=4, groups=1)
    # Two groups train two experts at once. Before that all four ranks train the shared network, as they do in one group.
    whole = alone - 2 * _hours(recipe, ranks=4, groups=1)[1]
    assert run == pytest.approx(expert + whole, rel=0.02)


def test_what_begins_from_a_public_run_is_validated_once_more(config: Path) -> None:
    cold = recipes.load(config, [("stopping.validation_volumes", "64")])
    start = recipes.load(config, [("start.kind", "public"), ("start.run", "elsewhere"), ("experts.warm_start", "none")])
    warm = cold.model_copy(update={"start": start.start, "experts": start.experts})
    cold = cold.model_copy(update={"experts": start.experts})
    # Two steps with one validation at their end, and one before them.
    step, both = (_hours(recipes.load(config, [("stopping.validation_volumes", str(n))]), 1, 1)[0] for n in (1, 64))
    assert _hours(warm, 1, 1)[0] - _hours(cold, 1, 1)[0] == pytest.approx((both - step) * 64 / 63, rel=0.35)
    assert _hours(warm, 1, 1)[0] > _hours(cold, 1, 1)[0] * 1.5


PRIVATE = """
name: private
runs: {runs}
data: {{store: {store}, shape: [16, 16, 16], batch_size: 4, workers: 1}}
schedule: {{kind: log_snr, points: 4}}
network: {{kind: wavelet_unet3d, channels: [8], norm_groups: 4}}
preconditioner: {{kind: edm}}
experts: {{count: 2}}
optimiser: {{gradient_clip: 0.0}}
stopping: {{max_steps: 2, min_steps: 2}}
privacy: {{kind: dp_sgd, epsilon: 6, delta: 1.0e-3, views: 3, accountant: rdp}}
"""


def test_a_private_plan_says_what_the_ledger_will(blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "private.yaml"
    config.write_text(PRIVATE.format(store=blob_store, runs=tmp_path / "runs"))
    assert plan(config, "--out", str(tmp_path / "plan")) == 0
    found = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert "epsilon" in capsys.readouterr().out
    ledger = json.loads((train(recipes.load(config)) / "privacy_ledger.json").read_text())
    entry = ledger["entries"][0]
    told = found["privacy"]
    assert told["epsilon"] == ledger["epsilon"] and told["steps"] == sum(entry["steps"] for entry in ledger["entries"]) == 4
    assert (told["noise_multiplier"], told["sampling_rate"]) == (entry["noise_multiplier"], entry["sampling_rate"])
    assert (told["neighbouring"], told["replace_one"]) == ("zero-out", ledger["guarantees"][-1]["epsilon"])
    best = {row["stage"]: row for row in found["stages"]}
    assert best[0]["patients_at_once"] == 2 and best[3]["patients_at_once"] == 1, "a rank draws two of four patients"
    asked = recipes.load(config)
    network = asked.build().released(asked.phases()[-1])
    assert best[0]["buffers"]["sum over patients"] == 4 * sum(p.numel() for p in network.parameters())
    assert "validation network" not in best[0]["buffers"]
    assert found["chosen"]["flops_per_step"] == 2 * 3 * trace(recipes.load(config), 1, 1, gpu=True).flops, "patients times views"
    assert plan(config, "--people", "2000") == 2, "delta must be below one over the number of patients"


def test_experts_that_jump_are_planned(tmp_path: Path) -> None:
    """Where a jump ends depends on the noise level itself, which is known while nothing is computed."""
    content = {
        "name": "jumps", "data": {"store": "nowhere.zarr", "shape": [16, 16, 16], "batch_size": 2},
        "method": {"kind": "jump"}, "objective": {"kind": "consistency"}, "schedule": {"kind": "log_snr", "points": 6, "sigma_max": 10.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4}, "preconditioner": {"kind": "gaussian", "rank": 2},
        "experts": {"count": 3},
    }  # fmt: skip
    (tmp_path / "jumps.yaml").write_text(json.dumps(content))
    assert plan(tmp_path / "jumps.yaml") == 0
