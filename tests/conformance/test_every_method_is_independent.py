"""A method knows no other method of its kind, and a benchmark no other benchmark; what they share has an underscore in front."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import volgen

ROOT = Path(volgen.__file__).parent
METHODS = sorted(path for path in ROOT.rglob("*.py") if not path.name.startswith("_") and "kind: Literal[" in path.read_text())
"""Files of kinds: whoever adds one to a new folder is looked at without further ado."""
BENCHMARKS = sorted(path for path in (ROOT / "bench").rglob("*.py") if path.parent.name not in ("bench", "_shared"))


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


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_no_method_beside_it(path: Path) -> None:
    package = ".".join(("volgen", *path.parent.relative_to(ROOT).parts))
    methods = {f"{package}.{other.stem}" for other in path.parent.glob("*.py") if not other.name.startswith("_") and other != path}
    assert not methods & _imported(path)


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_no_other_benchmark(path: Path) -> None:
    others = {f"volgen.bench.{folder.name}" for folder in (ROOT / "bench").iterdir() if folder.is_dir() and not folder.name.startswith("_")}
    others.remove(f"volgen.bench.{path.relative_to(ROOT / 'bench').parts[0]}")
    assert not [name for name in _imported(path) if ".".join(name.split(".")[:3]) in others]


def test_every_registry_is_looked_at() -> None:
    assert len({path.parent for path in METHODS}) >= 10
