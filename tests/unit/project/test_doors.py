"""What docs/architecture.md says of doors and null objects is so."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import volgen

ROOT = Path(volgen.__file__).parent
SECTION = re.compile(r"## Ideas that hold it together\n(.*?)\n## ", re.DOTALL)
ROW = re.compile(r"^\s*\| (\w+) \| (`.*`) \|$", re.MULTILINE)


def _text(repository: Path) -> str:
    found = SECTION.search((repository / "docs/architecture.md").read_text())
    assert found
    return found[1]


def _trees() -> dict[str, ast.Module]:
    paths = [path for path in sorted(ROOT.rglob("*.py")) if path.relative_to(ROOT).parts[0] != "bench"]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in paths}


def test_every_heavy_library_has_the_doors_that_are_listed(repository: Path) -> None:
    listed = {library: set(re.findall(r"`([^`]+)`", files)) for library, files in ROW.findall(_text(repository))}
    assert len(listed) >= 8
    found: dict[str, set[str]] = {library: set() for library in listed}
    for name, tree in _trees().items():
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for library in {module.partition(".")[0] for module in modules} & {*listed}:
                found[library].add(name)
    assert found == listed


ASKED = {"private", "public", "whole"}
SECTIONS = {"adapter", "assembly", "guidance", "method", "network", "noise", "preconditioner", "privacy", "sampler", "schedule", "start"}
WORDS = {
    *("affine", "all", "attention", "auto", "bias", "cartesian", "diffusion", "epsilon", "flow"),
    *(
        "full",
        "gaussian",
        "identity",
        "monai",
        "n4",
        "none",
        "pretrained",
        "public",
        "robust",
        "slices",
        "text",
        "v",
        "white",
        "white_matter",
        "whole",
    ),
}
"""Names of kinds that mean something else too: as strings they are looked for in comparisons with a kind only."""


def _kinds() -> dict[str, str]:
    """Kind -> its folder, of everything that a configuration chooses by its kind."""
    files = [path for path in sorted(ROOT.rglob("*.py")) if not path.name.startswith("_") and "kind: Literal[" in path.read_text()]
    places = [path.relative_to(ROOT) for path in files]
    return {place.stem: place.parent.as_posix() for place in places if place.parts[0] != "evaluation"}  # of those, all are run


def _named(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _questions(tree: ast.Module, foreign: set[str]) -> list[int]:
    """Lines in which a component is asked who it is: by a property of its kind alone, or by the name of its kind."""
    defaults = {
        id(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "kind"
    }
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ASKED and _named(node.value) in SECTIONS:
            lines.append(node.lineno)
        if isinstance(node, ast.Compare):
            sides = [part for side in (node.left, *node.comparators) for part in ast.walk(side)]
            kinds = [part for part in sides if isinstance(part, ast.Attribute) and part.attr == "kind" and _named(part.value) in SECTIONS]
            lines += [node.lineno] if kinds else []
        if isinstance(node, ast.Constant) and node.value in foreign - WORDS and id(node) not in defaults:
            lines.append(node.lineno)
    return sorted(lines)


def test_nobody_asks_a_kind_who_it_is() -> None:
    folders = _kinds()
    assert {"dp_sgd", "scratch", "lora", "autoregressive", "heun"} <= folders.keys()
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT)
        foreign = {kind for kind, folder in folders.items() if folder not in {parent.as_posix() for parent in place.parents}}
        # A benchmark is about certain kinds, and may name them.
        named = set() if place.parts[0] == "bench" else foreign
        found += [f"{place}:{line}" for line in _questions(ast.parse(path.read_text()), named)]
    assert not found, "a kind has to do by itself what is done for it"


def test_questions_to_kinds_are_found() -> None:
    text = """
if recipe.privacy.private: pass
if not start.public: pass
if recipe.assembly.kind == "whole": pass
if trained.recipe.network.kind in NAMES: pass
if name == "dp_sgd": pass
default = {"kind": "dp_sgd"}
scan.whole()
"""
    assert _questions(ast.parse(text), {"dp_sgd", "whole"}) == [2, 3, 4, 5, 6]


GLUE = re.compile(r"\b(network\.build|objective\.build|adapter\.attach|adapter\.merge|view\.denoiser|PreconditionedDenoiser)\(")
"""What makes a network, a loss or a denoiser of the sections of a recipe."""
METHODS = ("methods/", "models/")
"""Who may: the methods, and the models that they put together."""


def test_a_method_alone_puts_network_preconditioner_adapter_and_objective_together() -> None:
    calls = {
        name: [found[1] for node in ast.walk(tree) if isinstance(node, ast.Call) and (found := GLUE.search(ast.unparse(node)))]
        for name, tree in _trees().items()
    }
    assert calls["methods/_bank.py"], "they are found where they are"
    assert {name: found for name, found in calls.items() if found and not name.startswith(METHODS)} == {}
    losses = {
        name for name, tree in _trees().items() for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("volgen.training.objectives")
    }  # fmt: skip
    assert losses == set(), "a loss is asked for by its protocol"
