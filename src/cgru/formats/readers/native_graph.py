"""Version 2 of the native form: one graph or several named ones, and their weights by key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np

from ...arrays import Float32
from ...builder import Graph
from ...errors import FormatError
from ...spec.graph import Graph as Specification
from ...spec.graph import graph_from_json
from ...spec.precision import PRECISIONS, Stored
from ...weights import Store, Weights, shape_of
from ..containers.messages import some
from ..containers.tensorfile import TensorFile
from .naming import error_prefix
from .native_parts import SCALE, parse, plain_number, put, take

VERSION = "2"
#: The entry that a network of one graph has.
MAIN = "main"
#: Entries of a file at most.
ENTRIES = 64


def contents(
    graphs: Mapping[str, Specification], store: Store
) -> tuple[dict[str, np.ndarray], str, dict[str, str]]:
    """The tensors, the specification, and what the reduced tensors are called."""
    tensors: dict[str, np.ndarray] = {}
    dtypes: dict[str, str] = {}
    spec: dict[str, Any] = {"entries": {name: graph.to_json() for name, graph in graphs.items()}, "weights": {}}
    for key, weights in store.items():
        spec["weights"][key] = weights.precision
        for name, held in weights.stored().items():
            put(tensors, dtypes, f"{key}.{name}", held, weights.precision)
    return tensors, json.dumps(spec, default=plain_number), dtypes


def load(file: TensorFile, dtypes: Mapping[str, str]) -> Graph | dict[str, Graph]:
    """The graph of a file of version 2 with its weights, or the graphs by entry, whose weights are then shared.

    Every tensor is used by some entry, and every weight is there.
    """
    spec = parse(file.metadata["spec"])
    if not isinstance(spec, dict) or spec.keys() != {"entries", "weights"}:
        raise FormatError("the specification must be an object with exactly the keys 'entries' and 'weights'")
    entries, precisions = spec["entries"], spec["weights"]
    if not isinstance(entries, dict) or not 0 < len(entries) <= ENTRIES or "" in entries:
        raise FormatError(f"the entries of the specification must be an object of 1 to {ENTRIES} graphs by name")
    if not isinstance(precisions, dict):
        raise FormatError("the weights of the specification must be an object from key to precision")
    for key, precision in precisions.items():
        if precision not in PRECISIONS:
            raise FormatError(
                f"weights {key[:80]!r} have precision {str(precision)[:40]!r}; known are {', '.join(PRECISIONS)}"
            )
    held = _arrays_by_key(file, dtypes, precisions)
    shapes = {key: {name: shape_of(array) for name, array in arrays.items()} for key, arrays in held.items()}
    store: dict[str, Weights] = {}
    made = {}
    for name, entry in entries.items():
        with error_prefix(f"entry {name[:80]!r}") if len(entries) > 1 else nullcontext():
            made[name] = _graph(graph_from_json(entry, shapes), held, precisions, store)
    if left := sorted(precisions.keys() - store.keys()):
        raise FormatError(f"nothing uses the weights {left[0][:80]!r}")
    return made[MAIN] if made.keys() == {MAIN} else made


def _graph(
    graph: Specification,
    held: Mapping[str, Mapping[str, Float32 | Stored]],
    precisions: Mapping[str, str],
    store: dict[str, Weights],
) -> Graph:
    """A graph with its weights, which go into ``store`` where an entry before has not put them."""
    used = {node.weights for node in graph.nodes if node.weights}
    if missing := sorted(used - precisions.keys()):
        raise FormatError(f"the weights {missing[0][:80]!r} are missing")
    made = Graph()
    made.inputs, made.nodes, made.outputs = graph.inputs, list(graph.nodes), list(graph.outputs)
    made.values = dict(graph.values)
    for node in graph.nodes:
        key = node.weights
        if key and key not in store:
            matrices = {name for name, info in graph.array_infos[node.name].items() if info.matrix}
            store[key] = _weights(key, held[key], matrices, precisions[key])
        if key:
            made.store[key] = store[key]
    return made


def _weights(key: str, arrays: Mapping[str, Float32 | Stored], matrices: set[str], precision: str) -> Weights:
    for name, array in arrays.items():
        if precision != "float32" and isinstance(array, Stored) != (name in matrices):
            raise FormatError(f"tensor {f'{key}.{name}'[:80]!r} is not held as the precision {precision} says")
    return Weights(arrays, matrices, precision)


def _arrays_by_key(
    file: TensorFile, dtypes: Mapping[str, str], precisions: Mapping[str, str]
) -> dict[str, dict[str, Float32 | Stored]]:
    """The tensors, named ``<weights>.<array>``, of each weight in its precision; every tensor belongs to one."""
    found: dict[str, dict[str, Float32 | Stored]] = {key: {} for key in precisions}
    scales = {tensor for tensor in file.tensors if tensor.endswith(SCALE) and tensor[: -len(SCALE)] in file.tensors}
    for tensor in [tensor for tensor in file.tensors if tensor not in scales]:
        key, dot, name = tensor.rpartition(".")
        if not dot or key not in found:
            known = some(key[:40] for key in precisions)
            raise FormatError(f"nothing uses the tensor {tensor[:80]!r}; the weights are {known}")
        reduced = precisions[key] != "float32" and dtypes[tensor] != "F32"
        array = take(file, dtypes, tensor, precisions[key] if reduced else "float32")
        if isinstance(array, Stored) and array.scale is not None:
            scales.discard(tensor + SCALE)
        found[key][name] = array
    if scales:
        raise FormatError(f"nothing uses the tensor {min(scales)[:80]!r}: no int8 matrix has that name without the end")
    return found
