"""The commands of ``volgen``. The folder is the registry: ``volgen sample`` is ``volgen/commands/sample``.

A command is a folder, or a file, whose name has no underscore in front. Its module has

* a docstring: ``volgen --help`` shows its first line, and ``volgen NAME --help`` the paragraphs after it;
* ``Config``, whose fields are its options and whose docstrings are their help (:mod:`volgen.core.options`);
* ``run(config) -> Answer`` (:mod:`volgen.core.answer`);
* ``USAGE``, if the options alone do not show how it is called.

What it needs is imported inside ``run``, so that neither ``volgen --help`` nor a mistyped option waits for torch.
"""

from __future__ import annotations

from types import ModuleType

from volgen.core import registry

FIRST_USE = (
    "cohort", "ingest", "participants", "export", "train", "distil", "plan", "sample", "translate", "reconstruct", "tune", "anonymise",
    "audit", "statement", "release", "report", "evaluate", "readers", "doctor", "bench", "explain",
)  # fmt: skip
"""The order of a first use, in which the help lists the commands; one that is not named here comes after these."""


def titles() -> dict[str, str]:
    """Name and title of every command, in the order of a first use."""
    found = registry.titles(__name__)
    order = [*FIRST_USE, *(name for name in found if name not in FIRST_USE)]
    return {name: found[name] for name in order if name in found}


def module(name: str) -> ModuleType:
    """The module of a command."""
    return registry.module(__name__, name)
