"""Every command block of README and docs is run by tests/docs/run_blocks.py, or says why not; here, what that script finds and compares."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_blocks", ROOT / "tests" / "docs" / "run_blocks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["run_blocks"] = module
    spec.loader.exec_module(module)
    return module


script = _script()


def page(folder: Path, text: str) -> Path:
    (folder / "page.md").write_text(text)
    return folder / "page.md"


@pytest.mark.parametrize("path", script.PAGES, ids=lambda path: path.stem)
def test_commands_that_are_not_run_are_commands_of_volgen(path: Path) -> None:
    for block in script.blocks(path):
        if block.mode == "check":
            script.check(block)


def test_blocks_are_found_with_what_is_said_of_them(tmp_path: Path) -> None:
    text = """Text with `volgen train`.

```bash
volgen doctor
```

<!-- docs: check; hours
of work -->

    volgen train --config CONFIG.yaml \\
        --seed 1

    volgen sample RUN --out DIR

Not a command:

    z = x + sigma y

<!-- docs: setup
mkdir x
-->
<!-- docs: exit 1; too large -->

    OMP_NUM_THREADS=1 volgen plan

<!-- docs: output -->

| a | b |
|---|---|
"""
    found = script.blocks(page(tmp_path, text))
    assert [(block.mode, block.line) for block in found] == [("run", 3), ("check", 10), ("setup", 19), ("exit", 24), ("output", 28)]
    assert found[1].reason == "hours of work" and found[1].text.count("volgen") == 2 and found[3].code == 1
    assert found[2].text == "mkdir x" and found[4].text == "| a | b |\n|---|---|"


@pytest.mark.parametrize(
    "text",
    [
        "<!-- docs: skip -->\n\n    volgen doctor\n",
        "<!-- docs: run; now -->\n\n    volgen doctor\n",
        "<!-- docs: skip; no cluster -->\n\nText.\n",
        "<!-- docs: skip; no cluster -->\n",
        "<!-- docs: skip; no cluster -->\n\n    z = x\n",
    ],
)
def test_a_comment_that_means_nothing_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(script.Wrong):
        script.blocks(page(tmp_path, text))


def test_a_block_of_python_is_run_by_python(tmp_path: Path) -> None:
    text = "```python\nprint('a' * 2)\n```\n\n<!-- docs: output -->\n\n    aa\n\n```python\nraise SystemExit(3)\n```\n"
    (wrong,) = script.run_page(page(tmp_path, text))
    assert "ended with 3" in wrong


def test_commands_are_what_the_shell_would_start() -> None:
    text = """OMP_NUM_THREADS=1 torchrun -m volgen train --config 'a b.yaml' && volgen report x > y  # volgen bench
two="--c 1"
for n in 1 2; do volgen plan $two \\
    --b {x,y}$n; done
bash launch/test.sh
"""
    assert [" | ".join(words) for words in script.volgen_commands(text)] == [
        "train | --config | a b.yaml",
        "report | x",
        "plan | --c | 1 | --b | x1 | y1",
        "plan | --c | 1 | --b | x2 | y2",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "volgen train --confg a.yaml",
        "volgen trian --config a.yaml",
        "volgen train --config configs/none.yaml",
        "volgen sample RUN --count x",
    ],
)
def test_a_wrong_command_is_found_without_running_it(tmp_path: Path, line: str) -> None:
    (block,) = script.blocks(page(tmp_path, f"<!-- docs: check; so -->\n\n    {line}\n"))
    with pytest.raises(script.Wrong, match="volgen"):
        script.check(block)


def test_a_wrong_key_of_a_configuration_is_found(tmp_path: Path) -> None:
    line = "volgen train --config configs/quickstart.yaml --experts.cuont 3"
    (block,) = script.blocks(page(tmp_path, f"<!-- docs: check; so -->\n\n    {line}\n"))
    with pytest.raises(script.Wrong, match=r"experts\.cuont"):
        script.check(block)


@pytest.mark.parametrize(
    ("expected", "printed", "missing"),
    [
        ("a 1.00 b", "x\na  1.01 b\n", None),
        ("a 1.00 b", "a 1.05 b", "a 1.00 b"),
        ("a ... 7", "a long story of 7", None),
        ("one\ntwo", "two\none", "two"),
        ("| 1 | 2 |", "| 1 | 3 |", "| 1 | 2 |"),
        ("x y", "x y z", "x y"),
    ],
)
def test_what_is_printed_is_compared(expected: str, printed: str, missing: str | None) -> None:
    assert script.agrees(expected, printed) == missing


def test_a_long_training_is_shortened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stand-in for volgen prints what it is asked."""
    text = """<!-- docs: short --seed 7; hours -->

    PATH=$PWD:$PATH; volgen train --seed 1
    volgen plan

<!-- docs: output -->

    train --seed 1 --seed 7
    plan
"""
    setup = "<!-- docs: setup\nprintf '#!/bin/sh\\necho $@\\n' > volgen && chmod +x volgen\n-->\n"
    assert not script.run_page(page(tmp_path, setup + text))
    assert "hours" not in capsys.readouterr().out


def test_a_page_is_run_in_one_folder_and_tells_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """```bash
echo 1 > here
```

<!-- docs: exit 3; so -->
```bash
cat here
exit 3
```

<!-- docs: output -->

    2

```bash
false
true
```
"""
    wrong = script.run_page(page(tmp_path, text))
    assert len(wrong) == 2 and "was not printed: 2" in wrong[0] and "ended with 1, not 0" in wrong[1]
    assert "exit" in capsys.readouterr().out
