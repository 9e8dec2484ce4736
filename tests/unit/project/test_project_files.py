"""Documents, configurations and settings say what the code does."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import volgen
from volgen import commands, recipe
from volgen.core.registry import kinds

ROOT = Path(__file__).resolve().parents[3]
REGISTRIES = (
    "volgen.acquisition.masks",
    "volgen.data.ingest.biases",
    "volgen.data.ingest.registrations",
    "volgen.data.ingest.windows",
    "volgen.evaluation.cohorts",
    "volgen.evaluation.comparisons",
    "volgen.evaluation.extractors",
    "volgen.evaluation.segmenters",
    "volgen.evaluation.volumes",
    "volgen.methods",
    "volgen.origin.starts",
    "volgen.training.objectives",
    "volgen.models.adapters",
    "volgen.models.assemblies",
    "volgen.models.networks",
    "volgen.models.preconditioners",
    "volgen.sampling.noises",
    "volgen.privacy.plans",
    "volgen.sampling.samplers",
    "volgen.sampling.schedules",
)
CONFIGS = sorted((ROOT / "configs").glob("**/*.yaml"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def _tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is no list of tracked files")
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_path_of_one_machine() -> None:
    # Spelt so that this file does not match itself.
    machine = re.compile(r"(?<![\w.])/(?:wo[r]k|ro[o]t|op[t]|ho[m]e/\w+|Use[r]s/\w+)/")
    found = []
    for path in _tracked():
        if path.suffix in {".gz", ".png", ".safetensors", ".svg", ".xz"} or path.name == "LICENSE":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if machine.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_is_valid(path: Path) -> None:
    assert recipe.load(path).name


def test_there_is_a_configuration_for_the_quickstart() -> None:
    assert ROOT / "configs" / "quickstart.yaml" in CONFIGS


def test_the_table_of_methods_is_complete() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for package in REGISTRIES:
        missing = [kind for kind in kinds(package) if f"`{kind}`" not in text]
        assert not missing, f"{package}: docs/architecture.md does not mention {missing}"


def test_documented_commands_and_files_exist() -> None:
    for document in DOCUMENTS:
        text = document.read_text()
        for command in re.findall(
            r"^ *\$? *(?:python -m )?volgen ([a-z]\S*)", "\n".join(re.findall(r"```.*?```", text, re.DOTALL)), re.MULTILINE
        ):
            assert command in commands.titles(), f"{document.name} shows `volgen {command}`"
        for script in re.findall(r"bash ((?:\.ci|launch)/[\w./-]+)", text):
            assert (ROOT / script).is_file(), f"{document.name} shows {script}"
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert (document.parent / link).exists(), f"{document.name} links to {link}"


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_has_short_cells_and_no_outputs(path: Path) -> None:
    """CI runs it when it builds the site; what a run prints would make a commit of every run."""
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert all(len(cell["source"]) <= 16 for cell in code)


def test_the_reference_of_functions_has_all_of_them() -> None:
    text = (ROOT / "docs" / "reference" / "python.md").read_text()
    assert {*re.findall(r":: volgen\.(\w+)$", text, re.MULTILINE)} - {"api"} == {*volgen.__all__} - {"__version__"}


def test_the_readme_starts_with_the_two_commands() -> None:
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    assert "bash launch/quickstart.sh" in first_screen
    assert "bash launch/test.sh" in first_screen


def test_the_reference_of_keys_is_that_of_the_classes() -> None:
    spec = importlib.util.spec_from_file_location("make_configuration", ROOT / "docs" / "make_configuration.py")
    assert spec is not None and spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert maker.PAGE.read_text() == maker.page(), "give `python docs/make_configuration.py`"


def test_the_reference_of_keys_names_every_key_and_says_what_it_is() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert all(len(row) == 4 and row[3].strip(" |") for row in rows), "a key without a word about it"

    def keys(prefix: str, content: dict[str, object]) -> Iterator[str]:
        for name, value in content.items():
            yield from keys(f"{prefix}{name}.", value) if isinstance(value, dict) else [f"{prefix}{name}"]

    for config in CONFIGS:
        for key in keys("", recipe.load(config).model_dump()):
            assert f"`{key}`" in text or key.endswith(".kind"), f"{key} of {config.name} is not in docs/configuration.md"


def test_a_citation_is_given() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= citation.keys()
    assert citation["version"] == volgen.__version__ and citation["license"] == "Apache-2.0"
    assert citation["references"][0]["doi"] == "10.3390/app14083489"


def test_the_container_is_made_of_what_the_checkout_has_and_installs_as_it_does() -> None:
    lines = (ROOT / "launch" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    instructions = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    assert instructions[0][0] == "FROM" and instructions[-1] == ["ENTRYPOINT", '["volgen"]']
    copied = [name for word, rest in instructions if word == "COPY" for name in rest.split()[:-1]]
    assert {"pyproject.toml", "README.md", "LICENSE", "volgen"} <= set(copied), "what a wheel is built from"
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied) and set(copied) == allowed
    setup = (ROOT / "launch" / "setup.sh").read_text()
    (torch,) = [rest for word, rest in instructions if word == "ARG"]
    assert f"TORCH_SPEC:-{torch.partition('=')[2]}" in setup
    python = re.fullmatch(r"python:([\d.]+)-slim", instructions[0][1])
    assert python and f"Python :: {python[1]}" in (ROOT / "pyproject.toml").read_text()


def _pip(text: str, torch: str) -> list[str]:
    """What the pip commands of a recipe install, with one name for torch's version."""
    commands = re.findall(r"-m pip install(?: --quiet)? (.*?)(?: \\|\s*&&|\n|$)", text)
    return [command.replace(torch, "TORCH").replace("\\", "").strip() for command in commands]


def test_both_containers_install_what_the_script_does() -> None:
    """Neither can be built where there is no builder; that each installs the same can be read."""
    setup, docker, apptainer = ((ROOT / "launch" / name).read_text() for name in ("setup.sh", "Dockerfile", "volgen.def"))
    wanted = _pip(setup, "$TORCH_SPEC")
    assert len(wanted) == 2 and "--editable" in wanted[1]
    plain = [wanted[0], wanted[1].replace('--editable "$VOLGEN_ROOT${extras:+[$extras]}"', ".")]
    assert _pip(docker, "$TORCH_SPEC") == plain
    assert _pip(apptainer, "{{ TORCH_SPEC }}") == plain
    for text in (docker, apptainer):
        assert "DS_BUILD_OPS=0" in text and "DS_IGNORE_CUDA_DETECTION=1" in text
    assert re.findall(r"^ARG TORCH_SPEC=(\S+)$", docker, re.MULTILINE) == re.findall(r"^ +TORCH_SPEC=(\S+)$", apptainer, re.MULTILINE)


def test_the_definition_for_apptainer_has_its_sections_and_the_files_of_the_dockerfile() -> None:
    text = (ROOT / "launch" / "volgen.def").read_text()
    docker = (ROOT / "launch" / "Dockerfile").read_text()
    header, *rest = re.split(r"^%(\w+)\n", text, flags=re.MULTILINE)
    sections = dict(zip(rest[::2], rest[1::2], strict=True))
    assert set(sections) == {"arguments", "files", "post", "environment", "runscript", "test"}
    base = re.search(r"^From: (\S+)$", header, re.MULTILINE)
    assert "Bootstrap: docker\n" in header and base and f"FROM {base[1]}\n" in docker
    pairs = [line.split() for line in sections["files"].strip().splitlines()]
    copied = {name for line in re.findall(r"^COPY (.*)$", docker, re.MULTILINE) for name in line.split()[:-1]}
    assert {name for name, _ in pairs} == copied and all(target == f"/volgen/{name}" for name, target in pairs)
    assert sections["runscript"].split() == ["exec", "volgen", '"$@"']
    for name in ("post", "runscript", "test"):
        done = subprocess.run(["sh", "-n"], input=sections[name], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_readme_says_when_to_use_something_else_and_begins_with_one_network() -> None:
    text = (ROOT / "README.md").read_text()
    for word in ("MAISI", "MONAI", "pip install", "launch/Dockerfile", "CITATION.cff", "docs/configuration.md"):
        assert word in text, word
    named = re.findall(r"--config (configs/\S+\.yaml)", text)
    assert named and all(recipe.load(ROOT / name).experts.count in (1, 2) for name in named), "docs/experts.md: begin with one, or two"
