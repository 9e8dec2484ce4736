"""A store that goes away while it is read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from volgen.core.errors import UserError
from volgen.data.store import Store


def test_a_store_that_was_renamed_is_not_told_to_be_damaged(blob_store: Path, tmp_path: Path) -> None:
    shutil.copytree(blob_store, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"store: is no longer there.*Put it back") as caught:
        store.read(store.records[0])
    assert "delete" not in str(caught.value)
    (tmp_path / "elsewhere").rename(tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / store.records[0].id)
    with pytest.raises(UserError, match=r"its data is missing.*Delete the subject's folder"):
        store.read(store.records[0])
