"""``volgen participants``: a table becomes part of a store that is finished."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from volgen.core.files import LARGEST_JSON, read_bytes, write_json
from volgen.core.manifest import NAME
from volgen.core.progress import say
from volgen.core.seal import sealed
from volgen.data.covariates import KEY, Covariates
from volgen.data.ingest.target import target
from volgen.data.store import Store


def participants(store: Path | str, table: Path, *, columns: Sequence[str] = ()) -> Covariates:
    """Writes what a table says of people into the manifest of their store.

    Args:
        store: folder of the store, or its address (``s3://bucket/store``).
        table: tab-separated, or comma-separated if its name ends in ``.csv``.
        columns: which of its columns; those of :data:`volgen.data.covariates.USUAL` that there are if empty.

    Returns:
        What the store knows now.

    Raises:
        UserError: there is no such store, somebody is writing to it, or the table cannot be used.
    """
    found: list[Covariates] = []

    def read() -> None:
        found[:] = [Covariates.read(table, Store.open(store).records, columns)]

    read()  # before anything is locked or made
    with target(store) as into, into.own(read):
        content = json.loads(read_bytes(into.folder / NAME, limit=LARGEST_JSON))
        content.pop(KEY, None)
        write_json(into.folder / NAME, sealed({**content, **found[0].to_dict()}))
        into.finish()
    for name, column in found[0].columns.items():
        say(f"{store}: {name} {column}")
    return found[0]
