"""What ``volgen plan --out`` writes: the plan for programs, DeepSpeed's configuration, and how to launch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from volgen.commands.plan.settings import Plan, Setting
from volgen.commands.plan.text import COLUMNS, keys
from volgen.core.files import write_json, write_text
from volgen.core.folder import Folder, claim
from volgen.core.manifest import Provenance
from volgen.parallel.engine import settings
from volgen.recipe import Recipe

PLAN, DEEPSPEED, LAUNCH = "plan.json", "deepspeed{}.json", "launch.txt"


def claimed(out: Path, recipe: Recipe, config: Path) -> AbstractContextManager[Folder]:
    """Claims a folder that is empty, or holds an earlier plan.

    Raises:
        UserError: it holds something else, or another process is writing to it.
    """

    def differs(before: Mapping[str, Any]) -> str:
        return "" if before.get("stage") == "plan" else f"holds the output of volgen {before.get('stage')}"

    provenance = Provenance("plan", recipe.model_dump(mode="json"), {"config": config.name}, recipe.seed)
    return claim(
        out, provenance, "the plan", writes=lambda name: name in (PLAN, LAUNCH) or fnmatch(name, DEEPSPEED.format("*")), differs=differs
    )


def write(folder: Folder, plan: Plan, recipe: Recipe, config: Path, overrides: Sequence[tuple[str, str]]) -> None:
    """Writes ``plan.json``; if something fits also DeepSpeed's configuration of each model and ``launch.txt``; and the manifest."""
    folder.begin()
    write_json(folder.path / PLAN, content(plan))
    for path in (*folder.path.glob(DEEPSPEED.format("*")), folder.path / LAUNCH):  # of an earlier plan
        path.unlink(missing_ok=True)
    if plan.chosen is not None:
        for number, (cost, size) in enumerate(zip(plan.chosen.networks, plan.networks, strict=True)):
            variant = plan.chosen.recipe.of(cost.phase)
            name = DEEPSPEED.format(f"-{number}" if len(plan.networks) > 1 else "")
            write_json(folder.path / name, deepspeed_json(variant, plan.cluster.ranks, size.parameters))
        write_text(folder.path / LAUNCH, "\n".join(launch_lines(plan, plan.chosen, config, overrides)) + "\n")
    folder.finish()


def content(plan: Plan) -> dict[str, Any]:
    """The form of ``plan.json``: ``stages`` has the best setting of each ZeRO stage, ``settings`` all that were looked at."""
    cluster = plan.cluster
    best = {setting.engine.zero_stage: setting for setting in reversed(plan.settings)}
    disk = sum(plan.disk.values())
    return {
        "parameters": max((size.released for size in plan.networks), default=None),
        "trained_parameters": max((size.parameters for size in plan.networks), default=None),
        "cluster": {
            "nodes": cluster.nodes, "gpus_per_node": cluster.gpus_per_node, "gpu_memory_bytes": cluster.gpu_memory,
            "flops_per_second": cluster.throughput, "bytes_per_second": cluster.bandwidth,
        },
        "stages": [_row(best[stage], disk) for stage in sorted(best)],
        "settings": [_row(setting, disk) for setting in plan.settings],
        "chosen": None if plan.chosen is None else _row(plan.chosen, disk),
        "reason": plan.reason,
        "disk": plan.disk,
        "sampling": None if plan.sampling is None else {
            "seconds": plan.sampling.usual_seconds, **asdict(plan.sampling.usual),
            "full": {"seconds": plan.sampling.full_seconds, **asdict(plan.sampling.full)},
        },
        "privacy": None if plan.forecast is None else asdict(plan.forecast),
        "assumptions": list(plan.assumptions),
    }  # fmt: skip


def _row(setting: Setting, disk: int) -> dict[str, Any]:
    engine, memory = setting.engine, setting.memory
    return {
        "stage": engine.zero_stage,
        "fits": setting.fits,
        "activation_checkpointing": engine.activation_checkpointing,
        "offload": engine.offload,
        "accumulation": engine.accumulation,
        "groups": setting.recipe.experts.groups,
        "bytes_per_gpu": {name: getattr(memory, name) for name in COLUMNS},
        "buffers": memory.parts,
        "worst_moment": memory.moment,
        "host_bytes_per_rank": memory.host,
        "patients_at_once": None if setting.at_once is None else setting.at_once.patients,
        "flops_per_step": setting.flops,
        "network_bytes_per_step": setting.network_bytes,
        "step_seconds": setting.step_seconds,
        "hours_per_expert": setting.expert_hours,
        "hours": setting.hours,
        "networks": [
            {
                "name": cost.phase.label,
                "level": setting.recipe.of(cost.phase).level,
                "flops_per_step": cost.flops,
                "step_seconds": cost.step_seconds,
                "bytes_per_gpu": cost.memory,
            }
            for cost in setting.networks
        ],
        "disk_bytes": disk,
    }


def deepspeed_json(recipe: Recipe, ranks: int, parameters: int) -> dict[str, Any]:
    """What the engine will hand to DeepSpeed."""
    optimiser = recipe.optimiser
    micro_batch = recipe.data.batch_size * recipe.experts.groups // (ranks * recipe.engine.accumulation)
    privacy = recipe.privacy
    return settings(
        privacy.reduced(recipe.engine), privacy.micro_batch(micro_batch), optimiser.betas, optimiser.weight_decay,
        optimiser.gradient_clip, bool(optimiser.matrix_learning_rate), parameters,
    )  # fmt: skip


def launch_lines(plan: Plan, setting: Setting, config: Path, overrides: Sequence[tuple[str, str]]) -> list[str]:
    """How to start it: on one machine, or with each of the launchers for several."""
    given = {**dict(overrides), **dict(keys(setting))}
    train = " ".join(["--config", shlex.quote(str(config)), *(f"--{key} {shlex.quote(value)}" for key, value in given.items())])
    cluster = plan.cluster
    if cluster.nodes == 1:
        return [f"bash launch/local.sh {cluster.gpus_per_node} {train}"]
    slots = f"--nodes={cluster.nodes} --ntasks-per-node={cluster.gpus_per_node} --gpus-per-node={cluster.gpus_per_node}"
    return [
        "# one of these; see docs/launch.md",
        f"bash launch/hostfile.sh HOSTFILE {train}",
        f"sbatch {slots} launch/slurm.sbatch {train}",
        f"bash launch/mpi.sh HOSTFILE {train}",
    ]
