"""A trained PyTorch module as torch.export writes it, without what it notes of the machine it was written on."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import torch


def save(
    module: torch.nn.Module, examples: tuple[torch.Tensor, ...], path: Path, time_axis: int = 1, deflated: bool = False
) -> None:
    """``module`` for any number of rows, along the first axis of its inputs, and of steps along ``time_axis``."""
    # Where no gradient is asked for, torch takes another GRU, whose export has a fixed number of steps.
    auto = torch.export.Dim.AUTO
    program = torch.export.export(module, examples, dynamic_shapes=tuple({0: auto, time_axis: auto} for _ in examples))
    written = io.BytesIO()
    torch.export.save(program, written)
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(path, "w") as target:
        for item in source.infolist():
            content = source.read(item)
            if item.filename.endswith("models/model.json"):
                content = json.dumps(_without_sources(json.loads(content))).encode()
            target.writestr(
                zipfile.ZipInfo(item.filename, (1980, 1, 1, 0, 0, 0)),
                content,
                zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED,
            )


def _without_sources(document: Any) -> Any:
    """The same JSON without the lines of source, and their files, that each node came of."""
    if isinstance(document, dict):
        return {key: _without_sources(value) for key, value in document.items() if key != "stack_trace"}
    return [_without_sources(value) for value in document] if isinstance(document, list) else document
