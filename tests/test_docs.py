"""The README and docs/ against the package: names that their Python takes from cgru, command lines, scripts."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

import cgru
from cgru.cli.commands import _parser

ROOT = Path(__file__).parents[1]
PAGES = [
    page
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
    if page.exists()
]
if not PAGES:
    pytest.skip("the README is not beside these tests", allow_module_level=True)
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}


def code(text: str) -> list[ast.Module]:
    return [ast.parse(block) for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


def missing(tree: ast.Module) -> list[str]:
    """What the code takes from cgru and its modules, by name, that is not there."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cgru":
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                try:
                    importlib.import_module(f"{node.module}.{alias.name}")
                except ModuleNotFoundError:
                    found += [] if hasattr(module, alias.name) else [f"{node.module}.{alias.name}"]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cgru":
            found += [] if node.attr in {*dir(cgru), "ray"} else [f"cgru.{node.attr}"]
    return found


@pytest.mark.parametrize("page", TEXTS)
def test_names_that_code_takes_from_cgru_are_there(page: str) -> None:
    assert not [name for tree in code(TEXTS[page]) for name in missing(tree)]


def shell(text: str) -> list[str]:
    """The lines of shell blocks, and those that are indented."""
    fenced = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return fenced + [line[4:] for line in text.splitlines() if line.startswith("    ")]


LINES = [
    (name, line)
    for name, text in TEXTS.items()
    for line in shell(text)
    if re.match(r"(?:cat \S+ \| )?cgru [a-z]+ ", line)
]


@pytest.mark.parametrize(("page", "line"), LINES)
def test_command_lines_are_ones_that_cgru_takes(page: str, line: str) -> None:
    words = shlex.split(line.rpartition(" | ")[2].split(" > ")[0], comments=True)
    assert _parser().parse_args(words[1:]).command


@pytest.mark.parametrize("page", TEXTS)
def test_scripts_that_a_page_names_are_there(page: str) -> None:
    named = re.findall(r"\b((?:bench|tools|examples|tests)/[\w/]+\.(?:py|sh|txt))\b", TEXTS[page])
    assert not [name for name in named if not (ROOT / name).exists()]


def test_what_these_tests_look_at_is_found() -> None:
    assert len(LINES) > 15
    assert sum(len(code(text)) for text in TEXTS.values()) > 25
    assert missing(ast.parse("from cgru import nothing\ncgru.nobody(1)")) == ["cgru.nothing", "cgru.nobody"]
