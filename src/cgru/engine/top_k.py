"""The best of a large output layer: the last product and the choice are one, so the other scores are never stored."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import arrays
from ..arrays import Float32
from ..errors import CgruError, UnsupportedError
from ..spec.graph import Graph, Node
from ..weights import Weights
from .model import Model
from .network import Network

#: Outputs at once where the core does not multiply: 16 MB of a matrix of 256.
_BLOCK = 1 << 14


class _Cut(NamedTuple):
    """A network cut before its last product."""

    body: Model | None  # None: the input itself is multiplied
    weights: Weights
    items: int
    packed: bool


def top_k(net: Model, x: Any, k: Any, lengths: Any = None) -> tuple[Float32, np.ndarray]:
    """See :meth:`cgru.Model.top_k`."""
    cut = _cut_of(net)
    count = arrays.positive(k, "k")
    if count > cut.items:
        raise CgruError(f"k: the network scores {cut.items} items, found {arrays.brief(count)}")
    if cut.body is None:
        hidden: Any = arrays.float32(x, "x", (2, 3))
        if hidden.shape[-1] != cut.weights.shapes["weight"][1]:
            raise CgruError(f"x: expected {cut.weights.shapes['weight'][1]} features, found shape {hidden.shape}")
    else:
        hidden = cut.body(x, lengths=lengths)
    rows = np.ascontiguousarray(hidden).reshape(-1, hidden.shape[-1])
    scores, items = (_in_core if cut.packed else _in_blocks)(cut.weights, rows, count)
    shape = (*hidden.shape[:-1], count)
    return scores.reshape(shape), items.reshape(shape)


def _cut_of(net: Model) -> _Cut:
    held = vars(net)
    if "_cut" not in held:
        held.setdefault("_cut", _cut(net))
    cut: _Cut = held["_cut"]
    return cut


def _cut(net: Model) -> _Cut:
    graph = net.graph
    last = graph.node(graph.outputs[0]) if len(graph.outputs) == 1 else None
    if last is None or not _plain_product(last, graph):
        raise UnsupportedError(
            "top_k: the network must end in one dense layer without an activation, whose outputs are the scores"
        )
    before = last.inputs[0]
    weights = net.store[last.weights]
    body = None
    if before not in graph.inputs:
        nodes = [node for node in graph.nodes if node.name != last.name]
        body = Model(Network(Graph(graph.inputs, nodes, [before]), net.store), backend=net._backend)
    return _Cut(body, weights, last.options["units"], "packed" in net.backends)


def _plain_product(node: Node, graph: Graph) -> bool:
    value = graph.values[node.inputs[0]] if node.inputs else None
    return (
        node.op == "dense" and node.options["activation"] == "linear" and value is not None and len(value.features) == 1
    )


def _in_core(weights: Weights, rows: Float32, k: int) -> tuple[Float32, np.ndarray]:
    from .backends import _packed
    from .backends.packed import packed_dense, packing

    with packing:
        matrix = packed_dense(weights)
    return _packed.top_of_product(matrix, rows, k)


def _in_blocks(weights: Weights, rows: Float32, k: int) -> tuple[Float32, np.ndarray]:
    """By numpy in float64, a block of outputs at a time."""
    held = weights.arrays()
    weight, bias = held["weight"], held.get("bias")
    best, items = np.zeros((len(rows), 0)), np.zeros((len(rows), 0), np.int64)
    x = rows.astype(np.float64)
    for at in range(0, len(weight), _BLOCK):
        y = x @ weight[at : at + _BLOCK].astype(np.float64).T
        y = y if bias is None else y + bias[at : at + _BLOCK]
        both = np.concatenate([best, y], axis=1)
        names = np.concatenate([items, np.broadcast_to(np.arange(at, at + y.shape[1]), y.shape)], axis=1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :k]
        best, items = np.take_along_axis(both, order, 1), np.take_along_axis(names, order, 1)
    return best.astype(np.float32), items
