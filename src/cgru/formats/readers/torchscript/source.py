"""The source text in an archive → its classes and functions by their full names, ``__torch__.a.b.Name``."""

from __future__ import annotations

from collections.abc import Mapping

from ....errors import FormatError, UnsupportedError
from .syntax import ClassDef, Def, parsed


class Source:
    """A module is parsed when something in it is asked for. Nothing is compiled, and nothing runs."""

    def __init__(self, code: Mapping[str, str]) -> None:
        self._code = code
        self._parsed: dict[str, dict[str, ClassDef | Def]] = {}

    def find(self, name: str) -> ClassDef | Def:
        module, _, last = name.rpartition(".")
        if module not in self._parsed and module in self._code:
            self._parsed[module] = parsed(self._code[module], f"code of {module[:120]}")
        found = self._parsed.get(module, {}).get(last)
        if found is None:
            raise UnsupportedError(f"its code names {name[:120]}, which the archive does not hold")
        return found

    def klass(self, name: str) -> ClassDef:
        found = self.find(name)
        if not isinstance(found, ClassDef):
            raise FormatError(f"{name[:120]} is a function; expected a class")
        return found
