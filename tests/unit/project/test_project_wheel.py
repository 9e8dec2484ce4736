"""An installed volgen is complete: the cohort, the report's templates and the type marker are in the wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import volgen

ROOT = Path(__file__).resolve().parents[3]
MADE_UP, MODEL = "volgen/pretrained/made-up", ("LICENSE", "config.yaml", "template.nii.gz", "experts/0/weights.safetensors")


def _copy(source: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "volgen", source / "volgen", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    _copy(source)
    for name in MODEL:
        (source / MADE_UP / name).parent.mkdir(parents=True, exist_ok=True)
        (source / MADE_UP / name).write_text(name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(target),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = target.glob("*.whl")
    return zipfile.ZipFile(path)


def test_every_file_of_the_package_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    inside = set(wheel.namelist())
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "volgen").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert ours <= inside, sorted(ours - inside)
    assert {f"{MADE_UP}/{name}" for name in MODEL} <= inside, "a model in the package is in the wheel, whatever its files are called"


def test_the_wheel_starts_the_command_line_and_has_the_licences(wheel: zipfile.ZipFile) -> None:
    (points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "volgen = volgen.cli:run" in wheel.read(points).decode()
    licences = [name for name in wheel.namelist() if ".dist-info/licenses/" in name]
    assert len(licences) == 3
    assert sum(info.compress_size for info in wheel.infolist() if not info.filename.startswith("volgen/pretrained/")) < 10_000_000


def test_an_editable_install_works_from_the_folder_above_the_checkout(tmp_path: Path) -> None:
    above, site = tmp_path / "above", tmp_path / "site"
    checkout = above / "volgen"  # called as the package is: Python could take it for a namespace package
    checkout.mkdir(parents=True)
    _copy(checkout)
    built = [sys.executable, "-c", f"from setuptools.build_meta import build_editable; build_editable({str(site)!r})"]
    site.mkdir()
    done = subprocess.run(built, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = site.glob("*.whl")
    zipfile.ZipFile(path).extractall(site)
    # A Python that knows of no other volgen: without site-packages, and with the working directory first on its path, as `-m` has it.
    code = f"import site; site.addsitedir({str(site)!r}); import volgen, volgen.core.exit_codes; print(volgen.__version__, volgen.__file__)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=above, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [volgen.__version__, str(checkout / "volgen" / "__init__.py")]
