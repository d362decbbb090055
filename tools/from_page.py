"""Writes the lists of docs/from.md out of the tables that the code uses: ``python tools/from_page.py``."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from cgru.formats import FORMATS
from cgru.formats.readers import rtneural
from cgru.formats.readers.aten.lowering import HANDLERS as ATEN
from cgru.formats.readers.keras_functions import FUNCTIONS
from cgru.formats.readers.keras_layers import BUILDERS, REFUSED
from cgru.formats.readers.onnx_lowering import HANDLERS as ONNX

for _network in ("aten.network", "onnx_network"):  # which import the modules that fill the tables
    importlib.import_module(f"cgru.formats.readers.{_network}")

PAGE = Path(__file__).resolve().parent.parent / "docs" / "from.md"
_WIDTH = 118


def _list(names: list[str]) -> str:
    """Names on lines of the page's width."""
    lines = [""]
    for i, name in enumerate(names):
        word = f"`{name}`" + ("," if i + 1 < len(names) else "")
        if lines[-1] and len(lines[-1]) + len(word) >= _WIDTH:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)


def _formats() -> str:
    rows = ["| file | ending | opens |", "|---|---|---|"]
    for entry in FORMATS:
        word = "whole" if entry.builder else "by its names, or `layers=`"
        if entry.title in ("TensorFlow", "C table"):
            word = "its arrays, by `cgru.read`"
        elif not entry.module:
            word = "no; the error says what to do"
        endings = " ".join(f"`{ending}`" for ending in entry.extensions)
        rows.append(f"| {entry.title} | {endings} | {word} |")
    return "\n".join(rows)


def tables() -> dict[str, str]:
    """Every list by the name of its mark."""
    refused = REFUSED.items()
    public = sorted(name for name in ATEN if not name.startswith("_") and not name.endswith("_"))
    return {
        "formats": _formats(),
        "aten": _list(public),
        "keras layers": _list(sorted(BUILDERS)),
        "keras functions": _list(sorted(FUNCTIONS)),
        "keras refused": "\n".join(["| layer | what to do |", "|---|---|", *(f"| {k} | {v} |" for k, v in refused)]),
        "rtneural": _list(list(rtneural.KINDS)),
        "onnx": _list(sorted(ONNX)),
    }


def written(text: str) -> str:
    """The page with its lists as the tables are."""
    found = tables()

    def put(match: re.Match[str]) -> str:
        return f"<!-- table: {match.group(1)} -->\n{found[match.group(1)]}\n<!-- end -->"

    return re.sub(r"<!-- table: ([a-z ]+) -->\n.*?<!-- end -->", put, text, flags=re.S)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
