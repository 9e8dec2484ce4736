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


def test_no_more_places_than_are_admitted_ask_a_kind_what_it_is(repository: Path) -> None:
    asked = re.search(r"in (\d+) places", _text(repository))
    assert asked
    places = [
        f"{name}:{node.lineno}"
        for name, tree in _trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and (node.value.attr, node.attr) in {("privacy", "private"), ("start", "public"), ("assembly", "whole"), ("adapter", "whole")}
    ]
    assert len(places) <= int(asked[1]), places
