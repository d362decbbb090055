"""What is promised of the package itself: its version, its names, its files, its two commands."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cgru

ROOT = Path(__file__).resolve().parent.parent


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    try:
        installed = importlib.metadata.version("cgru")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("cgru is not installed, only on the path")
    assert installed == cgru.__version__


def test_numpy_is_all_that_is_required() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [re.match(r"[\w-]+", name)[0] for name in project["dependencies"]] == ["numpy"]  # type: ignore[index]


def test_every_public_name_is_there() -> None:
    assert len(set(cgru.__all__)) == len(cgru.__all__)
    for name in cgru.__all__:
        assert getattr(cgru, name) is not None
        assert name in dir(cgru)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = cgru.no_such_name


def test_star_import() -> None:
    code = "from cgru import *; print(load.__module__, GRU.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "cgru.formats.opening GRU\n"


def test_the_readme_has_two_commands_that_make_their_own_environments() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python3 -m venv .*$", readme, re.MULTILINE)
    assert [command.split()[3] for command in commands] == [".venv", ".venv-test"]
    assert commands[0].endswith("cgru demo")
    assert "pytest" in commands[1]
    # .ci/run takes them from the README and types nothing of its own.
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert 'readme .venv-test' in script
    assert 'readme .venv;' in script


def test_every_instruction_set_file_has_its_flags() -> None:
    table = (ROOT / "setup.py").read_text(encoding="utf-8")
    files = list((ROOT / "src" / "cgru" / "core" / "isa").glob("*.c"))
    assert files
    for path in files:
        assert f'"{path.stem.rpartition("_")[2]}": Isa(' in table, path.name


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        text = re.sub(r"```.*?```|`[^`\n]*`", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_readme_has_the_errors_that_were_measured() -> None:
    """Median and worst of each precision, as bench/accuracy.py printed them."""
    lines = (ROOT / "bench" / "results" / "accuracy.txt").read_text(encoding="utf-8").splitlines()
    columns = re.split(r"\s{2,}", lines[0].strip())[1:]
    median, worst = (dict(zip(columns, map(float, line.split()[-len(columns) :]), strict=True)) for line in lines[-2:])
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for precision in ("int8", "int8x16", "bf16", "fp16"):
        row = re.search(rf"^\| `{precision}` \|.*\| ([\d.e-]+), ([\d.e-]+)[:|\s]", readme, re.MULTILINE)
        assert row is not None
        assert float(row[1]) == pytest.approx(median[precision], rel=0.02)
        assert float(row[2]) == pytest.approx(worst[precision], rel=0.02)
