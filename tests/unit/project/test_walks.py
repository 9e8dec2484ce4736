"""The walks of docs/architecture.md are those that the code takes: files of the package on the call stack, from a command to its end."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import volgen
from volgen.cli import main
from volgen.experts.bank import ExpertBank
from volgen.experts.plan import Phase
from volgen.models.networks import wavelet_unet3d

PACKAGE = Path(volgen.__file__).parent
KINDS = re.compile(r"(models/networks|models/preconditioners|models/assemblies|sampling/samplers|training/objectives)/\w+")
SHOWN = ("training/objectives/denoising", "models/assemblies/whole")
"""Kinds that the page names."""


def stack() -> list[str]:
    """Files of the package on the stack of whoever calls, outermost first, as the page writes them; once where a file calls itself."""
    found: list[str] = []
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            name = path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__")
            name = name if name in SHOWN else KINDS.sub(r"\1/<kind>", name)
            if not found or found[-1] != name:
                found.append(name)
        frame = frame.f_back
    return found[::-1]


def written(repository: Path, title: str, number: int = 0) -> list[str]:
    """The files of a walk that the page says, with how many it says that there are."""
    page = (repository / "docs" / "architecture.md").read_text()
    walk = page.partition(f"* **{title}**")[2].partition("\n* **")[0].partition("\n\nWhat")[0]
    count, files = re.findall(r"\* now \((\d+)\):((?:\s*`[\w/<>]+`[,.;]?)+)", walk)[number]
    names = re.findall(r"`([\w/<>]+)`", files)
    assert len(names) == int(count), f"{title}: the page counts {count} files and names {len(names)}"
    return names


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """``first(owner, method, when)``: the stacks of the calls of a method, as they come."""

    def watched(owner: type, method: str, when: Callable[[], bool] = lambda: True) -> list[list[str]]:
        seen: list[list[str]] = []
        real = getattr(owner, method)

        def watching(*arguments: Any, **named: Any) -> Any:
            if when():
                seen.append(stack())
            return real(*arguments, **named)

        monkeypatch.setattr(owner, method, watching)
        return seen

    return watched


def test_the_walks_are_those_that_the_page_says(
    repository: Path, blob_store: Path, tmp_path: Path, first: Callable[..., list[list[str]]]
) -> None:
    content = yaml.safe_load((repository / "configs" / "brain4mm_k1.yaml").read_text())
    content |= {
        "name": "walk", "runs": str(tmp_path), "data": {"store": str(blob_store), "shape": [16, 16, 16], "batch_size": 2},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4},
        "preconditioner": {"kind": "gaussian", "rank": 2, "levels": 1, "folds": 3}, "engine": {"precision": "fp32"},
        "stopping": {"max_steps": 1, "min_steps": 1, "validation_volumes": 1, "validation_draws": 1},
    }  # fmt: skip
    config = tmp_path / "walk.yaml"
    config.write_text(yaml.safe_dump(content))
    network = type(wavelet_unet3d.Config(channels=(8,), norm_groups=4).build(inputs=2))
    built, levels = first(wavelet_unet3d.Config, "build"), first(Phase, "sigma", torch.is_grad_enabled)
    passed, asked = first(network, "forward", torch.is_grad_enabled), first(ExpertBank, "__call__")
    assert main(["train", "--config", str(config)]) == 0
    assert main(["sample", str(tmp_path / "walk"), "--out", str(tmp_path / "out"), "--count", "1", "--steps", "2"]) == 0

    crew, sampled = "commands/train/crew", "commands/sample/sample"
    assert [*built[0], "models/networks/<kind>"] == written(repository, "A config value")
    batch = passed[0][passed[0].index(crew) :]
    assert [*batch, "models/networks/<kind>"] == written(repository, "A batch")
    assert [*levels[0][levels[0].index(crew) :], "experts/plan"] == written(repository, "A noise level")
    assert [*asked[0][asked[0].index(sampled) :], "experts/bank"] == written(repository, "A noise level", 1)
