"""What is written of a person, through a sentence encoder that is not trained: a prompt beside the table.

In training the text is made of the table, by templates, so the network learns what the table says and how the encoder spreads its words;
nothing else of the encoder's knowledge is about brains.

Legend: B batch, W numbers of a text.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from volgen.core.cells import says
from volgen.core.config import MAY_CHANGE
from volgen.models.condition import ConditionConfig
from volgen.models.conditions._column import asked
from volgen.models.sentences import about as encoder_about
from volgen.models.sentences import embedding, is_encoder

BLANK = re.compile(r"\{([^{}]+)\}")
"""A column's place in a template."""
WIDEST = 8192
"""Numbers of a text that make sense."""


class Config(ConditionConfig):
    """A prompt (``--given prompt="..."``); people of whom something in their template is not known are not told it."""

    kind: Literal["text"] = "text"
    templates: tuple[str, ...] = Field(default=("MRI of the brain of a {age} year old person, sex {sex}.",), min_length=1)
    """Wordings of what is said of a person; ``{column}`` is what the table says. A scan has one of them, always the same."""
    words: Mapping[str, Mapping[str, str]] = Field(default_factory=dict)
    """Column -> what the table says -> how it is said, such as ``{sex: {F: woman, M: man}}``; as the table says it, if left out."""
    encoder: Annotated[str, MAY_CHANGE] = ""
    """Folder of a sentence encoder: ``model.safetensors``, ``config.json`` and a tokenizer, as the transformers library saves them."""
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """SHA-256 of the encoder's weights; that of the folder's when training begins, if empty."""
    width: int = Field(default=0, ge=0, le=WIDEST)
    """Numbers that the encoder makes of a text; as its configuration says, if 0."""

    @model_validator(mode="after")
    def _filled(self) -> Self:
        if empty := next((template for template in self.templates if not BLANK.search(template)), None):
            raise ValueError(f"the template '{empty}' has no {{column}} in it, so it says the same of everybody")
        if strange := [column for column in self.words if column not in self.columns]:
            raise ValueError(f"words says how '{strange[0]}' is said, but templates ask for {', '.join(self.columns)} only")
        return self

    @property
    def name(self) -> str:
        """Name of the condition, by which it is asked for: a prompt."""
        return "prompt"

    @property
    def edges(self) -> tuple[int, ...]:
        """Shape of the numbers of a scan: as many as the encoder makes."""
        return (max(1, self.width),)

    @property
    def covariate(self) -> str:
        """The first column that a template names."""
        return BLANK.findall(self.templates[0])[0]  # type: ignore[no-any-return]

    @property
    def places(self) -> list[str]:
        """The encoder's folder."""
        return [self.encoder] if self.encoder else []

    def placed(self, beside: Sequence[Path], named: Path | None = None) -> Self:
        """The same with its encoder, known by the checksum of its weights, where that lies now: in a folder of the same name.

        Raises:
            ValueError: no encoder, or another one, is where it is said to be.
        """
        if named is not None:
            if (found := encoder_about(str(named))[0]) != self.sha256:
                raise ValueError(f"the encoder in '{named}' has weights {found[:12]}..., not {self.sha256[:12]}...")
            return self.model_copy(update={"encoder": str(named)})
        own = Path(self.encoder)
        if is_encoder(own):
            return self
        there = (str(folder / own.name) for folder in beside if own.name and is_encoder(folder / own.name))
        return next((self.model_copy(update={"encoder": one}) for one in there if encoder_about(one)[0] == self.sha256), self)

    @property
    def settled(self) -> bool:
        """Whether the encoder is known."""
        return bool(self.sha256 and self.width)

    def settle(self, people: Sequence[Mapping[str, Any]]) -> Self:
        """Looks which encoder it is; of people only that each template says something of some.

        Raises:
            ValueError: there is none, or a template says nothing of anybody.
        """
        digest, width = encoder_about(self.encoder)
        if self.sha256 and self.sha256 != digest:
            raise ValueError(f"the encoder in '{self.encoder}' has weights {digest[:12]}..., not {self.sha256[:12]}...")
        if self.width not in (0, width):
            raise ValueError(f"the encoder in '{self.encoder}' makes {width} numbers of a text, not {self.width}")
        for template in self.templates:
            if not any(self._said(template, each) for each in people):
                asks = ", ".join(sorted(set(BLANK.findall(template))))
                raise ValueError(f"of none of {len(people)} scans everything is known that '{template}' asks for: {asks}")
        return self.model_copy(update={"sha256": digest, "width": width})

    @property
    def columns(self) -> list[str]:
        """Columns that templates ask for."""
        return sorted({column for template in self.templates for column in BLANK.findall(template)})

    def text(self, about: Mapping[str, Any]) -> str:
        """What is said of a scan; "" if something is not known."""
        return self._said(self.templates[zlib.crc32(str(about.get("id", "")).encode()) % len(self.templates)], about)

    def _said(self, template: str, about: Mapping[str, Any]) -> str:
        told = about.get("covariates", {})
        cells = {column: str(told.get(column, "")) for column in BLANK.findall(template)}
        if not all(says(cell) for cell in cells.values()):
            return ""
        return BLANK.sub(lambda found: self.words.get(found[1], {}).get(cells[found[1]], cells[found[1]]), template)

    def value(self, about: Mapping[str, Any]) -> Sequence[float] | float:
        """The numbers of what is said of a scan."""
        text = self.text(about)
        return embedding(self.encoder, self.sha256, text) if text else math.nan

    def parse(self, text: str) -> Sequence[float] | float:
        """The numbers of a prompt; ``n/a`` is not told."""
        prompt = asked(text)
        return embedding(self.encoder, self.sha256, prompt) if prompt else math.nan

    def build(self, width: int) -> nn.Module:
        """[B, W] -> [B, width]."""
        return _Prompt(max(1, self.width), width)


class _Prompt(nn.Module):
    """Numbers of a text at their size, which is 1 over the root of W each, brought to order 1, and a small perceptron.

    Args:
        numbers: W.
        width: numbers of the embedding.
    """

    def __init__(self, numbers: int, width: int) -> None:
        super().__init__()
        self.scale = math.sqrt(numbers)
        self.layers = nn.Sequential(nn.Linear(numbers, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, text_BW: Tensor) -> Tensor:
        """[B, W] -> [B, width]."""
        embedded: Tensor = self.layers(self.scale * text_BW)
        return embedded
