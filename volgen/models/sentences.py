"""A frozen sentence encoder of the user's choice: a folder of the transformers library, known by the checksum of its weights.

The embedding is that of sentence-transformers (Reimers & Gurevych 2019): the mean of the last layer over tokens, at length 1.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch.nn.functional import normalize

WEIGHTS, SIZES = "model.safetensors", "config.json"
_ONE_AT_A_TIME = Lock()


class Elsewhere(ValueError):
    """A sentence encoder is not where it should be, or another one is there."""


def is_encoder(folder: Path) -> bool:
    """Whether a folder holds an encoder."""
    return (folder / WEIGHTS).is_file() and (folder / SIZES).is_file()


def about(folder: str) -> tuple[str, int]:
    """SHA-256 of the weights of an encoder, and how many numbers it makes of a text.

    Raises:
        Elsewhere: there is no such encoder.
        ValueError: it does not say what it is.
    """
    path = Path(folder)
    if not folder or not is_encoder(path):
        raise Elsewhere(f"there is no sentence encoder in '{folder}': expected a folder with {WEIGHTS}, {SIZES} and a tokenizer")
    with (path / WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        content = json.loads((path / SIZES).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path / SIZES} cannot be read as JSON ({error})") from None
    width = content.get("hidden_size") if isinstance(content, dict) else None
    if not isinstance(width, int) or width < 1:
        raise ValueError(f"{path / SIZES} does not say hidden_size, how many numbers a text has")
    return digest, width


@lru_cache(maxsize=4096)
def embedding(folder: str, sha256: str, text: str) -> tuple[float, ...]:
    """What the encoder of a folder makes of a text.

    Args:
        folder: where it is.
        sha256: SHA-256 of its weights, as they were.
        text: in words.

    Raises:
        ValueError: there is no such encoder, it is another one, or the library that runs it is not installed.
    """
    tokenizer, model = _loaded(folder, sha256)
    with _ONE_AT_A_TIME, torch.no_grad():
        tokens = tokenizer(text, return_tensors="pt", truncation=True)
        states = model(**tokens).last_hidden_state.float()
        kept = tokens["attention_mask"][..., None].float()
        found: list[float] = normalize((states * kept).sum(dim=1) / kept.sum(dim=1))[0].tolist()
    return tuple(found)


@lru_cache(maxsize=2)
def _loaded(folder: str, sha256: str) -> tuple[Any, Any]:
    if (found := about(folder)[0]) != sha256:
        raise Elsewhere(f"the sentence encoder in '{folder}' has weights {found[:12]}..., and training began with {sha256[:12]}...")
    try:
        library = importlib.import_module("transformers")
    except ImportError as error:
        raise ValueError(f"a sentence encoder needs the transformers library ({error}): pip install 'volgen[text]'") from None
    own = {"local_files_only": True, "trust_remote_code": False}  # where nothing is said, the library asks whether to run the folder's code
    try:
        model = library.AutoModel.from_pretrained(folder, use_safetensors=True, **own).eval().requires_grad_(False)
        return library.AutoTokenizer.from_pretrained(folder, **own), model
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"the sentence encoder in '{folder}' cannot be read ({' '.join(str(error).split())[:160]})") from None
