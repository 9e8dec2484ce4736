"""Rules of the house that no type checker and no layer contract sees: what stands where, and that one word means one thing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

import volgen
from volgen.core import registry, run_files

PACKAGE = Path(volgen.__file__).parent
ROOT = PACKAGE.parent


def _name(path: Path) -> str:
    parts = ("volgen", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _where(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, in functions too, but for what only a type checker sees."""
    unseen: set[int] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            unseen |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
    found: set[str] = set()
    for node in ast.walk(_tree(path)):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in named}
    return (found & set(MODULES)) - {_name(path)}


# Folders of kinds


def _registries() -> dict[Path, list[Path]]:
    """Files of kinds by folder."""
    found: dict[Path, list[Path]] = defaultdict(list)
    for path in MODULES.values():
        if not path.name.startswith("_") and "kind: Literal[" in path.read_text():
            found[path.parent].append(path)
    return found


def test_a_folder_of_kinds_holds_kinds_and_what_they_share() -> None:
    for folder, files in _registries().items():
        others = {path for path in folder.iterdir() if path.suffix == ".py" and not path.name.startswith("_")} - set(files)
        assert not others, f"{_where(folder)} holds {sorted(path.name for path in others)}, which are no kinds"
        for path in files:
            assert f'kind: Literal["{path.stem}"]' in path.read_text(), f"{_where(path)} is not called as its kind"


def test_what_has_an_underscore_is_imported_from_its_own_folder_only() -> None:
    wrong = []
    for name, path in MODULES.items():
        for other in _imported(path):
            parts = other.split(".")
            private = next((place for place, part in enumerate(parts) if part.startswith("_") and not part.startswith("__")), None)
            if private is not None and not f"{name}.".startswith(".".join(parts[:private]) + "."):
                wrong.append(f"{name} imports {other}")
    assert not wrong, wrong


# The files of a run

NAMES = {value for key, value in vars(run_files).items() if key.isupper() and isinstance(value, str)} - {
    run_files.CARD,  # every folder of images has a file of this name, because BIDS says so
    run_files.EXPERTS,  # a section of configurations too
}
SPELLED = re.compile(rf"(?<![\w.-])({'|'.join(map(re.escape, sorted(NAMES)))})(?![\w.])|(?<![\w.]){run_files.EXPERTS}/")
HOMES = ("core/run_files.py", "core/manifest.py")


def _spelled(tree: ast.Module) -> list[str]:
    """Names of a run's files in text that is no docstring."""
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [match[0] for node in texts if id(node) not in documents for match in SPELLED.finditer(node.value)]


def test_a_file_name_of_a_run_is_spelled_in_one_place() -> None:
    found = {_where(path): _spelled(_tree(path)) for path in MODULES.values() if _where(path) not in HOMES}
    assert not {where: names for where, names in found.items() if names}
    assert _spelled(ast.parse('"""geometry.json"""\nx = run / "geometry.json"\ny = f"{run}/experts/3"')) == ["geometry.json", "experts/"]


# Words

TWICE = {
    "Batch", "Engine", "Pass", "Plan", "Ranks", "Recipe", "Section", "check", "choose", "claim", "compare", "content",
    "curves", "discover", "draw", "everything", "find", "judge", "load", "measure", "module", "parse", "plan", "pyramid", "read",
    "release", "report", "sample", "select", "statement", "summary", "text", "titles", "trace", "write",
}  # fmt: skip
"""Classes and functions that two files define. None may be added, and what is no longer defined twice has to leave."""
EVERYWHERE = {"Config", "run", "main", "table", "write_page"}
"""What every kind, command, benchmark, script or page offers, under one name because it is one thing."""
FACES = {"volgen", "volgen.api"}
"""The Python interface calls commands by their names."""


def test_one_word_names_one_thing() -> None:
    places: dict[str, set[str]] = defaultdict(set)
    for name, path in MODULES.items():
        for node in _tree(path).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_") and name not in FACES:
                places[node.name].add(name)
    found = {word: sorted(where) for word, where in places.items() if len(where) > 1 and word not in EVERYWHERE}
    new, gone = {word: where for word, where in found.items() if word not in TWICE}, TWICE - set(found)
    assert not new, f"these words have a meaning already: {new}"
    assert not gone, f"these have one meaning now, so take them out of TWICE: {sorted(gone)}"


# Imports


def test_no_file_imports_one_that_imports_it() -> None:
    """What has nothing left to import is dropped, and what nothing left imports, until only circles stay."""
    graph = {name: _imported(path) for name, path in MODULES.items()}
    while free := [name for name, others in graph.items() if not others]:
        for name in free:
            del graph[name]
        graph = {name: others - set(free) for name, others in graph.items()}
    while free := [name for name in graph if not any(name in others for others in graph.values())]:
        graph = {name: others for name, others in graph.items() if name not in free}
    assert not graph, f"these import each other in circles: { {name: sorted(others) for name, others in graph.items()} }"


CORE = ("torch", "pydantic", "pyyaml", "numpy", "rich", "psutil")
"""What core may load: rich is behind its one door, numpy and psutil come with torch and with what a machine is."""
IMPORTED_AS = {"pyyaml": "yaml", "scikit-image": "skimage", "simpleitk": "SimpleITK"}


def test_core_is_light() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    heavy = {re.split(r"[<>=]", text)[0] for text in project["dependencies"]} - set(CORE)
    names = sorted(IMPORTED_AS.get(name, name) for name in heavy)
    core = sorted(name for name in MODULES if name.startswith("volgen.core."))
    script = f"import importlib, sys\nfor name in {core}: importlib.import_module(name)\nprint(*[n for n in {names} if n in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == []


@pytest.mark.parametrize("name", ["deepspeed", "monai", "SimpleITK"])
def test_the_heavy_libraries_are_looked_for(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {IMPORTED_AS.get(found, found) for found in (re.split(r"[<>=]", text)[0] for text in project["dependencies"])}
    assert name in names


# How a component comes from its configuration

HOW = {
    "build": {
        "methods", "models.conditions", "models.networks", "operators", "origin.starts", "privacy.plans", "sampling.guidances",
        "sampling.samplers", "training.objectives",
    },
    "fit and restore": {"models.assemblies", "models.preconditioners"},
    "itself": {
        "acquisition.masks",
        "data.ingest.biases", "data.ingest.registrations", "data.ingest.windows", "evaluation.cohorts", "evaluation.comparisons",
        "evaluation.extractors", "evaluation.segmenters", "evaluation.volumes",
        "models.adapters", "models.views", "sampling.noises", "sampling.schedules",
    },
}  # fmt: skip
"""Folders of kinds: ``Config.build`` makes the component; or the component is fitted to data, or restored from what was fitted; or it is a
function of its fields and nothing else, so that the configuration is the component."""


def _how(config: type) -> str:
    verbs = {verb for verb in ("build", "fit", "restore") if callable(getattr(config, verb, None))}
    return {frozenset(): "itself", frozenset({"build"}): "build", frozenset({"fit", "restore"}): "fit and restore"}[frozenset(verbs)]


def test_a_configuration_builds_its_component_or_fits_it_or_is_it() -> None:
    found: dict[str, set[str]] = defaultdict(set)
    folders = {_name(path).rpartition(".")[0] for path in PACKAGE.rglob("*.py") if "kind: Literal[" in path.read_text(encoding="utf-8")}
    for folder in folders:
        (how,) = {_how(registry.module(folder, kind).Config) for kind in registry.kinds(folder)}  # all kinds of a folder alike
        found[how].add(folder.removeprefix("volgen."))
    assert found == HOW
