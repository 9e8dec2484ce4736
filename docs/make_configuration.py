"""Writes ``docs/configuration.md``, the reference of every key of a configuration, from the classes that read them.

Give ``python docs/make_configuration.py`` after a key was added or changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from volgen.core.keys import Key, sections, simple
from volgen.recipe import Recipe

PAGE = Path(__file__).with_name("configuration.md")
HEAD = """# Configuration

Every key that `volgen train --config CONFIG.yaml` reads, with its default. Each is also an option: `--data.batch_size 8`.
`volgen explain KEY` says in a terminal what is said here; `--print_config` shows a configuration with all of its defaults. An unknown key
is an error that names the nearest one. Where a section has a `kind`, its other keys are those of that kind. Complete examples are in
`configs/`; what a key is good for is in the page of its subject.

<!-- Written by docs/make_configuration.py from the classes themselves; a test compares the two. -->
"""
ELSEWHERE = {"data.shape": "the store's"}
"""Defaults that are not the class's own."""


def page() -> str:
    """The whole page."""
    lines = [HEAD, "## The run", "", *_table(simple(Recipe))]
    for section in sections(Recipe):
        listed = (
            f" `{section.name}` is a list of such sections."
            if any(key.name.startswith(f"{section.name}[]") for key in section.kinds[0].keys)
            else ""
        )
        lines += ["", f"## {section.name}", "", _cell(section.meaning) + listed]
        for kind in section.kinds:
            if kind.name:
                lines += ["", f"### `{section.name}.kind: {kind.name}`{' (the default)' if kind.usual else ''}", "", _cell(kind.meaning)]
            if kind.keys:
                lines += ["", *_table(kind.keys)]
    return "\n".join(lines) + "\n"


def _table(keys: Sequence[Key]) -> list[str]:
    rows = [(f"`{key.name}`", key.values, ELSEWHERE.get(key.name, key.default), _cell(key.meaning)) for key in keys]
    return ["| key | what it may be | default | meaning |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]


def _cell(words: str) -> str:
    return words.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
