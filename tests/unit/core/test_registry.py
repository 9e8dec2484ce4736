"""The folder is the registry."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from volgen.core.registry import config_class, kinds, union

COMPONENT = """
from typing import Literal
from volgen.core.config import Config as Base

class Config(Base):
    kind: Literal["{kind}"] = "{kind}"
    size: int = {size}
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "made_up_components"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "_shared.py").write_text("")
    (folder / "one.py").write_text(COMPONENT.format(kind="one", size=1))
    (folder / "two.py").write_text(COMPONENT.format(kind="two", size=2))
    (folder / "wrong.py").write_text(COMPONENT.format(kind="other", size=2))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield "made_up_components"
    for name in [name for name in sys.modules if name.startswith("made_up_components")]:
        del sys.modules[name]


def test_files_are_the_kinds_and_an_underscore_hides(package: str) -> None:
    assert kinds(package) == ["one", "two", "wrong"]


def test_kind_and_file_name_must_agree(package: str) -> None:
    assert config_class(package, "one")().model_dump() == {"kind": "one", "size": 1}
    with pytest.raises(AssertionError, match="kind and file name differ"):
        config_class(package, "wrong")


def test_union_chooses_by_kind(package: str, tmp_path: Path) -> None:
    (tmp_path / package / "wrong.py").unlink()
    adapter = TypeAdapter(union(package))
    assert adapter.validate_python({"kind": "two"}).size == 2
    with pytest.raises(ValidationError):
        adapter.validate_python({"kind": "three"})
    (tmp_path / package / "one.py").unlink()
    assert union(package).__name__ == "Config"
