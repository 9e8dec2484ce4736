"""``volgen explain``: the reference of every key of a configuration, in a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from textwrap import fill

from volgen.core import pretrained
from volgen.core.errors import UserError, nearest_word
from volgen.core.files import read_bytes
from volgen.core.keys import Key, Kind, Section, sections, simple
from volgen.core.limits import SMALL_JSON_BYTES
from volgen.recipe import Recipe

WIDTH = 100
MORE = "docs/configuration.md has all of it."


def explain(key: str = "") -> str:
    """What a key, a kind or a section is about.

    Args:
        key: dotted; a section; a section and one of its kinds (``sampler.heun``); ``pretrained:NAME``, for the card of a model of the
            package; or empty, for the list of sections.

    Raises:
        UserError: there is none; the message names the nearest.
    """
    if pretrained.packaged(key):
        return read_bytes(pretrained.file(key, pretrained.CARD), limit=SMALL_JSON_BYTES).decode()
    plain, parts = simple(Recipe), {section.name: section for section in sections(Recipe)}
    if not key:
        return "\n".join([*_listed([*((one.name, one.meaning) for one in plain), *((n, s.meaning) for n, s in parts.items())]), "", MORE])
    key = re.sub(r"\[\d*\]", "", key)  # of a list of sections: whichever
    name, _, rest = key.partition(".")
    if name in parts:
        lines = list(_section(parts[name]) if not rest else _inside(parts[name], key, rest))
    else:
        lines = [line for one in plain if one.name == key for line in _key(one)]
    if not lines:
        known = [*(one.name for one in plain), *(name for section in parts.values() for name in _names(section))]
        raise UserError("volgen explain", f"there is no key '{key}'", "a key of a configuration", _hint(key, known, list(parts)))
    return "\n".join(lines)


def _section(section: Section) -> Iterator[str]:
    yield from _paragraph(f"{section.name}: {section.meaning}")
    if section.kinds[0].name:
        yield from ["", *_listed([(kind.name + (" (the default)" if kind.usual else ""), kind.meaning) for kind in section.kinds])]
    for kind in section.kinds:
        for one in kind.keys:
            yield from ["", *_key(one, kind.name)]


def _inside(section: Section, key: str, rest: str) -> Iterator[str]:
    """A kind, a key of one or several kinds, or the keys of a part of the section."""
    if rest == "kind" and section.kinds[0].name:
        yield from _listed([(kind.name + (" (the default)" if kind.usual else ""), kind.meaning) for kind in section.kinds])
        return
    for kind in section.kinds:
        if kind.name == rest:
            yield from _paragraph(f"{section.name}.kind: {kind.name}: {kind.meaning}")
            for one in kind.keys:
                yield from ["", *_key(one)]
            return
    every = [(kind, one, one.name.replace("[]", "")) for kind in section.kinds for one in kind.keys]
    exact = [(kind, one) for kind, one, name in every if name == key]
    below = [(kind, one) for kind, one, name in every if name.startswith(f"{key}.")]
    groups: dict[Key, list[Kind]] = {}
    for kind, one in [*exact, *below]:
        groups.setdefault(one, []).append(kind)
    for place, (one, kinds) in enumerate(groups.items()):
        yield from [*([""] if place else []), *_key(one, ", ".join(kind.name for kind in kinds))]


def _key(key: Key, kinds: str = "") -> Iterator[str]:
    yield key.name.replace("`", "") + (f"  (of {kinds})" if kinds else "")
    yield from _paragraph(key.meaning, "    ")
    yield from _paragraph(f"may be: {key.values}", "    ")
    yield from _paragraph(f"default: {key.default}", "    ")


def _listed(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max(len(name) for name, _ in rows)
    for name, meaning in rows:
        first, *more = _paragraph(meaning, " " * (width + 2)) or [""]
        yield from [f"{name:<{width}}  {first.strip()}", *more]


def _paragraph(text: str, indent: str = "") -> list[str]:
    return fill(text.replace("`", ""), WIDTH, initial_indent=indent, subsequent_indent=indent).splitlines()


def _names(section: Section) -> Iterator[str]:
    yield section.name
    for kind in section.kinds:
        if kind.name:
            yield from (f"{section.name}.kind", f"{section.name}.{kind.name}")
        yield from (one.name.replace("[]", "") for one in kind.keys)


def _hint(key: str, known: Sequence[str], names: Sequence[str]) -> str:
    """The nearest key; a last word that some section has is meant more often than a section of a similar name."""
    last = key.rpartition(".")[2]
    same = sorted({name for name in known if name.rpartition(".")[2] == last})
    if same and key not in known:
        return f"did you mean {' or '.join(repr(name) for name in same[:3])}?"
    found = nearest_word(key, known)
    return found if found.startswith("did") else nearest_word(key, names)
