"""What pyproject.toml declares is what volgen imports, and environment.yml says the same."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
DISTRIBUTION_OF = {"yaml": "pyyaml", "skimage": "scikit-image", "SimpleITK": "simpleitk"}


@cache
def _project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _name(requirement: str) -> str:
    return re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0].lower()


def _imported() -> set[str]:
    """Distributions imported anywhere in volgen, at the top of a file or inside a function."""
    found = set()
    for path in (ROOT / "volgen").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            for module in modules:
                top = module.partition(".")[0]
                if top != "volgen" and top not in sys.stdlib_module_names:
                    found.add(DISTRIBUTION_OF.get(top, top))
                if module.startswith("torch.utils.tensorboard"):
                    found.add("tensorboard")
    return found


def test_every_dependency_is_imported_and_every_import_declared() -> None:
    declared = {_name(requirement) for requirement in _project()["dependencies"]}  # type: ignore[attr-defined]
    compared = {_name(requirement) for requirement in _project()["optional-dependencies"]["bench"]}  # type: ignore[index]
    assert declared == _imported() - compared


def test_every_requirement_is_bounded_on_both_sides() -> None:
    extras = _project()["optional-dependencies"]
    for requirement in [
        *_project()["dependencies"],
        *extras["test"],
        *extras["bench"],
        *extras["optimisers"],
        *extras["text"],
        *extras["dev"],
        *extras["docs"],
    ]:  # type: ignore[misc,index]
        assert re.search(r">=[\d.]+\w*,<[\d.]+$", requirement), requirement


def test_what_is_installed_is_inside_the_bounds() -> None:
    metadata = pytest.importorskip("importlib.metadata")
    requirements = pytest.importorskip("packaging.requirements", reason="packaging is needed to compare versions")
    for text in _project()["dependencies"]:  # type: ignore[attr-defined]
        requirement = requirements.Requirement(text)
        installed = metadata.version(requirement.name)
        assert requirement.specifier.contains(installed, prereleases=True), f"{requirement} but {installed} is installed"


def test_environment_yml_is_in_step_with_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [item for item in environment["dependencies"] if isinstance(item, str)]
    (pip,) = (item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    assert sorted(pip) == sorted(_project()["dependencies"])  # type: ignore[call-overload]
    assert f"python{_project()['requires-python']}" in conda
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert set(build) <= set(conda)
    assert "pip" in conda
