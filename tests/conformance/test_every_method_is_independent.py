"""A method knows no other method of its kind, and a stage no other stage; what they share is in files that start with an underscore."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import volgen

ROOT = Path(volgen.__file__).parent
FOLDERS = (
    "bench", "checks", "experts/starts", "models/adapters", "models/assemblies", "models/networks", "models/preconditioners", "noises",
    "privacy", "samplers", "schedules", "stages",
)  # fmt: skip
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py")) if not path.name.startswith("__")]


def _imported(path: Path) -> set[str]:
    """Modules that a file imports anywhere, dotted; for `from a import b` both a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} has a relative import, which this test cannot follow"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_no_method_beside_it(path: Path) -> None:
    package = ".".join(("volgen", *path.parent.relative_to(ROOT).parts))
    methods = {f"{package}.{other.stem}" for other in path.parent.glob("*.py") if not other.name.startswith("_") and other != path}
    assert not methods & _imported(path)


def test_the_list_of_folders_is_complete() -> None:
    """Every folder whose files define a `Config` with a `kind` or a measure is among the folders looked at."""
    registries = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if "kind: Literal[" in path.read_text()}
    assert registries == set(FOLDERS) - {"bench", "stages"}
