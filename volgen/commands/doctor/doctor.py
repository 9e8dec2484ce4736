"""``volgen doctor``: what this machine, or the machines of a hostfile, can do, and what is missing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import psutil

import volgen
from volgen.commands.doctor.files import disk, shared_directory, token
from volgen.commands.doctor.finding import Finding
from volgen.commands.doctor.hosts import ANSWER_SECONDS, ask, judge, read_hostfile
from volgen.core.cores import cores
from volgen.parallel import launch

LIBRARIES = ("torch", "deepspeed", "monai", "tensorstore", "zarr", "nibabel", "torchio")
PROGRAMS = {
    "ssh": (("ssh", "-V"), "openssh-client", "launch/hostfile.sh"),
    "pdsh": (("pdsh", "-V"), "pdsh", "launch/hostfile.sh"),
    "Slurm": (("sbatch", "--version"), "slurm-client", "launch/slurm.sbatch"),
    "Open MPI": (("mpirun", "--version"), "openmpi-bin", "launch/mpi.sh"),
}
"""Programs by name: what prints the version, Debian's package, and the recipe that needs it."""
LITTLE_SHARED_MEMORY = 2**30
"""Bytes; NCCL wants it between the GPUs of a machine."""


def doctor(hostfile: Path | None = None, shared: Path | None = None, *, quick: bool = False, as_json: bool = False) -> bool:
    """Looks, and prints what it found.

    Args:
        hostfile: machines to reach over ssh; then ssh and pdsh are needed.
        shared: directory that all machines shall see.
        quick: leave out what takes seconds: torch and DeepSpeed at work.
        as_json: print JSON.

    Returns:
        Whether nothing that local training or one of the arguments needs is missing.

    Raises:
        UserError: the hostfile has another form, or a launcher's variables contradict each other.
    """
    hosts = None if hostfile is None else read_hostfile(hostfile)
    rank = launch.discover()
    findings = [*_machine(rank), *_libraries(), *([] if quick else _compute()), *_programs(needed=hosts is not None)]
    findings += disk(Path.cwd(), "disk here")
    if shared is not None:
        findings += shared_directory(shared)
    if hosts is not None:
        with token(shared) as probe:
            findings += [judge(host, probe) for host in ask(hosts, probe)]
    healthy = all(finding.state != "missing" for finding in findings)
    if rank.rank > 0 and healthy:  # every rank says who it is; the rest would be the same lines again
        findings = findings[:1]
    print(json.dumps({"ok": healthy, "findings": [asdict(finding) for finding in findings]}, indent=2) if as_json else _text(findings))
    return healthy


def _text(findings: Sequence[Finding]) -> str:
    width = max(len(finding.name) for finding in findings)
    return "\n".join(
        f"{finding.state:<8} {finding.name:<{width}}  {finding.found}"
        + (f". {finding.do[0].upper()}{finding.do[1:]}" if finding.do else "")
        for finding in findings
    )


def _machine(rank: launch.Launch) -> Iterator[Finding]:
    yield Finding("launch", "ok", rank.describe())
    memory = psutil.virtual_memory()
    yield Finding("machine", "ok", f"{cores()} cores, {memory.total / 2**30:.0f} GiB of memory, {memory.available / 2**30:.0f} GiB free")
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        yield Finding("host name", "note", f"{name} resolves to nothing here", "for several machines, add it to DNS or /etc/hosts")
    else:
        loopback = address.startswith("127.")
        do = "for several machines, give MASTER_ADDR an address that they reach" if loopback else ""
        yield Finding("host name", "note" if loopback else "ok", f"{name} is {address}", do)


def _libraries() -> Iterator[Finding]:
    yield Finding("volgen", "ok", f"{volgen.__version__}, Python {sys.version.split()[0]} ({sys.executable})")
    for library in LIBRARIES:
        try:
            yield Finding(library, "ok", metadata.version(library))
        except metadata.PackageNotFoundError:
            yield Finding(library, "missing", "not installed", "bash launch/test.sh makes a complete environment")


def _compute() -> Iterator[Finding]:
    """Torch and DeepSpeed at work."""
    try:
        import torch

        gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    except Exception as error:  # a broken installation fails in any way
        yield Finding("accelerators", "missing", f"torch does not work: {error}", "install torch for this machine's driver")
        return
    if gpus:
        described = ", ".join(f"{gpu.name} {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus)
        yield Finding("accelerators", "ok", f"{described}; backend nccl, CUDA {torch.version.cuda}")
        available = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").exists() else 0
        if len(gpus) > 1 and available < LITTLE_SHARED_MEMORY:
            found, do = f"/dev/shm has {available / 2**20:.0f} MiB", "start the container with --shm-size=8g or --ipc=host"
            yield Finding("shared memory", "note", found, do)
    else:
        yield Finding(
            "accelerators", "note", "no GPU that torch can use; CPU, backend gloo", "for a GPU, check nvidia-smi and torch's build"
        )
    try:
        from volgen.parallel.engine import deepspeed

        if not gpus:
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        yield Finding("DeepSpeed", "ok", f"works on {deepspeed().accelerator.get_accelerator().device_name()}")
    except Exception as error:  # as above
        yield Finding("DeepSpeed", "missing", f"does not work: {error}", "reinstall it with DS_BUILD_OPS=0, after torch")


def _programs(*, needed: bool) -> Iterator[Finding]:
    for name, (command, package, recipe) in PROGRAMS.items():
        if shutil.which(command[0]) is None:
            wanted = needed and recipe == "launch/hostfile.sh"
            yield Finding(name, "missing" if wanted else "note", f"{command[0]} is not on PATH; {recipe} needs it", f"install {package}")
            continue
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL, timeout=ANSWER_SECONDS
            )
        except subprocess.TimeoutExpired:
            yield Finding(name, "note", f"{command[0]} does not answer within {ANSWER_SECONDS} s", f"it must work for {recipe}")
            continue
        lines = (done.stdout + done.stderr).strip().splitlines() or [command[0]]
        if done.returncode:
            yield Finding(name, "note", f"{command[0]} is there, but: {lines[0]}", f"it must work for {recipe}")
        else:
            yield Finding(name, "ok", lines[0])
