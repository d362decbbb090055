"""What a neighbour does as well is no node of its own: normalisations go into weights, activations into products.

Batch normalisation is a scale and a shift once it is trained, and a layer without an activation takes both: s (W x + b)
+ t = (s W) x + (s b + t), or W (s x + t) + b = (W s) x + (W t + b). Sums are taken in float64 and rounded once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from .arrays import Float32
from .spec.activations import ACTIVATIONS
from .spec.graph import Node
from .spec.values import Value
from .weights import Store, Weights

#: Layers whose weight has a row for each unit; transposed ones have a column for it.
_ROWS = ("dense", "conv1d", "conv2d", "conv_inner")
_COLUMNS = ("conv_transpose", "conv_transpose_inner")
#: Layers that read nothing but products of their input, and under which name they hold the factors and what is added.
_READS = dict.fromkeys(_ROWS, ("weight", "bias")) | {"scan": ("weight_ih", "bias_ih")}
#: A normalisation before a layer goes into it within these bounds alone: beyond them the layer would sum large numbers
#: that cancel (a mean of so many deviations), or int8 would hold inputs of very different sizes by one scale.
_MEAN, _SPREAD = 8.0, 16.0

Wide = np.ndarray


def absorb(
    nodes: Sequence[Node], outputs: Sequence[str], values: Mapping[str, Value], store: Store
) -> tuple[list[Node], dict[str, Weights]]:
    """The nodes without those that a neighbour takes over, and the weights with what they brought.

    ``scale_shift`` and ``activation`` behind a product that nothing else reads become its own; the product has the
    last one's name then, and keeps its layer. A ``scale_shift`` that is left goes into the layers behind it where
    all of its readers take it: padding, which a normalisation never sees, must not have been shifted. What the network
    gives, what something else reads, and weights that are shared or reduced stay as they are.
    """
    found = _Absorption(nodes, outputs, values, store)
    found.into_products()
    found.into_readers()
    return list(found.nodes.values()), found.store


class _Absorption:
    def __init__(
        self, nodes: Sequence[Node], outputs: Sequence[str], values: Mapping[str, Value], store: Store
    ) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.outputs, self.values, self.store = frozenset(outputs), values, dict(store)
        self.readers = Counter(name for node in nodes for name in set(node.inputs))
        self.users = Counter(node.weights for node in nodes if node.weights)

    def into_products(self) -> None:
        for node in list(self.nodes.values()):
            before = self.nodes.get(node.inputs[0]) if node.op in ("scale_shift", "activation") else None
            if before is None or self.readers[before.name] != 1 or before.name in self.outputs:
                continue
            if before.op not in (*_ROWS, *_COLUMNS) or before.options["activation"] != "linear":
                continue
            made = self._activated(before, node) if node.op == "activation" else self._scaled(before, node)
            if made is not None:
                del self.nodes[before.name]
                self.nodes[node.name] = made._replace(name=node.name)
                self._let_go(node)

    def into_readers(self) -> None:
        readers: dict[str, list[str]] = {}
        for node in self.nodes.values():
            for name in dict.fromkeys(node.inputs):
                readers.setdefault(name, []).append(node.name)
        for norm in reversed(list(self.nodes.values())):
            if norm.op != "scale_shift" or norm.name in self.outputs:
                continue
            reading = readers.get(norm.name, [])
            made = [self._reading(self.nodes[name], norm) for name in reading]
            if not made or None in made:
                continue
            for node, arrays in filter(None, made):
                self._hold(node, arrays)
                self.nodes[node.name] = node._replace(inputs=(norm.inputs[0], *node.inputs[1:]))
            readers[norm.inputs[0]].remove(norm.name)
            readers[norm.inputs[0]] += reading
            del self.nodes[norm.name]
            self._let_go(norm)

    # ---- behind a product -------------------------------------------------------------------------------------

    def _activated(self, node: Node, behind: Node) -> Node | None:
        activation = behind.options["activation"]
        if activation not in ACTIVATIONS or (activation == "softmax" and node.op != "dense"):
            return None
        return node._replace(options={**node.options, "activation": activation})

    def _scaled(self, node: Node, norm: Node) -> Node | None:
        units = len(self.values[node.name].features) - 1 if node.op == "dense" else 0
        if norm.options["axis"] != units or not self._own(node):
            return None
        scale, shift = self._norm(norm)
        held = self.store[node.weights].arrays()
        weight = held["weight"]
        made = {
            "weight": _rounded(_by_unit(scale, node, weight) * weight),
            "bias": _rounded(scale * held["bias"] + shift if "bias" in held else shift),
        }
        if not _finite(made):
            return None
        self._hold(node, made)
        return node

    # ---- before its readers -----------------------------------------------------------------------------------

    def _reading(self, node: Node, norm: Node) -> tuple[Node, dict[str, Float32]] | None:
        """The reader, and its arrays that do what ``norm`` does, or None where it does not take it."""
        if node.op not in _READS or norm.name in node.inputs[1:] or not self._own(node):
            return None
        channels = len(self.values[norm.name].features) - 1 if node.op == "dense" else 0
        scale, shift = self._norm(norm)
        if norm.options["axis"] != channels or (shift.any() and _pads(node)):
            return None
        sizes = np.abs(scale)
        if not sizes.min() * _SPREAD >= sizes.max() or not np.abs(shift).max() <= _MEAN:
            return None
        name, added = _READS[node.op]
        held = self.store[node.weights].arrays()
        weight = held[name].astype(np.float64)
        groups = node.options.get("groups", 1)
        split = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)  # (G, O / G, C / G, window)
        moved = np.einsum("gocw,gc->go", split, shift.reshape(groups, -1)).reshape(-1)
        made = {
            name: _rounded((split * scale.reshape(groups, 1, -1, 1)).reshape(weight.shape)),
            added: _rounded(held[added] + moved if added in held else moved),
        }
        return (node, made) if _finite(made) else None

    # ---- weights ----------------------------------------------------------------------------------------------

    def _own(self, node: Node) -> bool:
        return self.users[node.weights] == 1 and self.store[node.weights].precision == "float32"

    def _norm(self, norm: Node) -> tuple[Wide, Wide]:
        held = self.store[norm.weights].arrays()
        return held["scale"].astype(np.float64), held["shift"].astype(np.float64)

    def _hold(self, node: Node, arrays: Mapping[str, Float32]) -> None:
        before = self.store[node.weights]
        self.store[node.weights] = Weights({**before.arrays(), **arrays}, before.matrices)

    def _let_go(self, node: Node) -> None:
        """The weights of a node that is gone, unless another has them too."""
        if node.weights:
            self.users[node.weights] -= 1
            if not self.users[node.weights]:
                del self.store[node.weights]


def _by_unit(scale: Wide, node: Node, weight: Float32) -> Wide:
    """``scale`` (O,), broadcasting over a weight (O, …), or over one (C, O / groups, …)."""
    if node.op in _ROWS:
        return scale.reshape(-1, *[1] * (weight.ndim - 1))
    groups = node.options["groups"]
    each = np.repeat(scale.reshape(groups, -1), weight.shape[0] // groups, axis=0)
    return each.reshape(*each.shape, *[1] * (weight.ndim - 2))


def _pads(node: Node) -> bool:
    options = node.options
    return any((options.get("left", 0), options.get("right", 0), *options.get("pads", ())))


def _rounded(array: Wide) -> Float32:
    with np.errstate(over="ignore", invalid="ignore"):
        made = np.ascontiguousarray(array, np.float32)
    made.flags.writeable = False
    return made


def _finite(arrays: Mapping[str, Float32]) -> bool:
    """A sum beyond float32 stays two, which may each be within it."""
    return all(np.isfinite(array).all() for array in arrays.values())
