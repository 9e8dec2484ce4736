"""What each sub-command is: its options, and the stage that it hands them to.

A stage is imported when its command runs, so that ``volgen --help`` does not wait for torch. Defaults of ``ingest`` are read from its
configuration class; those of the other commands are the stage's own (a test compares them).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from volgen.core.errors import UserError
from volgen.core.exit_codes import CHECK_FAILED, DONE
from volgen.core.options import add_options, from_options

Overrides = Sequence[tuple[str, str]]
DTYPES = ("float32", "int16")


@dataclass(frozen=True)
class Command:
    """A sub-command.

    Attributes:
        help: what ``volgen --help`` says of it.
        arguments: adds its options to a parser.
        run: runs it with the parsed options and the dotted overrides; returns the exit code.
        overrides: what dotted configuration keys that it takes as options start with; none if it takes none.
    """

    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Overrides], int]
    overrides: Sequence[str] = ()


def _cohort_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="folder to make")


def _cohort(options: argparse.Namespace, _: Overrides) -> int:
    from volgen.cohort import copy_to

    print(copy_to(options.directory))
    return DONE


def _ingest_arguments(parser: argparse.ArgumentParser) -> None:
    from volgen.data.ingest.preprocess import IngestConfig

    parser.add_argument("source", metavar="SOURCE", type=Path, help="a NIfTI or MGH image, a folder of them, or a BIDS tree")
    parser.add_argument("store", metavar="STORE", type=Path, help="Zarr store to make or to continue")
    add_options(parser, IngestConfig)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", metavar="N", type=int, default=cores, help="processes (default: %(default)s, one for each core)")
    table = "table of whose each scan is: a column for the scan (file, scan_id, participant_id, ...) and one for the patient (patient, ...)"
    parser.add_argument("--patients", metavar="TABLE.tsv", type=Path, help=table)
    parser.add_argument("--strict", action="store_true", help="stop at the first scan that cannot be used instead of leaving it out")


def _ingest(options: argparse.Namespace, _: Overrides) -> int:
    from volgen.commands.ingest.ingest import ingest
    from volgen.data.ingest.preprocess import IngestConfig

    config = from_options(IngestConfig, options, "volgen ingest")
    ingest(options.source, options.store, config, workers=options.workers, strict=options.strict, patients=options.patients)
    return DONE


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", type=Path, help="Zarr store that volgen ingest made")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="new folder for the NIfTI files")
    parser.add_argument("--ids", metavar="ID", nargs="+", help="scans to export (default: all)")
    axes = "axis order: as in the ingested file, or RAS+ (default: %(default)s)"
    parser.add_argument("--orientation", choices=("source", "RAS"), default="source", help=axes)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="voxels in the files; int16 has a slope (default: %(default)s)")


def _export(options: argparse.Namespace, _: Overrides) -> int:
    from volgen.commands.export.export import export

    export(options.store, options.out, options.ids, options.orientation, options.dtype)
    return DONE


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "volgen train --config CONFIG.yaml [--section.key VALUE ...] [--only FIRST:LAST] [--print_config] [--dry-run]"
    parser.epilog = "Every key of the configuration can be given, for example: --experts.count 8 --network.kind=unet3d --seed 1"
    parser.add_argument("--config", metavar="CONFIG.yaml", type=Path, required=True, help="the experiment; see configs/")
    only = "train these experts only, LAST not included, or 'shared'; other jobs train the others at the same time"
    parser.add_argument("--only", metavar="FIRST:LAST", help=only)
    parser.add_argument("--print_config", "--print-config", action="store_true", help="print it with every default, and stop")
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="print the sizes of all networks without data, and stop")


def _train(options: argparse.Namespace, overrides: Overrides) -> int:
    from volgen import recipe
    from volgen.core.config import dump_yaml

    resolved = recipe.load(options.config, overrides)
    if options.print_config:
        print(dump_yaml(resolved), end="")
        return DONE
    from volgen.commands.train.train import train

    train(resolved, dry_run=options.dry_run, only=options.only)
    return DONE


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "volgen plan --config CONFIG.yaml --nodes N --gpus-per-node G --gpu-memory GiB [options] [--section.key VALUE ...]"
    parser.add_argument("--config", metavar="CONFIG.yaml", type=Path, required=True, help="the experiment; see configs/")
    parser.add_argument("--nodes", metavar="N", type=int, required=True, help="machines")
    parser.add_argument("--gpus-per-node", metavar="G", type=int, required=True, help="GPUs of each machine, one rank for each")
    parser.add_argument("--gpu-memory", metavar="GiB", type=float, required=True, help="memory of one GPU")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder for plan.json, DeepSpeed's configuration and the launch lines")
    parser.add_argument("--measure", action="store_true", help="take the throughput from some real steps on this machine")
    parser.add_argument("--throughput", metavar="TFLOPS", type=float, help="TFLOP/s that one GPU achieves (default: an assumption)")
    parser.add_argument("--bandwidth", metavar="GBPS", type=float, help="GB/s that one GPU sends (default: an assumption)")
    parser.add_argument("--people", metavar="N", type=int, help="training volumes, or patients (default: those of the store)")
    devices = "what ranks compute on; for cpu, --gpu-memory is the memory of one process (default: %(default)s)"
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help=devices)


def _plan(options: argparse.Namespace, overrides: Overrides) -> int:
    from volgen import recipe
    from volgen.commands.plan.plan import plan

    found = plan(
        recipe.load(options.config, overrides), options.config, overrides, nodes=options.nodes, gpus_per_node=options.gpus_per_node,
        gpu_memory=options.gpu_memory, out=options.out, calibrate=options.measure, throughput=options.throughput,
        bandwidth=options.bandwidth, device=options.device, people=options.people,
    )  # fmt: skip
    return DONE if found.chosen else CHECK_FAILED


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    solvers = "ddpm, ddim, euler, heun or dpmpp_2m, with settings as --sampler.KEY VALUE (default: the run's)"
    noises = "white, or slerp: neighbouring slices share noise, with --noise.axis R, A or S and --noise.spacing N (default: white)"
    seeds = "volume i depends on this seed and i alone (default: %(default)s)"
    together = "volumes that ranks hand on together; no volume depends on it (default: %(default)s)"
    parser.add_argument("run", metavar="RUN", type=Path, help="directory that volgen train made")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the NIfTI files, new or to be continued")
    parser.add_argument("--count", metavar="N", type=int, required=True, help="number of volumes")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help=seeds)
    parser.add_argument("--steps", metavar="N", type=int, help="points of the run's noise grid to visit (default: all)")
    parser.add_argument("--sampler", metavar="KIND", help=solvers)
    parser.add_argument("--noise", metavar="KIND", help=noises)
    parser.add_argument("--batch-size", metavar="N", type=int, default=1, help=together)
    parser.add_argument("--device", help="torch device (default: a GPU if there is one)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="voxels in the files; int16 has a slope (default: %(default)s)")
    parser.add_argument("--start-index", metavar="I", type=int, default=0, help="index of the first volume (default: %(default)s)")
    memory = "memory of a rank for volumes under way, and as much for experts (default: %(default)s)"
    parser.add_argument("--memory-gib", metavar="GiB", type=float, default=4.0, help=memory)
    rows = "ranks that each volume passes through, if there are several (default: as many as it takes to hold all experts)"
    parser.add_argument("--stages", metavar="N", type=int, help=rows)


def _sample(options: argparse.Namespace, overrides: Overrides) -> int:
    from volgen.commands.sample.sample import sample
    from volgen.core.config import apply_overrides

    kinds = [(f"{name}.kind", value) for name in ("sampler", "noise") if (value := getattr(options, name)) is not None]
    chosen = apply_overrides({}, [*kinds, *overrides])
    sample(
        options.run, options.out, count=options.count, seed=options.seed, steps=options.steps, sampler=chosen.get("sampler"),
        noise=chosen.get("noise"), batch_size=options.batch_size, device=options.device, dtype=options.dtype,
        start_index=options.start_index, memory_gib=options.memory_gib, stages=options.stages,
    )  # fmt: skip
    return DONE


def _anonymise_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scan", metavar="IN.nii.gz", type=Path, help="the scan, NIfTI or MGH")
    parser.add_argument("run", metavar="RUN", type=Path, help="directory that volgen train made")
    parser.add_argument("--epsilon", metavar="E", type=float, required=True, help="what the release may cost at most")
    parser.add_argument("--delta", metavar="D", type=float, required=True, help="probability of a leak beyond epsilon, such as 1e-5")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="new folder for the image and its certificate.json")
    ball = "draw the scan to within this distance (Euclidean, voxels in [-1, 1]) of the centre, which lowers the noise (default: no limit)"
    parser.add_argument("--radius", metavar="R", type=float, help=ball)
    centres = "a public mean in the run's frame, or 'run' for the mean that a gaussian preconditioner knows (default: mid-grey)"
    parser.add_argument("--centre", metavar="IMAGE", help=centres)
    parser.add_argument("--steps", metavar="N", type=int, help="noise levels of the run to visit on the way down (default: all)")
    parser.add_argument("--device", help="torch device (default: a GPU if there is one)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="voxels in the file; int16 has a slope (default: %(default)s)")
    parser.add_argument("--accept-vacuous", action="store_true", help="also release a scan under a budget that promises nothing")


def _anonymise(options: argparse.Namespace, _: Overrides) -> int:
    from volgen.commands.anonymise.anonymise import anonymise

    anonymise(
        options.scan, options.run, options.out, epsilon=options.epsilon, delta=options.delta, radius=options.radius,
        centre=options.centre, steps=options.steps, device=options.device, dtype=options.dtype, accept_vacuous=options.accept_vacuous,
    )  # fmt: skip
    return DONE


def _audit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="directory that volgen train made")
    parser.add_argument("--members", metavar="STORE", type=Path, required=True, help="the store it was trained on")
    strangers = "store of people it never saw (default: those of the members' store that it did not look at)"
    parser.add_argument("--non-members", metavar="STORE", type=Path, help=strangers)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="new folder for audit.json and the privacy statement")
    shadows = "runs by the same recipe, each on a random half of its own (--data.half.seed N), to attack with likelihood ratios"
    parser.add_argument("--shadow", metavar="RUN", type=Path, nargs="+", default=[], help=shadows)
    parser.add_argument("--twin", metavar="RUN", type=Path, help="the run on the other half, to draw volumes from the same seeds")
    chosen = "guess only about people whose ids begin with this, such as sub-canary (default: everybody)"
    parser.add_argument("--canaries", metavar="PREFIX", help=chosen)
    drawn = "volumes to draw and to compare with people; 0 for none (default: %(default)s)"
    parser.add_argument("--count", metavar="N", type=int, default=32, help=drawn)
    parser.add_argument("--levels", metavar="N", type=int, default=4, help="noise levels to compare losses at (default: %(default)s)")
    parser.add_argument("--draws", metavar="N", type=int, default=8, help="noises for each scan and level (default: %(default)s)")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="of noises and volumes (default: %(default)s)")
    parser.add_argument("--batch-size", metavar="N", type=int, default=1, help="volumes denoised together (default: %(default)s)")
    parser.add_argument("--device", help="torch device (default: a GPU if there is one)")


def _audit(options: argparse.Namespace, _: Overrides) -> int:
    from volgen.commands.audit.audit import audit

    outcome = audit(
        options.run, options.members, options.out, non_members=options.non_members, shadow=options.shadow, twin=options.twin,
        canaries=options.canaries, count=options.count, levels=options.levels, draws=options.draws, seed=options.seed,
        batch_size=options.batch_size, device=options.device,
    )  # fmt: skip
    return CHECK_FAILED if outcome.findings else DONE


def _statement_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="directory that volgen train made")
    where = "new folder for statement.html and statement.json, or a folder of the run's samples, whose statement is replaced"
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help=where)
    parser.add_argument("--audit", metavar="DIR", type=Path, help="folder that volgen audit made of the run")
    made = "folders that volgen anonymise made with the run"
    parser.add_argument("--certificate", metavar="DIR", type=Path, nargs="+", default=[], help=made)


def _statement(options: argparse.Namespace, _: Overrides) -> int:
    from volgen.commands.statement.statement import statement

    statement(options.run, options.out, audit=options.audit, certificate=options.certificate)
    return DONE


def _release_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="directory that volgen train finished")
    parser.add_argument("out", metavar="OUT", type=Path, help="new folder, which may leave the house")
    parser.add_argument("--audit", metavar="DIR", type=Path, help="folder that volgen audit made of the run; a refuted run is not released")
    agreed = "the run has no guarantee, and all people it was trained on agreed to what it may give away of them"
    parser.add_argument("--people-agreed", action="store_true", help=agreed)
    half = "the run was trained on the half that coins chose, and everybody may know who is in it"
    parser.add_argument("--accept-half", action="store_true", help=half)


def _release(options: argparse.Namespace, _: Overrides) -> int:
    from volgen.commands.release.release import release

    release(options.run, options.out, audit=options.audit, people_agreed=options.people_agreed, accept_half=options.accept_half)
    return DONE


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    splits = ("all", "train", "validation", "test")
    parser.usage = (
        "volgen report SAMPLES --reference STORE_OR_BANDS --out DIR [--strict] [--split SPLIT] [--no-real-pictures]\n"
        "       volgen report --compare A B [NAME=C ...] --reference STORE_OR_BANDS --out DIR [--strict] [--split SPLIT]"
    )
    parser.add_argument("samples", metavar="SAMPLES", type=Path, nargs="?", help="an image, a folder of images, or a store")
    several = "two or more generators side by side, each called as its folder is or NAME=FOLDER (instead of SAMPLES)"
    parser.add_argument("--compare", metavar="FOLDER", nargs="+", help=several)
    reference = "store of real scans, or the bands.json of an earlier report"
    parser.add_argument("--reference", metavar="STORE_OR_BANDS", type=Path, required=True, help=reference)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for report.html, report.json and the tables")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a volume does not pass (fail or other) or cannot be read")
    parser.add_argument("--split", choices=splits, default="all", help="people of the store to compare with (default: %(default)s)")
    without = (
        "show no slices of real people of the store beside the volumes: for a report that leaves the place where the scans may be seen"
    )
    parser.add_argument("--no-real-pictures", action="store_false", dest="real_pictures", help=without)


def _report(options: argparse.Namespace, _: Overrides) -> int:
    if (options.samples is None) == (options.compare is None):
        found = "neither SAMPLES nor --compare is given" if options.samples is None else "SAMPLES and --compare are both given"
        raise UserError("volgen report", found, "one of them", "see volgen report --help")
    if options.compare:
        from volgen.commands.report.compare import compare

        comparison = compare(
            options.compare, options.reference, options.out, strict=options.strict, split=options.split,
            real_pictures=options.real_pictures,
        )  # fmt: skip
        return CHECK_FAILED if comparison.strict_failure else DONE
    from volgen.commands.report.report import report

    outcome = report(
        options.samples, options.reference, options.out, strict=options.strict, split=options.split, real_pictures=options.real_pictures
    )
    return CHECK_FAILED if outcome.strict_failure else DONE


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    from volgen.commands.bench.bench import add_arguments

    add_arguments(parser)


def _bench(options: argparse.Namespace, _: Overrides) -> int:
    from volgen.commands.bench.bench import run

    return run(options)


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hostfile", metavar="FILE", type=Path, help="also try every machine of it over ssh (lines: HOST slots=RANKS)")
    parser.add_argument("--shared", metavar="DIR", type=Path, help="a folder that all machines shall see, for the store and the runs")
    parser.add_argument("--quick", action="store_true", help="leave out torch and DeepSpeed at work, which take seconds to load")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _doctor(options: argparse.Namespace, _: Overrides) -> int:
    from volgen.commands.doctor.doctor import doctor

    healthy = doctor(options.hostfile, options.shared, quick=options.quick, as_json=options.json)
    return DONE if healthy else CHECK_FAILED


COMMANDS = {
    "cohort": Command("copy the sample cohort (61 real brains, CC0) out of the package as a BIDS tree", _cohort_arguments, _cohort),
    "ingest": Command("NIfTI, MGH or BIDS -> Zarr store", _ingest_arguments, _ingest),
    "export": Command("Zarr store -> NIfTI", _export_arguments, _export),
    "train": Command("train the denoisers of one configuration", _train_arguments, _train, overrides=[""]),
    "plan": Command("memory, disk, network and time of a run before a launch", _plan_arguments, _plan, overrides=[""]),
    "sample": Command("draw volumes from a run and write NIfTI", _sample_arguments, _sample, overrides=["sampler.", "noise."]),
    "anonymise": Command("noise one scan to a privacy budget and denoise it with a run", _anonymise_arguments, _anonymise),
    "audit": Command("attack a run: who was in training, copies, and a lower bound on epsilon", _audit_arguments, _audit),
    "statement": Command("one page on a run's privacy, for a reviewer", _statement_arguments, _statement),
    "release": Command("copy what may leave of a run, with statement and model card", _release_arguments, _release),
    "report": Command("compare volumes with real scans, slice by slice", _report_arguments, _report),
    "doctor": Command("what this machine can do for a run, and what is missing", _doctor_arguments, _doctor),
    "bench": Command("measure a part of volgen beside the alternatives", _bench_arguments, _bench),
}
"""The commands, in the order of a first use."""
