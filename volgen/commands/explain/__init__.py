"""What a key of a configuration means, its unit, range and default; or what a model of the package is.

For example: volgen explain optimiser.learning_rate; volgen explain sampler; volgen explain sampler.heun; volgen explain pretrained:NAME.
Without KEY: the sections.
"""

from __future__ import annotations

from typing import Annotated

from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Positional


class Config(BaseConfig):
    """What is asked."""

    key: Annotated[str, Positional("KEY")] = ""
    """Dotted key, or a section, of a configuration; or pretrained:NAME."""


def run(config: Config) -> Answer[str]:
    """Explains a key."""
    from volgen.commands.explain.explain import explain

    print(text := explain(config.key))
    return Answer(text)
