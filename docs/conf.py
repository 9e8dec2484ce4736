"""The documentation as a site: ``sphinx-build -W docs site`` with the extra ``docs`` installed.

The text is that of README, CONTRIBUTING, CHANGELOG, the pages beside this file, and the docstrings. Building it runs the notebooks, in a
folder of their own; ``-D nb_execution_mode=off`` leaves them as they are.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

from sphinx.application import Sphinx

import volgen
from volgen.core.config import Config
from volgen.core.registry import kinds

project = "volgen"
author = "The volgen contributors"
version = release = volgen.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
exclude_patterns = ["benchmarks"]

html_theme = "furo"
html_title = f"volgen {release}"
html_copy_source = False
html_show_copyright = False

myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 900
nb_execution_raise_on_error = True

autodoc_default_options = {"members": True, "exclude-members": "model_config"}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_ivar = True

ROOT = Path(__file__).resolve().parents[1]
FROM_ROOT = {"index": "README.md", "contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"}
"""Pages of the site whose text stands in the repository's root, where a visitor of the repository looks for it."""
AUTOMODULE = "\n```{{eval-rst}}\n.. automodule:: {}{}\n```\n"
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _source)
    app.connect("autodoc-process-signature", _signature)


def _source(app: Sphinx, page: str, source: list[str]) -> None:
    """Brings what a page has from elsewhere."""
    if page in FROM_ROOT:
        source[0] = LINK.sub(_from_here, (ROOT / FROM_ROOT[page]).read_text(encoding="utf-8")) + source[0]
    if page == "reference/methods":
        source[0] += "".join(_methods())


def _signature(app: Sphinx, what: str, name: str, item: object, options: object, signature: str, result: str) -> tuple[str, str] | None:
    """Leaves out the arguments of a configuration class: its fields follow, each with what it means."""
    return ("", "") if isinstance(item, type) and issubclass(item, Config) else None


def _from_here(link: re.Match[str]) -> str:
    """A link of the repository's root as one of this folder: to a page, to a picture, or to a file that the site then has a copy of."""
    pages = {name: f"{page}.md" for page, name in FROM_ROOT.items()}
    name = pages.get(link[1], link[1].removeprefix("docs/"))
    return name if (ROOT / "docs" / name).exists() else f"path:../{name}"


def _methods() -> Iterator[str]:
    """A section for each registry folder, and in it one for each of its files."""
    for found in pkgutil.walk_packages(volgen.__path__, "volgen."):
        if not found.ispkg or found.name.startswith("volgen.bench"):
            continue
        modules = [importlib.import_module(f"{found.name}.{name}") for name in kinds(found.name)]
        if modules and all("kind" in getattr(getattr(module, "Config", None), "model_fields", {}) for module in modules):
            yield f"\n## {found.name.partition('.')[2]}\n" + AUTOMODULE.format(found.name, "\n   :no-members:")
            for module in modules:
                yield f"\n### {module.__name__.rpartition('.')[2]}\n" + AUTOMODULE.format(module.__name__, "")
