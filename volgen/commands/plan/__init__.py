"""Memory, disk, network and time of a run before a launch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Dotted, Option, Pairs

if TYPE_CHECKING:
    from volgen.commands.plan.settings import Plan

USAGE = "volgen plan --config CONFIG.yaml --nodes N --gpus-per-node G --gpu-memory GiB [options] [--section.key VALUE ...]"


class Config(BaseConfig):
    """Which run, and on which machines."""

    config: Annotated[Path, Option("CONFIG.yaml")]
    """The experiment; see configs/."""
    nodes: Annotated[int, Option("N")]
    """Number of machines."""
    gpus_per_node: Annotated[int, Option("G")]
    """GPUs of each machine, one rank for each."""
    gpu_memory: Annotated[float, Option("GiB")]
    """Memory of one GPU."""
    out: Annotated[Path | None, Option("DIR")] = None
    """Folder for plan.json, DeepSpeed's configuration and the launch lines."""
    measure: bool = False
    """Whether to take the throughput from some real steps on this machine."""
    throughput: Annotated[float | None, Option("TFLOPS")] = None
    """TFLOP/s that one GPU achieves (default: an assumption)."""
    bandwidth: Annotated[float | None, Option("GBPS")] = None
    """GB/s that one GPU sends (default: an assumption)."""
    people: Annotated[int | None, Option("N")] = None
    """Training volumes, or patients (default: those of the store)."""
    device: Literal["gpu", "cpu"] = "gpu"
    """What ranks compute on; for cpu, --gpu-memory is the memory of one process."""
    overrides: Annotated[Pairs, Dotted()] = ()
    """Keys of the configuration and what they shall be instead."""


def run(config: Config) -> Answer[Plan]:
    """Plans a run; passed if there is a setting that fits."""
    from volgen import recipe
    from volgen.commands.plan.plan import plan

    found = plan(
        recipe.load(config.config, config.overrides), config.config, config.overrides, nodes=config.nodes,
        gpus_per_node=config.gpus_per_node, gpu_memory=config.gpu_memory, out=config.out, calibrate=config.measure,
        throughput=config.throughput, bandwidth=config.bandwidth, device=config.device, people=config.people,
    )  # fmt: skip
    return Answer(found, passed=found.chosen is not None)
