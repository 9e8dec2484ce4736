"""volgen: train generators of 3D brain MRI and give out volumes that people can use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from volgen.api import (
        Model,
        UserError,
        evaluate,
        explain,
        export,
        ingest,
        load,
        participants,
        reconstruct,
        report,
        sample,
        train,
        translate,
        tune,
        verdicts,
    )  # fmt: skip

__version__ = "0.3.0"
__all__ = [
    "Model", "UserError", "__version__", "evaluate", "explain", "export", "ingest", "load", "participants", "reconstruct",
    "report", "sample", "train", "translate", "tune", "verdicts",
]  # fmt: skip

if not TYPE_CHECKING:  # a type checker shall know the names above, and no others

    def __getattr__(name: str) -> Any:
        """The interface is imported when it is first used: ``import volgen`` and ``volgen --help`` wait for no library."""
        if name not in __all__:
            raise AttributeError(f"module 'volgen' has no attribute '{name}'")
        return getattr(importlib.import_module("volgen.api"), name)

    def __dir__() -> list[str]:
        return [*__all__, *globals()]
