"""Imports run one way through the rooms of the package: a module imports what stands below it, or beside it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cgru

SOURCES = Path(cgru.__file__).parent

#: From the ground up; those of one line stand beside each other and know nothing of each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("arrays",),
    ("forks", "html_tables", "json_numbers", "threads"),
    ("spec", "reference"),  # the table of cells has the equations in it
    ("weights",),
    ("layers",),
    ("absorption",),
    ("builder",),
    ("frontends",),
    ("engine",),
    ("search",),
    ("formats",),
    ("live",),
    ("reports",),
    ("demo", "cli.files"),
    ("archive", "serve"),
    ("ray",),
    ("cli",),
    ("__main__", "__init__"),
)
HEIGHT = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
#: Beside each other, and yet one of the other.
TOGETHER = {frozenset({"spec", "reference"})}

#: Imports upward inside functions: a method of a network or a layer that is a convenience for what stands above it.
UPWARD = {
    ("engine/model.py", "formats.readers"),  # net.save, and of an ONNX file
    ("engine/model.py", "formats.writers"),
    ("engine/model.py", "reports.comparison"),  # net.quantize(sample=)
    ("layers/base.py", "engine.alone"),  # gru(x), dense(x): a layer run by itself
}
#: Imports upward for the type checker alone.
TYPES = {
    ("engine/model.py", "reports.comparison"),
    ("layers/lowering.py", "builder"),  # layers become nodes of a graph that is handed to them
}


class Import(NamedTuple):
    file: str
    target: str
    kind: str  # "module", "function" or "types"


def room(module: str) -> str:
    """The room a module lies in: the longest of its beginnings that is one."""
    parts = module.split(".")
    return next(name for n in (2, 1) if (name := ".".join(parts[:n])) in HEIGHT)


def imports(file: Path) -> Iterator[Import]:
    """What a module of the package imports of the package."""
    place = file.relative_to(SOURCES)
    package = [] if place.name == "__init__.py" and len(place.parts) == 1 else list(place.parts[:-1])

    def walk(node: ast.AST, kind: str) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inner = kind
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                inner = "function"
            elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                inner = "types"
            elif isinstance(child, ast.ImportFrom) and child.level:
                base = package[: len(package) - child.level + 1]
                if child.module:
                    base = [*base, *child.module.split(".")]
                # ``from . import x`` and ``from .. import x`` name modules, or what the package itself offers.
                names = [base] if base else [[alias.name] for alias in child.names]
                for parts in names:
                    yield Import(place.as_posix(), ".".join(parts), inner)
            elif isinstance(child, ast.Import | ast.ImportFrom):
                named = [child.module or ""] if isinstance(child, ast.ImportFrom) else [a.name for a in child.names]
                for name in named:
                    if name.split(".")[0] == "cgru":
                        yield Import(place.as_posix(), name.removeprefix("cgru").lstrip(".") or "__init__", inner)
            yield from walk(child, inner)

    yield from walk(ast.parse(file.read_text(encoding="utf-8")), "module")


def upward(found: Import) -> bool:
    here = room(found.file.removesuffix(".py").replace("/", "."))
    if found.target.split(".")[0] not in HEIGHT or found.target == "__init__":  # its version, ``cgru.load``
        return HEIGHT[here] < HEIGHT["reports"]
    there = room(found.target)
    if here == there or frozenset({here, there}) in TOGETHER:
        return False
    return HEIGHT[there] >= HEIGHT[here]


ALL = [found for file in sorted(SOURCES.rglob("*.py")) for found in imports(file)]


def test_every_module_lies_in_a_room() -> None:
    for file in SOURCES.rglob("*.py"):
        assert room(file.relative_to(SOURCES).as_posix().removesuffix(".py").replace("/", ".")), file
    assert len(ALL) > 300


def test_imports_run_one_way() -> None:
    wrong = [found for found in ALL if found.kind == "module" and upward(found)]
    assert not wrong


def test_the_exceptions_are_these() -> None:
    """None more, and none that is no longer one."""
    for kind, allowed in (("function", UPWARD), ("types", TYPES)):
        assert {(found.file, found.target) for found in ALL if found.kind == kind and upward(found)} == allowed
