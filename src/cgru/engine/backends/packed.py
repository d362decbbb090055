"""The packed backend: networks in C, over weights in the kernels' own order.

A chain of layers goes by a straight line, one call into C from end to end; any other graph by
:mod:`~cgru.engine.backends.packed_graph`. The packed weights replace the arrays: there is no second copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ...arrays import Float32
from ...forks import Lock
from ...layers import Activation, Dense, Embedding, LastStep, Layer, Masking, Recurrent
from ...layers.recurrent import MERGES
from ...spec.activations import CODES
from ...spec.graph import MASK, Graph
from ...weights import Weights
from ..network import Network
from ..state import StateLayout

if TYPE_CHECKING:
    from ..plan import Plan

#: The core's number for each way to merge two directions; a pair is cut from what concatenates them.
_MERGES = {mode: code for code, mode in enumerate(MERGES)} | {None: 0}
#: The layers that the C core has as parts of a chain; with others in it, a list of layers runs as a graph.
_STRAIGHT = (Activation, Dense, Embedding, LastStep, Masking, Recurrent)
packing = Lock()


def unavailable() -> str | None:
    try:
        from . import _packed
    except ImportError as error:
        return f"the C core is not built ({error})"
    _packed.isa_in_use()
    return None


def unsupported(network: Network) -> str | None:
    if _is_straight(network):
        return None
    from . import packed_graph

    return packed_graph.unsupported(network.graph)


def _is_straight(network: Network) -> bool:
    return network.chain and all(isinstance(layer, _STRAIGHT) for layer in network.layers)


def names(network: Network) -> list[str]:
    return ["packed"] * len(network.layers)


def plan(network: Network, graph: Graph, layout: StateLayout) -> Plan:
    if _is_straight(network):
        return StraightLine(network, graph, layout)
    from .packed_graph import PackedRunner

    return PackedRunner(graph, network.store, layout)


def packed(layer: Layer) -> list[Any]:
    """The packed weights of each of the layer's parts, made at first use; the layer then lets go of its arrays."""
    with packing:
        if isinstance(layer, Dense):
            return [packed_dense(part) for part in layer.weights.values()]
        assert isinstance(layer, Recurrent)
        codes = CODES[layer.activation], CODES[layer.recurrent_activation]
        return [
            packed_scan(part, layer.cell.name, *codes, layer.hidden_size, layer.emitted_size)
            for part in layer.weights.values()
        ]


def packed_dense(weights: Weights) -> Any:
    """The packed matrix and bias of a dense layer, made once for all that share them; the caller holds the lock."""
    from . import _packed

    def pack(part: Weights) -> Any:
        held = part.stored()
        return _packed.Matrix(part.precision, held["weight"], cast("Float32 | None", held.get("bias")))

    return weights.packed(pack, ("dense",))


def packed_scan(weights: Weights, cell: str, activation: int, recurrent: int, hidden: int, emitted: int) -> Any:
    """The packed weights of one direction, made once for all that share them; the caller holds the lock."""
    from . import _packed

    form = (cell, activation, recurrent, hidden, emitted)
    return weights.packed(lambda part: _packed.Scan(part.precision, *form, part.stored()), form)


class StraightLine:
    """A chain of layers as one C network; two where a :class:`~cgru.layers.LastStep` stands between, which takes one
    step of what the first gives.
    """

    in_place = True

    def __init__(self, network: Network, graph: Graph, layout: StateLayout) -> None:
        self.graph, layers = graph, network.layers
        (self._input,) = network.inputs
        self._mask = self._input + MASK
        cut = next((i for i, layer in enumerate(layers) if isinstance(layer, LastStep)), None)
        self._cut = cut is not None
        width = network.vocabulary(self._input) or graph.inputs[self._input].size
        self._before, width = _net(layers[:cut], layout, width)
        self._after = _net(layers[cut + 1 :], layout, width)[0] if cut is not None else None
        self._collapses = any(isinstance(layer, Recurrent) and not layer.return_sequences for layer in layers)
        self.core = None if self._cut or network.open_width else self._before

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        state: Float32,
        lengths: np.ndarray | None = None,
        *,
        ended: bool = True,
        threads: int = 1,
        out: Float32 | None = None,
    ) -> dict[str, np.ndarray]:
        """See :meth:`cgru.engine.plan.Plan.run`."""
        x, outputs = inputs[self._input], self.graph.outputs
        if not self._cut:
            y = _through(self._before, x, state, lengths, inputs.get(self._mask), threads, self._collapses, out)
        else:
            if self._before is not None:
                x = _through(self._before, x, state, lengths, inputs.get(self._mask), threads, False, None)
            y = _last_step(x, lengths)
            if self._after is not None:
                y = _through(self._after, y[:, None], state, None, None, threads, False, None)[:, 0]
        if len(outputs) == 1:
            return {outputs[0]: y}
        half = y.shape[-1] // 2
        return {name: np.ascontiguousarray(y[..., i * half : (i + 1) * half]) for i, name in enumerate(outputs)}


def _net(layers: Sequence[Layer], layout: StateLayout, width: int) -> tuple[Any, int]:
    """The C network of consecutive layers, None of none, and the number of features that leave it."""
    from . import _packed

    nodes: list[dict[str, Any]] = []
    for layer in layers:
        nodes += _nodes(layer, layout, width)
        width = nodes[-1]["out"]
    return (_packed.Net(nodes) if nodes else None), width


def _through(
    net: Any,
    x: np.ndarray,
    state: Float32,
    lengths: np.ndarray | None,
    mask: np.ndarray | None,
    threads: int,
    collapses: bool,
    out: Float32 | None,
) -> Float32:
    """x (B, T, F), or ids (B, T), through a C network: (B, T, O), or (B, O) where it gives the last output alone."""
    x = _adjacent(x)
    shape = (x.shape[0], net.outputs) if collapses else (*x.shape[:2], net.outputs)
    if out is None or out.shape != shape or _adjacent(out) is not out or np.may_share_memory(out, x):
        out = np.empty(shape, np.float32)
    net.run(x, out, state, lengths, mask, None, threads)
    return out


def _last_step(x: Float32, lengths: np.ndarray | None) -> Float32:
    """(B, F): the features at each row's last step; zeros for a row without any."""
    batch, steps, features = x.shape
    if not steps:
        return np.zeros((batch, features), np.float32)
    if lengths is None:
        return np.array(x[:, -1], order="C")
    last = x[np.arange(batch), np.maximum(lengths - 1, 0)]
    return np.where((lengths > 0)[:, None], last, np.float32(0))


def _nodes(layer: Layer, layout: StateLayout, width: int) -> list[dict[str, Any]]:
    """What the layer is to the C network; ``width`` is the number of features that come in."""
    node: dict[str, Any] = {"kind": layer.kind, "in": width, "out": layer.output_size}
    if isinstance(layer, Embedding):
        return [node | {"table": layer.stored()["weight"], "precision": layer.precision, "mask_zero": layer.mask_zero}]
    if isinstance(layer, Dense):
        return [node | {"matrix": packed(layer)[0], "activation": CODES[layer.activation]}]
    if isinstance(layer, Activation):
        return [node | {"out": width, "activation": CODES[layer.activation]}]
    if isinstance(layer, Masking):
        return [node | {"out": width, "mask_value": layer.mask_value}]
    assert isinstance(layer, Recurrent)
    weights, blocks = packed(layer), layout.of_layer(layer.name)
    nodes = []
    for k in range(layer.num_layers):
        top = k == layer.num_layers - 1
        scans = [
            (weights[i], scan.reverse or layer.go_backwards, blocks[i].offset, blocks[i].aux)
            for i, scan in enumerate(layer.scans())
            if scan.layer == k
        ]
        nodes.append(
            {
                "kind": "recurrent",
                "in": weights[k * layer.directions].input,
                "out": layer.output_size if top else layer.emitted_size * layer.directions,
                "scans": scans,
                "merge": _MERGES[layer.merge_mode] if top else 0,
                "sequences": layer.return_sequences or not top,
                "repeat": not layer.zero_output_for_mask,
                "flipped": layer.go_backwards,
            }
        )
    return nodes


def _adjacent(x: np.ndarray) -> np.ndarray:
    """``x`` itself where features are adjacent and every stride is a whole number of items, else a copy."""
    flags = x.flags
    if flags.aligned and x.dtype.isnative:
        if flags.c_contiguous:
            return x
        features = x.dtype.kind == "f"
        if not any(s % x.itemsize for s in x.strides) and (not features or x.strides[-1] == x.itemsize):
            return x
    return np.array(x, order="C")  # ascontiguousarray would leave unaligned memory as it is
