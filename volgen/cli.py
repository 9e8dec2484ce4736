"""The command line: one sub-command per stage. Exit codes: 0 done, 1 ``--strict`` and a check failed, 2 bad usage, configuration or data.

Only the chosen command's code is imported, and only when it runs: ``volgen --help`` must not wait for torch.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import volgen
from volgen.core.errors import UserError, nearest

if TYPE_CHECKING:
    from volgen.core.config import Config

Overrides = Sequence[tuple[str, str]]
DONE, CHECK_FAILED, BAD_INPUT, INTERNAL, INTERRUPTED = 0, 1, 2, 70, 130


class _Parser(argparse.ArgumentParser):
    """Reports bad usage the way everything else is reported: one message, raised."""

    def error(self, message: str) -> NoReturn:
        raise UserError(self.prog, message, do=f"see {self.prog} --help")


@dataclass(frozen=True)
class _Command:
    """A sub-command: what ``volgen --help`` says of it, its options, and what runs."""

    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Overrides], int]
    overrides: str | None = None
    """What dotted configuration keys that may be given as options start with; None: there are none."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if not sys.warnoptions:
        # Libraries warn about what a user cannot change; volgen's own warnings are shown.
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", module=r"volgen(\.|$)")
    try:
        options, overrides = _parse(arguments)
        return COMMANDS[options.command].run(options, overrides)
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        # A full disk or a folder without permission: nothing that a traceback would explain.
        if debug:
            traceback.print_exc()
        print(f"error: {error.filename or 'input or output'}: {error.strerror or error}.", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; the same command continues where this one stopped.", file=sys.stderr)
        return INTERRUPTED
    except Exception:
        # A defect of volgen, which must not look like a failed check (1) or like the user's fault (2).
        traceback.print_exc()
        print("error: this is a defect in volgen; please report it with the lines above.", file=sys.stderr)
        return INTERNAL


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, Overrides]:
    anywhere = _Parser(add_help=False)
    anywhere.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show a traceback with an error")
    # Launchers put this in front of or behind our own options; ranks are read from the environment.
    anywhere.add_argument("--local_rank", "--local-rank", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser = _Parser("volgen", description=volgen.__doc__, parents=[anywhere], allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"volgen {volgen.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    named = next((word for word in arguments if word in COMMANDS), next((word for word in arguments if not word.startswith("-")), ""))
    if named and named not in COMMANDS:
        raise UserError("volgen", f"there is no command '{named}'", do=nearest(named, COMMANDS))
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=command.help, parents=[anywhere], allow_abbrev=False)
        if name == named:
            command.arguments(sub)
            known = [option for action in sub._actions for option in action.option_strings]
    options, rest = parser.parse_known_args(arguments)
    prefix = COMMANDS[options.command].overrides
    strange = rest if prefix is None else [word for word in rest if word.startswith("--") and not word.startswith(f"--{prefix}")]
    if strange:
        word = strange[0].partition("=")[0]
        kind = "option" if word.startswith("-") else "argument"
        hint = nearest(word, known) if kind == "option" else f"see volgen {options.command} --help"
        raise UserError(f"volgen {options.command}", f"unknown {kind} '{word}'", do=hint)
    return options, _pairs(rest, f"volgen {options.command}")


def _pairs(words: Sequence[str], where: str) -> Overrides:
    """``--section.key value`` and ``--section.key=value`` as pairs."""
    hint = f"see {where} --help"
    pairs: list[tuple[str, str]] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--") or word == "--":
            raise UserError(where, f"unexpected argument '{word}'", "--section.key value")
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            if not waiting or waiting[0].startswith("--"):
                raise UserError(where, f"'{word}' has no value", f"{word} VALUE, where {key} is a key of the configuration", hint)
            value = waiting.pop(0)
        pairs.append((key, value))
    return pairs


def _add_config(parser: argparse.ArgumentParser, cls: type[Config]) -> None:
    """One option for every field of a flat configuration class, with its documentation and default."""
    for name, field in cls.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        many: dict[str, Any] = {"nargs": "+"} if isinstance(default, tuple) else {}
        if isinstance(default, bool):
            many = {"action": argparse.BooleanOptionalAction}
        text = f"{' '.join((field.description or '').replace('``', '').split())} (default: {shown})".replace("%", "%%")
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, default=argparse.SUPPRESS, help=text, **many)


def _config(cls: type[Config], options: argparse.Namespace, where: str) -> Any:
    """The configuration class from the options that were given."""
    from volgen.core.config import apply_overrides, validate

    given = {name: value for name, value in vars(options).items() if name in cls.model_fields}
    texts = {name: value if len(value) > 1 else value[0] for name, value in given.items() if isinstance(value, list)}
    pairs = [(name, f"[{', '.join(text)}]" if isinstance(text, list) else str(text)) for name, text in {**given, **texts}.items()]
    return validate(cls, apply_overrides({}, pairs), where)


def _ingest_arguments(parser: argparse.ArgumentParser) -> None:
    from volgen.data.preprocess import IngestConfig

    parser.add_argument("source", metavar="SOURCE", type=Path, help="a .nii, .nii.gz or .mgz file, a folder of them, or a BIDS tree")
    parser.add_argument("store", metavar="STORE", type=Path, help="Zarr store to make or to continue")
    _add_config(parser, IngestConfig)
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes that read and resample (default: %(default)s, one for each core)",
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first input that cannot be used instead of leaving it out")


def _ingest(options: argparse.Namespace, _: Overrides) -> int:
    from volgen.data.preprocess import IngestConfig
    from volgen.stages.ingest import ingest

    config = _config(IngestConfig, options, "volgen ingest")
    ingest(options.source, options.store, config, workers=options.workers, strict=options.strict)
    return DONE


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "volgen train --config CONFIG.yaml [--section.key VALUE ...] [--print_config] [--dry-run]"
    parser.epilog = "Every key of the configuration can be overridden, for example: --experts.count 8 --network.kind=unet3d --seed 1"
    parser.add_argument("--config", metavar="CONFIG.yaml", type=Path, required=True, help="the experiment; see configs/")
    parser.add_argument(
        "--print_config", "--print-config", action="store_true", help="print the configuration with every default, and stop"
    )
    parser.add_argument(
        "--dry-run", "--dry_run", action="store_true", help="build everything on the meta device, print the sizes, and stop"
    )


def _train(options: argparse.Namespace, overrides: Overrides) -> int:
    from volgen import recipe
    from volgen.core.config import dump_yaml

    resolved = recipe.load(options.config, overrides)
    if options.print_config:
        print(dump_yaml(resolved), end="")
        return DONE
    from volgen.stages.train import train

    train(resolved, dry_run=options.dry_run)
    return DONE


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="directory that volgen train made")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the NIfTI files")
    parser.add_argument("--count", metavar="N", type=int, default=1, help="volumes to draw (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="volume i depends on this seed and i alone (default: %(default)s)")
    parser.add_argument("--steps", metavar="N", type=int, help="points of the run's noise grid to visit (default: all)")
    parser.add_argument(
        "--sampler",
        metavar="KIND",
        help="solver: ddpm, ddim, euler, heun or dpmpp_2m; its settings as --sampler.KEY VALUE (default: the run's)",
    )
    parser.add_argument("--batch-size", metavar="N", type=int, default=1, help="volumes denoised together (default: %(default)s)")
    parser.add_argument("--start-index", metavar="I", type=int, default=0, help="index of the first volume (default: %(default)s)")
    parser.add_argument(
        "--dtype", choices=["float32", "int16"], default="float32", help="voxels in the files; int16 has a slope (default: %(default)s)"
    )
    parser.add_argument("--device", help="torch device (default: a GPU if there is one)")
    parser.add_argument(
        "--memory-gib", metavar="GiB", type=float, default=4.0, help="host memory for volumes under way (default: %(default)s)"
    )


def _sample(options: argparse.Namespace, overrides: Overrides) -> int:
    from volgen.core.config import apply_overrides
    from volgen.stages.sample import sample

    kind = [] if options.sampler is None else [("sampler.kind", options.sampler)]
    sampler = apply_overrides({}, [*kind, *overrides]).get("sampler")
    sample(
        options.run, options.out, count=options.count, seed=options.seed, steps=options.steps, sampler=sampler,
        batch_size=options.batch_size, device=options.device, dtype=options.dtype, start_index=options.start_index,
        memory_gib=options.memory_gib,
    )  # fmt: skip
    return DONE


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("samples", metavar="SAMPLES", type=Path, help="folder of NIfTI files, or a store")
    text = "store of real scans to compare with, or bands.json of an earlier report"
    parser.add_argument("--reference", metavar="STORE_OR_BANDS", type=Path, required=True, help=text)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for report.html, report.json and the CSV files")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a volume fails a check or cannot be read")
    parser.add_argument("--split", default="all", help="people that set the bands: all, train, validation or test (default: all)")


def _report(options: argparse.Namespace, _: Overrides) -> int:
    from volgen.stages.report import report

    outcome = report(options.samples, options.reference, options.out, strict=options.strict, split=options.split)
    return CHECK_FAILED if outcome.strict_failure else DONE


def _cohort_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="folder to make")


def _cohort(options: argparse.Namespace, _: Overrides) -> int:
    from volgen.cohort import copy_to

    print(copy_to(options.directory))
    return DONE


COMMANDS = {
    "cohort": _Command("copy the sample cohort (61 real brains, CC0) out of the package as a BIDS tree", _cohort_arguments, _cohort),
    "ingest": _Command("NIfTI, MGZ or BIDS -> Zarr store", _ingest_arguments, _ingest),
    "train": _Command("train the denoisers of one configuration", _train_arguments, _train, overrides=""),
    "sample": _Command("draw volumes from a run and write NIfTI", _sample_arguments, _sample, overrides="sampler."),
    "report": _Command("compare volumes with real scans, slice by slice", _report_arguments, _report),
}
"""The commands, in the order of a first use."""
