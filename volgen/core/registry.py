"""The folder is the registry: ``kind: heun`` means ``volgen/sampling/samplers/heun.py``.

A component file defines a :class:`~volgen.core.config.Config` subclass called ``Config`` with a ``kind`` literal equal to the
file's name, and a ``build`` method that makes the component. Files whose names start with an underscore are not components.

Names and titles come from files alone, so that ``volgen --help`` waits for no library; pydantic is imported by those who build.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Union

if TYPE_CHECKING:
    from volgen.core.config import Config


def kinds(package: str) -> list[str]:
    """Names of the components in a package, from its files alone: neither they nor the package are imported."""
    return sorted(found.name for found in pkgutil.iter_modules([str(_folder(package))]) if not found.name.startswith("_"))


def titles(package: str) -> dict[str, str]:
    """Name of every component in a package, and the first line of its documentation without its full stop. Files are read, not imported."""
    folder = _folder(package)
    files = {name: path if (path := folder / f"{name}.py").exists() else folder / name / "__init__.py" for name in kinds(package)}
    documented = {name: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) for name, file in files.items()}
    return {name: (text or "").partition("\n")[0].rstrip(".") for name, text in documented.items()}


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    assert found is not None and found.submodule_search_locations, f"{package} is no package"
    (folder,) = found.submodule_search_locations
    return Path(folder)


def module(package: str, kind: str) -> ModuleType:
    """The module that defines component ``kind``."""
    return importlib.import_module(f"{package}.{kind}")


def config_class(package: str, kind: str) -> type[Config]:
    """The configuration class of component ``kind``."""
    found = module(package, kind).Config
    assert found.model_fields["kind"].default == kind, f"{package}.{kind}: kind and file name differ"
    return found  # type: ignore[no-any-return]


def union(package: str) -> Any:
    """The pydantic type "one of the components in this folder, told apart by ``kind``"."""
    from pydantic import AfterValidator, Field

    members = tuple(config_class(package, kind) for kind in kinds(package))
    if not members:
        return Annotated[Any, AfterValidator(partial(_no_kind, package))]
    if len(members) == 1:
        return members[0]
    return Annotated[Union[members], Field(discriminator="kind")]  # noqa: UP007 (a tuple of run-time types)


def _no_kind(package: str, value: object) -> None:
    raise ValueError(f"there is no kind yet: add a file to {package.replace('.', '/')}")
