"""A docstring says what its thing is, in a sentence or a phrase that names it: the rules of that which a machine can check."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import volgen

ROOT = Path(volgen.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
RIDDLE = re.compile(r"\bgoes without saying\b|\bin vain\b|\bso many\b|\bby way of\b|\bat hand\b", re.IGNORECASE)
"""Words that a reader stumbles over: that many, through, there."""
HANGING = re.compile(r"(Of|As|From|For|In|To|At|With|By) ")
"""Beginnings that leave out what the sentence is about: "Of the run" is its seed, its name or its folder."""
ENTRY = re.compile(r"^ +\w+: (of|as|with which) .*$", re.MULTILINE)
"""The same among arguments and attributes: ``seed: of the run.``"""


@dataclass(frozen=True)
class Doc:
    """A docstring and what it is about.

    Attributes:
        where: file and line.
        kind: ``module``, ``class``, ``function``, ``property`` or ``field``.
        text: what it says.
        truth: whether the thing is true or false.
    """

    where: str
    kind: str
    text: str
    truth: bool = False

    def faults(self) -> Iterator[str]:
        """What is wrong with it."""
        summary = " ".join(self.text.split("\n\n")[0].split())
        if len(summary.split()) < 3:
            yield "is shorter than three words"
        if not re.search(r"[.:;?!)]$|``$", summary):
            yield "has no end"
        if self.kind != "module" and HANGING.match(summary):
            yield "does not name its thing"
        if found := RIDDLE.search(self.text):
            yield f"says '{found[0]}'"
        if found := ENTRY.search(self.text):
            yield f"has an entry that does not name its thing: {found[0].strip()}"
        if self.truth and self.kind in ("property", "field") and not summary.startswith("Whether "):
            yield "does not begin with Whether"
        if self.truth and self.kind == "function" and "hether" not in self.text:
            yield "does not say whether what"


def docs(source: str, where: str = "") -> Iterator[Doc]:
    """Every docstring of a module, also those of fields and constants, which stand below them."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            function = node if isinstance(node, ast.FunctionDef) else None
            decorators = {ast.unparse(decorator) for decorator in function.decorator_list} if function else set()
            kind = "property" if decorators & {"property", "cached_property"} else type(node).__name__.removesuffix("Def").lower()
            truth = function is not None and function.returns is not None and ast.unparse(function.returns) == "bool"
            yield Doc(f"{where}:{getattr(node, 'lineno', 1)}", kind, text, truth)
        body = node.body if isinstance(node, ast.Module | ast.ClassDef) else []
        for field, below in itertools.pairwise(body):
            if isinstance(field, ast.Assign | ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                truth = isinstance(field, ast.AnnAssign) and ast.unparse(field.annotation) == "bool"
                yield Doc(f"{where}:{field.lineno}", "field", str(below.value.value), truth)


def test_every_docstring_says_what_its_thing_is() -> None:
    found = [
        f"{doc.where} {fault}"
        for path in FILES
        for doc in docs(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())
        for fault in doc.faults()
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ('def f():\n    """Files."""', "shorter"),
        ('def f():\n    """Files of a run"""', "no end"),
        ('class A:\n    """What it is."""\n    @property\n    def seed(self):\n        """Of the run."""', "not name"),
        ('SIZE = 3\n"""Of a header: the limit."""', "not name"),
        ('def f(seed):\n    """Draws a volume.\n\n    Args:\n        seed: of the run.\n    """', "entry"),
        ('def f():\n    """Looks for a store in vain."""', "in vain"),
        (
            'class A:\n    """What it is."""\n    @property\n    def whole(self) -> bool:\n        """A slab is not the volume."""',
            "Whether",
        ),
        ('class A:\n    """What it is."""\n    short: bool = False\n    """Take a minute only."""', "Whether"),
        ('def f() -> bool:\n    """Looks for a store."""', "whether"),
    ],
)
def test_a_docstring_that_says_too_little_is_found(source: str, fault: str) -> None:
    found = [fault for doc in docs(source) for fault in doc.faults()]
    assert len(found) == 1 and fault in found[0]


def test_a_docstring_that_names_its_thing_passes() -> None:
    source = '"""From images to a store."""\nSIZE = 3\n"""Limit of a header."""\ndef f() -> bool:\n    """Looks whether it is there."""'
    assert not [fault for doc in docs(source) for fault in doc.faults()]
