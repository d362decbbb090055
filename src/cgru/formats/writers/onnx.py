"""A network as an ONNX file, for whoever runs it elsewhere: operator set 17, written by hand, needs numpy alone.

Every value is (B, T, *features), or (B, *features) without time; batch and time stay open. Sequences begin from zero
states: what a stream carries is not in the file.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ...errors import CgruError
from ...spec.graph import Graph
from ...weights import Store
from . import onnx_frames, onnx_pointwise, onnx_recurrent
from .onnx_writer import Writer

if TYPE_CHECKING:
    from ...engine.model import Model

#: The modules whose handlers make :data:`~.onnx_writer.HANDLERS`.
FAMILIES = (onnx_pointwise, onnx_frames, onnx_recurrent)


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write ``model`` to ``path``; :class:`UnsupportedError` names the layer that cannot be said in ONNX."""
    content = to_bytes(model)
    try:
        beside = f"{os.fspath(path)}.{os.urandom(4).hex()}.tmp"
        with open(beside, "xb") as file:
            file.write(content)
        os.replace(beside, path)
    except OSError as error:
        raise CgruError(f"{os.fspath(path)}: cannot be written: {error.strerror or error}") from None


def to_bytes(model: Model) -> bytes:
    """The bytes of the file."""
    graph, store = _graph_of(model)
    return Writer(graph, store).model()


def _graph_of(model: Any) -> tuple[Graph, Store]:
    if not model.is_chain:
        return model.graph, model.store
    from ...builder import Graph as Builder

    g = Builder()
    first = next((layer.input_size for layer in model.layers if layer.input_size is not None), 1)
    y: Any = g.input(dtype="int64") if model.takes_ids else g.input(first)
    for layer in model.layers:
        y = g.layer(layer, y)
    g.output(*(y if isinstance(y, tuple) else (y,)))
    return g.build(), g.store
